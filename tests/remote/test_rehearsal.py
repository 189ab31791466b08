"""``remote="local"``: every call goes the whole way of a remote one and gives what it gives here."""

from __future__ import annotations

import sys

import pytest
import torch
from remote_table import GRADIENTS, MANY, STUDIES, TABLE, assert_equal

import lostattn as la
from lostattn.errors import InputError
from lostattn.reductions import update_metrics
from lostattn.remote.rehearsal import absent

pytestmark = pytest.mark.slow


@pytest.mark.parametrize("name", TABLE)
def test_every_call_rehearsed_equals_the_call_here(name, tiny_model, prompt):
    assert_equal(TABLE[name](tiny_model, prompt, False), TABLE[name](tiny_model, prompt, "local"))


@pytest.mark.parametrize("name", STUDIES | GRADIENTS)
def test_every_study_rehearsed_equals_the_study_here(name, tiny_model, prompt):
    study = (STUDIES | GRADIENTS)[name]
    assert_equal(study(tiny_model, prompt, False), study(tiny_model, prompt, "local"))


def test_a_generation_rehearsed_reads_as_text(tiny_model, prompt):
    here = tiny_model.generate(prompt, MANY, max_new_tokens=2)
    assert tiny_model.generate(prompt, MANY, max_new_tokens=2, remote="local").text == here.text


def test_a_session_gives_what_its_calls_give(tiny_model, prompt):
    with la.remote.Session(tiny_model, "local") as session:
        cache = session.run_with_cache(prompt, "pattern1", MANY)
        said = session.generate(prompt, MANY, max_new_tokens=2)
        numbers = session.measure(prompt, update_metrics(tiny_model, prompt))
        logits = session.run_with_hooks(prompt)
    assert_equal(tiny_model.run_with_cache(prompt, "pattern1", MANY), cache.result())
    assert said.result().text == tiny_model.generate(prompt, MANY, max_new_tokens=2).text
    assert_equal(tiny_model.measure(prompt, update_metrics(tiny_model, prompt)), numbers.result())
    assert_equal(tiny_model.forward(prompt), logits.result())


def test_a_session_here_runs_its_calls_at_once(tiny_llava, shapes_questions):
    prompt = tiny_llava.prompt(list(shapes_questions)[:2])
    with la.remote.Session(tiny_llava, False) as session:
        logits = session.run_with_hooks(prompt)
        assert torch.equal(logits.result(), tiny_llava.forward(prompt))


def test_a_hook_does_not_reach_the_callers_objects(tiny_llava, shapes_questions):
    seen = []

    def remembering(value, hook):
        seen.append(hook.name)

    prompt = tiny_llava.prompt(shapes_questions[0])
    tiny_llava.run_with_hooks(prompt, [("hook_embed", remembering)], remote="local")
    assert seen == []
    tiny_llava.run_with_hooks(prompt, [("hook_embed", remembering)])
    assert seen == ["hook_embed"]


def test_a_hook_that_needs_what_the_server_lacks_fails(tiny_llava, shapes_questions):
    def importing(value, hook):
        import lostattn.points.names

        return value if lostattn.points.names else None

    prompt = tiny_llava.prompt(shapes_questions[0])
    with pytest.raises(ModuleNotFoundError, match="where the trace runs"):
        tiny_llava.run_with_hooks(prompt, [("hook_embed", importing)], remote="local")
    assert "lostattn.points.names" in sys.modules


def test_a_rehearsal_leaves_the_callers_classes_alone(tiny_llava, shapes_questions):
    from lostattn.plan.hooks import HookPoint

    before = dict(vars(HookPoint))
    tiny_llava.run_with_hooks(tiny_llava.prompt(shapes_questions[0]), [("hook_embed", lambda x, h: x)], remote="local")
    assert dict(vars(HookPoint)) == before


def test_absent_packages_come_back():
    import jaxtyping

    with absent(["jaxtyping"]):
        with pytest.raises(ModuleNotFoundError):
            import jaxtyping  # noqa: F811
    assert sys.modules["jaxtyping"] is jaxtyping


def test_only_what_was_asked_for_comes_back(tiny_llava, shapes_questions):
    prompt = tiny_llava.prompt(list(shapes_questions)[:2])
    with la.remote.Session(tiny_llava, "local") as little:
        little.measure(prompt, update_metrics(tiny_llava, prompt, [0]))
    with la.remote.Session(tiny_llava, "local") as one:
        one.run_with_cache(prompt, "blocks.0.hook_resid_mid")
    stream = len(prompt) * prompt.n_pos * tiny_llava.cfg.d_model * 4
    logits = len(prompt) * prompt.n_pos * tiny_llava.cfg.d_vocab * 4
    assert little.received < stream
    assert one.received < stream + logits + 10_000


@pytest.mark.parametrize("remote", ["ndif", "ftp://host"])
def test_what_is_no_way_of_running_is_refused(remote, tiny_llava, shapes_questions):
    with pytest.raises(InputError, match=r'remote is .* expected False \(here\), True \(NDIF\), "local"'):
        la.remote.Session(tiny_llava, remote)


def test_a_result_is_refused_while_the_session_is_open(tiny_llava, shapes_questions):
    with la.remote.Session(tiny_llava, "local") as session:
        later = session.run_with_hooks(tiny_llava.prompt(shapes_questions[0]))
        with pytest.raises(InputError, match="still open"):
            later.result()


def test_a_closed_session_takes_no_more_calls(tiny_llava, shapes_questions):
    prompt = tiny_llava.prompt(shapes_questions[0])
    with la.remote.Session(tiny_llava, "local") as session:
        session.run_with_hooks(prompt)
    with pytest.raises(InputError, match="closed"):
        session.run_with_hooks(prompt)


def test_an_exception_inside_a_session_sends_nothing(tiny_llava, shapes_questions):
    with pytest.raises(RuntimeError, match="mine"), la.remote.Session(tiny_llava, "local") as session:
        session.run_with_hooks(tiny_llava.prompt(shapes_questions[0]))
        raise RuntimeError("mine")
    assert session.sent == 0
