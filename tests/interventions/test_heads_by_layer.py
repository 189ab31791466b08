"""Heads that each layer has of its own, ``{layer: heads}``: the same as one intervention a layer, and by hand."""

from __future__ import annotations

import bounds
import edit_reference as reference
import pytest
import torch

import lostattn as la
from lostattn import means, patching, pools
from lostattn.errors import InputError

HEADS = {1: [0], 3: [2, 5], 4: None}
MADE = {
    "ablate": lambda **k: la.Ablate("head", **k),
    "resample": lambda **k: la.Ablate("head", to="resample", seed=5, **k),
    "replace": lambda **k: la.ReplaceAttention(la.Uniform(), **k),
    "released": lambda **k: la.Released(seed=2, **k),
    "knock out": lambda **k: la.KnockOut("last", "image", **k),
    "scale": lambda **k: la.ScaleAttention(0.25, **k),
}


@pytest.mark.parametrize("kind", MADE)
def test_it_is_one_intervention_a_layer(pair, kind) -> None:
    """Bit for bit, at a pass and at every step of a generation; through JSON; with a record of where it acted."""
    edit = MADE[kind](heads=HEADS)
    parts = [MADE[kind](layers=layer, heads=heads) for layer, heads in HEADS.items()]
    joined = parts[0] + parts[1] + parts[2]
    assert edit.layers == (1, 3, 4) and edit == MADE[kind](layers=[4, 1, 3], heads=HEADS)
    assert la.Intervention.from_json(edit.to_json()) == edit
    logits, cache = pair.model.run_with_cache(pair.batch, ["hook_unembed"], edit)
    expected, theirs = pair.model.run_with_cache(pair.batch, ["hook_unembed"], joined)
    assert logits.equal(expected)
    assert sum(cache.touched.cells.values()) == sum(theirs.touched.cells.values()) > 0
    assert {point for _, point in cache.touched.edits} == {point for _, point in theirs.touched.edits}


def test_heads_are_taken_away_as_by_hand(pair) -> None:
    """Against zeros put into the inputs of the bare model's output maps."""
    d_head = pair.model.cfg.d_head
    handles = []
    for layer, heads in HEADS.items():
        module, _ = reference.module_of(pair.hf, layer, "head")
        own = range(pair.model.cfg.n_heads) if heads is None else heads

        def taken(module, args, own=tuple(own)):
            value = args[0].clone()
            for head in own:
                value[..., head * d_head : (head + 1) * d_head] = 0
            return (value,)

        handles.append(module.register_forward_pre_hook(taken))
    try:
        expected = reference.logits(pair.hf, pair.prompt)
    finally:
        for handle in handles:
            handle.remove()
    logits = pair.model.run_with_hooks(pair.prompt, interventions=la.Ablate("head", heads=HEADS))
    bounds.close(logits, expected, pair.share)
    assert bounds.moved(expected, pair.model(pair.prompt), pair.share)


def test_a_generation_has_them_at_every_step(llava) -> None:
    edit = la.KnockOut("last", "image", heads={1: [0, 3], -1: [7]})
    joined = la.KnockOut("last", "image", layers=1, heads=[0, 3]) + la.KnockOut("last", "image", layers=5, heads=7)
    tokens = torch.tensor([[5, 6, 7]])
    found, expected = (reference.generated(llava.model, llava.prompt, one, tokens) for one in (edit, joined))
    assert found.equal(expected)


def test_patches_and_sweeps_take_them(tiny_llava, shapes_questions) -> None:
    model = tiny_llava
    clean, spoilt = (model.prompt(q) for q in patching_pair(shapes_questions))
    _, cache = model.run_with_cache(clean)
    heads = {1: [0], 3: [2, 5]}
    edit = la.Patch.of(cache, "z", heads=heads, positions="last")
    parts = [la.Patch.of(cache, "z", layers=i, heads=own, positions="last") for i, own in heads.items()]
    assert set(edit.values) == {"blocks.1.attn.hook_z", "blocks.3.attn.hook_z"}
    assert la.Intervention.from_json(edit.to_json()) == edit
    expected = model.run_with_hooks(spoilt, interventions=parts[0] + parts[1])
    assert model.run_with_hooks(spoilt, interventions=edit).equal(expected)
    metric = la.answers.metric(model, clean, "log_probability", right="red")
    for table in (patching.sweep, patching.attribute):
        rows = table(model, clean, spoilt, metric, "z", positions=["last"], heads=heads)
        assert list(zip(rows["layer"], rows["head"], strict=True)) == [(1, 0), (3, 2), (3, 5)]
        single = table(model, clean, spoilt, metric, "z", layers=[3], positions=["last"], heads=[5])
        size = model(clean).abs().max()
        bounds.close(rows["effect"][2], single["effect"][0], bounds.passes(model.hf, clean.inputs), size=size)
    with pytest.raises(InputError, match="heads= names layer 4, and what is edited is of the layers"):
        patching.sweep(model, clean, spoilt, metric, "blocks.3.attn.hook_z", positions=["last"], heads={3: [0], 4: [1]})
    with pytest.raises(InputError, match="expected 'each', None, or some of 0 to 7"):
        patching.sweep(model, clean, spoilt, metric, "z", positions=["last"], heads={1: [8]})


def patching_pair(questions):
    one = questions.only("colour")[0]
    return one, patching.corrupt(one, "noise", seed=0)


def test_means_and_pools_take_them(tiny_llava, shapes_questions) -> None:
    questions, heads = shapes_questions[:3], {1: [0], 3: [2, 5]}
    for found in (
        means.collect_means(tiny_llava, questions, "z", layers=[1, 3]),
        pools.collect_pool(tiny_llava, questions, "z", layers=[1, 3]),
    ):
        assert [part.heads for part in found.ablate("head", [1, 3], heads).parts] == [(0,), (2, 5)]
        with pytest.raises(InputError, match="leave layers= out"):
            found.ablate("head", [1], heads)


REFUSED = [
    ({"layers": [1, 3, 5], "heads": {1: [0], 3: [2]}}, r"layers is \[1, 3, 5\], and heads= names the layers \[1, 3\]"),
    ({"layers": [1], "heads": {1: [0], 3: [2]}}, "leave layers= out"),
    ({"heads": {}}, "heads is {}; expected {layer: heads}"),
    ({"heads": {"1": [0]}}, "expected {layer: heads}"),
    ({"heads": {True: [0]}}, "expected {layer: heads}"),
    ({"heads": {1: []}}, r"heads\[1\] is \[\]; expected an int, or one or more of them"),
    ({"heads": {1: "all"}}, r"heads\[1\] is 'all'; expected an int"),
    ({"heads": {1: {2: 3}}}, r"heads\[1\] is {2: 3}; expected an int"),
    ({"layers": {1: [0]}}, r"layers is {1: \[0\]}; expected an int"),
]


@pytest.mark.parametrize(("given", "why"), REFUSED)
def test_what_cannot_be_meant_is_refused_when_it_is_given(untyped, given, why) -> None:
    for make in MADE.values():
        with pytest.raises(InputError, match=why):
            make(**given)


def test_what_the_model_lacks_is_refused_before_the_pass(tiny_llava, shapes_questions) -> None:
    prompt = tiny_llava.prompt(shapes_questions[0])
    for heads, why in (
        ({6: [0]}, "layer 6 is out of range: the model has 6 layers"),
        ({1: [0], 3: [8]}, "head 8 is out of range: the model has 8 heads"),
        ({5: [0], -1: [1]}, "which names layer 5 twice, from the front and from the end"),
    ):
        for make in MADE.values():
            with pytest.raises(InputError, match=why):
                tiny_llava.run_with_hooks(prompt, interventions=make(heads=heads))
    with pytest.raises(InputError, match="heads= goes with Ablate"):
        la.Ablate("mlp", heads={1: [0]})
