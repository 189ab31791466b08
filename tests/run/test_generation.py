"""Generation: bit for bit transformers' own without interventions, and under them what single passes would give."""

from __future__ import annotations

import functools

import bounds
import pytest
import torch
from tiny import FAMILIES, IMAGE, batched, rounding, unequal, wrapped
from tiny import bare as bare_model

import lostattn as la
from lostattn.errors import InputError
from lostattn.reductions import update_metrics

NEW = 5


@functools.cache
def prompt_of(family):
    inputs = batched(family, unequal(family))
    return wrapped(family).prompt(inputs=inputs), inputs


def theirs(family, **keywords):
    return bare_model(family).generate(
        **prompt_of(family)[1], **{"do_sample": False, "max_new_tokens": NEW, **keywords}
    )


@functools.cache
def untouched(family):
    return wrapped(family).generate(prompt_of(family)[0], max_new_tokens=NEW)


@pytest.mark.parametrize("family", FAMILIES)
def test_without_interventions_it_is_transformers_own(family):
    mine = untouched(family)
    n = prompt_of(family)[1]["input_ids"].shape[1]
    assert torch.equal(mine.sequences, theirs(family))
    assert torch.equal(mine.tokens, mine.sequences[:, n:])
    assert mine.tokens.shape == (3, NEW) and mine.tokens.unique().numel() > 5
    assert mine.text == ("", "", "") and repr(mine) == "Generation of 3: ['', '', '']"  # no tokenizer to read it with


@pytest.mark.parametrize("family", FAMILIES)
def test_an_intervention_that_changes_nothing_changes_nothing(family):
    """Through the walker at every step, still bit for bit."""
    nothing = la.ScaleAttention(1.0, queries="all", keys="all") + la.Composition(())
    mine = wrapped(family).generate(prompt_of(family)[0], interventions=nothing, max_new_tokens=NEW)
    assert torch.equal(mine.sequences, theirs(family))


@pytest.mark.parametrize("family", FAMILIES)
def test_settings_of_transformers_are_passed_on(family):
    mine_of = functools.partial(wrapped(family).generate, prompt_of(family)[0])
    torch.manual_seed(3)
    sampled = mine_of(max_new_tokens=4, do_sample=True, temperature=2.0)
    torch.manual_seed(3)
    assert torch.equal(sampled.sequences, theirs(family, max_new_tokens=4, do_sample=True, temperature=2.0))
    # An end that one item reaches at once, and another not.
    end = int(untouched(family).tokens[0, 0])
    mine = mine_of(max_new_tokens=NEW, eos_token_id=end, interventions=la.ScaleAttention(1.0))
    assert torch.equal(mine.sequences, theirs(family, eos_token_id=end))
    assert (mine.tokens[0, 1:] == 0).all()
    assert torch.equal(
        mine_of(max_new_tokens=1, interventions=la.ScaleAttention(1.0)).tokens[:, 0], mine_of().tokens[:, 0]
    )


@pytest.mark.parametrize("family", FAMILIES)
def test_a_batch_generates_what_its_items_do_alone(family):
    model = wrapped(family)
    alone = [
        model.generate(model.prompt(inputs=single), max_new_tokens=NEW).tokens[0].tolist() for single in unequal(family)
    ]
    assert untouched(family).tokens.tolist() == alone


def one_by_one(family, under, first, end):
    """Greedy generation as a loop of single forward passes without any cache.

    What the generation does to a row when it is made is done to it in every pass: ``under(rows)`` is the edit of
    the rows from ``first`` to before ``end``, counted from the first generated one.
    """
    model, (prompt, inputs) = wrapped(family), prompt_of(family)
    inputs = dict(inputs)
    for _ in range(NEW):
        rows = torch.zeros(inputs["input_ids"].shape[1], dtype=torch.bool)
        rows[max(prompt.n_pos + first, 0) : None if end is None else prompt.n_pos + end] = True
        edit = under(rows) if rows.any() else None
        logits, _ = model.run_with_cache(model.prompt(inputs=inputs), "hook_unembed", edit)
        token = logits[:, -1].argmax(-1, keepdim=True)
        inputs["input_ids"] = torch.cat([inputs["input_ids"], token], dim=1)
        inputs["attention_mask"] = torch.cat([inputs["attention_mask"], torch.ones_like(token)], dim=1)
        if family == "qwen":
            inputs["mm_token_type_ids"] = (inputs["input_ids"] == IMAGE["qwen"]).int()
    return inputs["input_ids"]


EVER = (-10_000, None)
LAST = (-1, None)  # the row that is last in its pass: of the prompt, and then each generated one


def ablated(steps, first, end):
    return (
        la.Ablate("mlp", layers=[1], steps=steps),
        lambda rows: la.Ablate("mlp", layers=[1], positions=rows),
        first,
        end,
    )


# The edit in the generation; the same in a single pass, of some rows; which rows.
CASES = {
    "replaced": (
        la.ReplaceAttention(la.Uniform()),
        lambda rows: la.ReplaceAttention(la.Uniform(), queries=rows),
        *LAST,
    ),
    "scaled for all rows": (
        la.ScaleAttention(0.25, queries="all", keys="image", heads=[0, 3]),
        lambda rows: la.ScaleAttention(0.25, queries="all", keys="image", heads=[0, 3]),
        *EVER,
    ),
    "knocked out": (
        la.KnockOut("last", "image", layers=[1, 2]),
        lambda rows: la.KnockOut(rows, "image", layers=[1, 2]),
        *LAST,
    ),
    "head ablated": (la.Ablate("head", heads=[2]), lambda rows: la.Ablate("head", heads=[2]), *EVER),
    "several": (
        la.Ablate("attn", layers=[0]) + la.ReplaceAttention(la.Uniform(), layers=[2]),
        lambda rows: la.Ablate("attn", layers=[0]) + la.ReplaceAttention(la.Uniform(), queries=rows, layers=[2]),
        *LAST,
    ),
    "noise weights": (
        la.NoiseWeights("qkv", layers=[1], seed=5),
        lambda rows: la.NoiseWeights("qkv", layers=[1], seed=5),
        *EVER,
    ),
    "at every step": ablated("all", *EVER),
    "at the prefill": ablated("prefill", -10_000, 0),
    "at decoding": ablated("decode", 0, None),
    "from the second step on": ablated((2, None), 1, None),
    "at the first step": ablated((1, 2), 0, 1),
}


@pytest.mark.slow
@pytest.mark.parametrize("case", CASES)
@pytest.mark.parametrize("family", FAMILIES)
def test_under_interventions_it_is_a_loop_of_single_passes(family, case):
    edit, under, first, end = CASES[case]
    mine = wrapped(family).generate(prompt_of(family)[0], interventions=edit, max_new_tokens=NEW)
    assert torch.equal(mine.sequences, one_by_one(family, under, first, end))
    assert not torch.equal(mine.sequences, untouched(family).sequences)


def test_a_single_pass_is_the_prefill():
    model, (prompt, _) = wrapped("qwen"), prompt_of("qwen")
    before = model.forward(prompt)

    def under(steps):
        return model.run_with_cache(prompt, "hook_unembed", la.Ablate("mlp", layers=[1], steps=steps))[0]

    assert torch.equal(under("prefill"), under("all"))
    assert not torch.equal(under("prefill"), before)


@pytest.mark.parametrize(
    ("edit", "steps_with_kernels"),
    [
        (la.ReplaceAttention(la.Uniform()), 0),
        (la.ReplaceAttention(la.Uniform(), heads=[0]), NEW - 1),  # the other heads keep the kernel's own values
        (la.ScaleAttention(1.0, queries="all", keys="all"), NEW - 1),
        (la.Ablate("mlp"), NEW - 1),
    ],
)
def test_a_kernel_is_left_out_where_nothing_of_what_it_makes_would_stay(monkeypatch, edit, steps_with_kernels):
    model, (prompt, _) = wrapped("llava"), prompt_of("llava")
    rows = []
    kernel = torch.nn.functional.scaled_dot_product_attention

    def counted(query, *arguments, **keywords):
        rows.append(query.shape[-2])
        return kernel(query, *arguments, **keywords)

    monkeypatch.setattr(torch.nn.functional, "scaled_dot_product_attention", counted)
    model.generate(prompt, edit, max_new_tokens=NEW, eos_token_id=None)
    assert rows.count(1) == steps_with_kernels * model.cfg.n_layers
    assert rows.count(prompt.n_pos) == model.cfg.n_layers


def test_steps_differ_from_each_other():
    """The first token is the prefill's; only what acts there can change it."""
    model, (prompt, _) = wrapped("llava"), prompt_of("llava")
    edits = {s: la.Ablate("attn", steps=s) for s in ("prefill", "decode", "all")}
    tokens = {s: model.generate(prompt, interventions=e, max_new_tokens=NEW).tokens for s, e in edits.items()}
    plain = untouched("llava").tokens
    assert torch.equal(tokens["decode"][:, 0], plain[:, 0]) and not torch.equal(tokens["decode"], plain)
    assert torch.equal(tokens["prefill"][:, 0], tokens["all"][:, 0])
    assert not torch.equal(tokens["prefill"][:, 0], plain[:, 0])


@pytest.mark.parametrize(
    ("keywords", "message"),
    [
        ({"max_new_tokens": 0}, "max_new_tokens is 0; expected a whole number from 1"),
        ({"max_new_tokens": -3}, "max_new_tokens is -3"),
    ],
)
def test_what_is_refused(keywords, message):
    with pytest.raises(InputError, match=message):
        wrapped("qwen").generate(prompt_of("qwen")[0], **keywords)


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: la.Ablate("mlp", layers=[7]), "layer 7 is out of range: the model has 3 layers"),
        (lambda: la.Ablate("head", heads=[-9]), "head -9 is out of range: the model has 6 heads"),
    ],
)
def test_bad_interventions_are_refused_before_anything_runs(make, message):
    with pytest.raises(InputError, match=message):
        wrapped("qwen").generate(prompt_of("qwen")[0], interventions=make())


def test_a_trained_model_answers_in_text(tiny_model, shapes_questions):
    questions = [shapes_questions[i] for i in range(6)]
    together = tiny_model.generate(tiny_model.prompt(questions), max_new_tokens=4)
    alone = [tiny_model.generate(tiny_model.prompt(q), max_new_tokens=4).text[0] for q in questions]
    assert list(together.text) == alone
    assert repr(together) == f"Generation of 6: {alone!r}"
    assert all(alone)
    decoded = tiny_model.processor.tokenizer.batch_decode(together.tokens, skip_special_tokens=True)
    assert [d.strip() for d in decoded] == alone


def test_an_edit_that_a_single_pass_never_reaches_is_refused(tiny_llava, shapes_questions):
    prompt = tiny_llava.prompt(shapes_questions[0])
    late = la.KnockOut("last", "image", steps="decode")
    for run in (tiny_llava.run_with_cache, tiny_llava.run_with_hooks, tiny_llava.measure):
        numbers = {"metrics": update_metrics(tiny_llava, prompt, [1])} if run == tiny_llava.measure else {}
        arguments = {"interventions": late} | numbers
        with pytest.raises(InputError, match="act at decoding steps alone, and a single pass has none"):
            run(prompt, **arguments)
    assert tiny_llava.generate(prompt, late, max_new_tokens=2).tokens.shape[1] == 2


def test_a_cache_of_fixed_length_gives_what_the_growing_one_gives(tiny_llava, shapes_questions):
    prompt = tiny_llava.prompt(shapes_questions[:2])
    edit = la.ReplaceAttention(la.Fixed(torch.arange(1.0, 37.0)), keys="image") + la.KnockOut("last", "question")
    grown = tiny_llava.generate(prompt, edit, max_new_tokens=3)
    fixed = tiny_llava.generate(prompt, edit, max_new_tokens=3, cache_implementation="static")
    assert torch.equal(grown.tokens, fixed.tokens)


def test_a_cache_that_rounds_is_refused_under_interventions(tiny_llava, shapes_questions):
    prompt = tiny_llava.prompt(shapes_questions[0])
    with pytest.raises(InputError, match=r"cache_implementation is 'quantized'; .*'dynamic'.*'static'"):
        tiny_llava.generate(prompt, la.KnockOut("last", "image"), max_new_tokens=2, cache_implementation="quantized")


@pytest.mark.parametrize("kernel", ["sdpa", "eager"])
@pytest.mark.parametrize("family", FAMILIES)
def test_every_kept_row_is_that_of_one_pass_over_all_tokens(family, kernel):
    """Under both kinds of mask (boolean and additive), and with several query heads on one key."""
    model, inputs = wrapped(family, kernel), dict(prompt_of(family)[1])
    edit = la.Ablate("mlp", layers=[0]) + la.ScaleAttention(0.5, queries="all", keys="all", layers=[1])
    found = model.generate(model.prompt(inputs=inputs), edit, max_new_tokens=NEW, names_filter=lambda name: True)
    fed = found.sequences[:, :-1]
    longer = torch.ones(len(fed), NEW - 1, dtype=torch.long)
    inputs["attention_mask"] = torch.cat([inputs["attention_mask"], longer], 1)
    inputs |= {"mm_token_type_ids": (fed == IMAGE["qwen"]).int()} if family == "qwen" else {}
    again = model.prompt(inputs={**inputs, "input_ids": fed})
    _, single = model.run_with_cache(again, interventions=edit)
    real = again.token_map.real
    for name in model.hook_names:
        mine, one = found.cache[name], single[name]
        if name.endswith(("hook_pattern", "hook_attn_scores")) and not name.startswith("vision"):
            mine, one = mine.transpose(1, 2), one.transpose(1, 2)
        mine, one = (mine, one) if name.startswith("vision") else (mine[real], one[real])
        bounds.close(mine, one, rounding(family), size=single[bounds.sized_by(name)], of=name)


def test_rows_of_a_sliding_window_stand_where_they_belong():
    """A layer with a window hands its kernel the last keys alone, and its scores are capped."""
    from transformers import Gemma3Config, Gemma3ForConditionalGeneration

    text = {"vocab_size": 120, "hidden_size": 24, "intermediate_size": 32, "num_hidden_layers": 2, "head_dim": 6}
    text |= {"num_attention_heads": 4, "num_key_value_heads": 2, "max_position_embeddings": 64}
    text |= {"sliding_window": 5, "layer_types": ["sliding_attention", "full_attention"], "attn_logit_softcapping": 4.0}
    vision = {"hidden_size": 12, "intermediate_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2}
    vision |= {"image_size": 16, "patch_size": 8}
    tokens = {"mm_tokens_per_image": 1, "image_token_index": 110, "boi_token_index": 111, "eoi_token_index": 112}
    hf = Gemma3ForConditionalGeneration._from_config(Gemma3Config(text_config=text, vision_config=vision, **tokens))
    generator = torch.Generator().manual_seed(0)
    for parameter in hf.parameters():
        parameter.data.normal_(0, 0.5, generator=generator)
    model = la.load(hf.eval(), selftest=False)
    ids = torch.tensor([[2, 111, 110, 112, 7, 8, 9, 10, 11]])
    pixels = torch.randn(1, 3, 16, 16, generator=generator)
    inputs = {"input_ids": ids, "attention_mask": torch.ones_like(ids), "pixel_values": pixels}
    prompt = model.prompt(inputs={**inputs, "token_type_ids": (ids == 110).long()})
    found = model.generate(prompt, max_new_tokens=4, names_filter=lambda name: not name.startswith("vision"))
    _, single = model.run_with_cache(found.cache.prompt)
    share = bounds.passes(hf, prompt.inputs)
    for name in found.cache:
        bounds.close(found.cache[name], single[name], share, size=single[bounds.sized_by(name)], of=name)
    assert (found.cache["pattern", 0][0, :, 11] > 0).nonzero()[:, 1].unique().tolist() == [7, 8, 9, 10, 11]
