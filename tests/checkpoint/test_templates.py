"""Chat templates of checkpoints: what they write is what transformers writes, and what never ends does."""

from __future__ import annotations

import copy
import resource
import shutil

import pytest
from hostile_templates import HOSTILE
from jinja2 import TemplateError
from transformers.utils.chat_template_utils import render_jinja_template

import lostattn as la
from lostattn.checkpoint.templates.budget import TooMuch, budget, current
from lostattn.checkpoint.templates.chat import apply_chat_template
from lostattn.checkpoint.templates.environment import compiled
from lostattn.errors import InputError
from lostattn.zoo.recipe import LLAVA_TEMPLATE, QWEN_TEMPLATE

TURNS = [
    {"role": "system", "content": [{"type": "text", "text": "Be brief."}]},
    {"role": "user", "content": [{"type": "image"}, {"type": "text", "text": "What is <this> & 'that'?"}]},
    {
        "role": "assistant",
        "content": [{"type": "text", "text": " a cat\n"}],
        "tool_calls": [{"name": "f", "n": [1, 2]}],
    },
    {"role": "user", "content": [{"type": "text", "text": "Wörter 🙂"}]},
]
ORDINARY = {
    "llava": LLAVA_TEMPLATE,
    "qwen": QWEN_TEMPLATE,
    "macros": """
        {%- macro say(m, deep) %}{{ m.role|upper }}{% if deep %}{{ say(m, deep - 1) }}{% endif %}{% endmacro %}
        {%- for m in messages %}{{ say(m, 3) ~ loop.index0 }}{{ ',' if not loop.last }}{% endfor %}""",
    "namespaces": """
        {%- set ns = namespace(n=0, seen=[]) %}
        {%- for m in messages %}{% set ns.n = ns.n + m.content|length %}
        {%- set ns.seen = ns.seen + [m.role] %}{% endfor %}
        {{ ns.n }} {{ ns.seen|join('/') }} {{ ns.seen|unique|list }}""",
    "slices": """
        {%- for m in messages[::-1] %}{{ messages[1:][0].role[:2] }}{{ m.content[-1]['text'].strip() }}{% endfor %}""",
    "JSON": "{% for m in messages %}{{ m.tool_calls|tojson(indent=2) if m.tool_calls }}{{ m|tojson }}{% endfor %}",
    "filters": r"""
        {{ messages|selectattr('role', 'equalto', 'user')|map(attribute='role')|list }}
        {{ messages|map(attribute='role')|unique|sort|join(', ') }}{{ messages|length }}{{ (messages|last).role|title }}
        {{ {'b': 1, 'a': [2, 3]}|dictsort }}{{ {'b': 1}.items()|list }}{{ 'a\nb'|indent(4) }}
        {{ 'abc'|replace('b', 'x') }}{{ ' x '|trim }}{{ [3, 1]|sort|first }}{{ 2.567|round(1) }}
        {{ [1, 2, 3]|sum }}{{ 'x'|center(5) }}
        {{ none|default('d') }}{{ messages|groupby('role')|length }}{{ [1, 2, 3]|batch(2)|list }}
        {{ 'a b'|wordcount }}""",
    "formats": """
        {{ '%s-%05.1f' % ('a', 2.25) }}{{ '{:>6}|{x}'.format('ab', x=3) }}{{ '%d%%'|format(7) }}{{ 'ab' * 3 }}
        {{ 7 // 2 }}{{ 2 ** 10 }}{{ 7 % 3 }}{{ 'a,b'.split(',') }}{{ 'x'.join(['1', '2']) }}{{ 'Ab'.lower() }}""",
    "conditions": """
        {%- for m in messages if m.role != 'system' %}{% if m.content is string %}s
        {%- elif m.content is iterable and m.content is not mapping %}i{% endif %}{{ m.tool_calls is defined }}
        {{ 'tool_calls' in m }}{{ m.x is none }}{% if loop.index > 2 %}{% break %}{% endif %}{% endfor %}""",
    "blocks": """
        {%- macro f() %}{{ caller(2) }}{% endmacro %}
        {%- set x %}{% for m in messages %}{{ loop.cycle('a', 'b') }}{% endfor %}{% endset %}{{ x }}
        {% filter upper %}{{ x }}{% endfilter %}{% call(y) f() %}{{ y }}{% endcall %}""",
    "trees": """
        {%- for x in [[1, [2, 3]], [4]] recursive %}
        {%- if x is number %}{{ x }}{% else %}({{ loop(x) }}){% endif %}{% endfor %}""",
    "the tag": "{% for m in messages %}{% generation %}{{ m.role }}{% endgeneration %}{% endfor %}",
    "missing": "{{ missing }}{{ messages[0].missing }}{{ (messages|first)['x']|default('none') }}{{ {}|length }}",
    "escapes": "{{ '<b>'|e }}{{ '<b>'|safe }}{{ '&' ~ '<'|e }}",
    "numbers": """
        {{ 1 < 2 <= 3 }}{{ 3 in [1, 2, 3] }}{{ (1, 2) == (1, 2) }}{{ {1: 'x'}[1] }}{{ {(1, 2): 'y'}[(1, 2)] }}
        {{ -3|abs }}{{ 10000 * 10000 }}{{ '12'|int + 1 }}""",
}


@pytest.mark.parametrize("name", ORDINARY)
def test_a_template_writes_what_transformers_writes(name):
    for settings in ({}, {"add_generation_prompt": True, "bos_token": "<s>"}):
        (expected,), _ = render_jinja_template([copy.deepcopy(TURNS)], chat_template=ORDINARY[name], **settings)
        with budget(TURNS):
            found = compiled(ORDINARY[name]).render(messages=TURNS, tools=None, documents=None, **settings)
        assert found == expected and found


# How they end: charged too much, refused by the sandbox, or by Python itself.
ENDS = (TemplateError, RecursionError, OverflowError, ZeroDivisionError, TypeError)


@pytest.mark.parametrize("name", HOSTILE)
def test_a_template_that_never_ends_does(name, monkeypatch):
    monkeypatch.setattr("lostattn.checkpoint.templates.budget.STEPS", 2_000)
    monkeypatch.setattr("lostattn.checkpoint.templates.environment.MOST_PARTS", 2_000)
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    with pytest.raises(ENDS), budget(TURNS):
        compiled(HOSTILE[name]).render(messages=TURNS)
    grown = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before
    assert grown < 600 << 10, "kibibytes: what all texts of a rendering may have, and their list"


def test_time_is_bounded_too(monkeypatch):
    monkeypatch.setattr("lostattn.checkpoint.templates.budget.SECONDS", 0.01)
    with pytest.raises(TooMuch, match="takes longer than 0.01 s"), budget(TURNS):
        compiled(HOSTILE["loops"]).render(messages=TURNS)


def test_long_turns_have_room():
    """What a template may make grows with what it is given."""
    turns = [{"role": "user", "content": [{"type": "text", "text": "word " * 400_000}]} for _ in range(3)]
    with budget(turns):
        text = compiled(QWEN_TEMPLATE).render(messages=turns, add_generation_prompt=True)
    assert len(text) > 6_000_000
    many = [{"role": "user" if i % 2 else "assistant", "content": f"turn {i}"} for i in range(500)]
    with budget(many):
        assert compiled(QWEN_TEMPLATE).render(messages=many).count("<|im_start|>") == 501


@pytest.fixture
def processor(tiny_llava):
    return copy.deepcopy(tiny_llava.processor)


@pytest.mark.parametrize("name", ["loops", "a text many times", "a macro that calls itself", "brackets", "globals"])
def test_a_hostile_template_is_a_clear_error(name, processor, monkeypatch):
    monkeypatch.setattr("lostattn.checkpoint.templates.budget.STEPS", 2_000)
    processor.chat_template = HOSTILE[name]
    with pytest.raises(InputError, match="chat template refuses this prompt: .* pass the processor's output"):
        apply_chat_template(processor, TURNS)
    assert current() is None


def test_a_refusal_is_told_without_what_steers_a_terminal(processor):
    processor.chat_template = "{{ raise_exception('\x1b[2Jno ' + 'x' * 5000) }}"
    with pytest.raises(InputError, match=r"this prompt: \[2Jno xxx") as told:
        apply_chat_template(processor, TURNS)
    assert len(str(told.value)) < 1000


def test_a_checkpoint_with_a_hostile_template_is_refused(tiny_llava, shapes_questions, tmp_path, monkeypatch):
    monkeypatch.setattr("lostattn.checkpoint.templates.budget.STEPS", 2_000)
    shutil.copytree(tiny_llava.nn.repo_id, tmp_path, dirs_exist_ok=True)
    (tmp_path / "chat_template.jinja").write_text(HOSTILE["loops over turns"])
    with pytest.raises(InputError, match="chat template refuses this prompt: .*2000 steps"):
        la.load(tmp_path)
    model = la.load(tmp_path, selftest=False)
    with pytest.raises(InputError, match="chat template refuses this prompt"):
        model.prompt(list(shapes_questions)[0])


def test_transformers_itself_stays_as_it_is(processor):
    """Only what this package renders is bounded."""
    processor.chat_template = "{{ 'one two'|wordwrap(3) }}"
    with pytest.raises(InputError, match="No filter named 'wordwrap'"):
        apply_chat_template(processor, TURNS)
    assert processor.apply_chat_template(TURNS) == "one\ntwo"
