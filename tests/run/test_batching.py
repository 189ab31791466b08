"""Batches of unequal lengths, padded on the left, give what their items give one by one."""

from __future__ import annotations

import functools

import bounds
import pytest
from tiny import FAMILIES, batched, rounding, unequal, wrapped

import lostattn as la


@functools.cache
def runs(family, edited=False):
    """``(prompt, logits, cache)`` of the batch, and of each item alone."""
    model = wrapped(family)
    singles = unequal(family)
    together = model.prompt(inputs=batched(family, singles))
    alone = [model.prompt(inputs=single) for single in singles]
    edit = None
    if edited:
        edit = la.ReplaceAttention(la.Uniform(), queries="all") + la.KnockOut("last", slice(1, 3), layers=[1])
        edit = edit + la.Ablate("mlp", layers=[0], to="mean") + la.Ablate("head", heads=[1], positions=slice(0, 5))
    return (
        (together, *model.run_with_cache(together, interventions=edit)),
        [(one, *model.run_with_cache(one, interventions=edit)) for one in alone],
    )


def in_the_decoder(family):
    return [name for name in wrapped(family).hook_names if not name.startswith("vision")]


@pytest.mark.parametrize("edited", [False, True])
@pytest.mark.parametrize("family", FAMILIES)
def test_logits_at_real_positions(family, edited):
    (together, logits, _), alone = runs(family, edited)
    lengths = together.token_map["all"].sum(-1).tolist()
    assert len(set(lengths)) == 3 and max(lengths) == together.n_pos
    for i, (one, own, _) in enumerate(alone):
        assert one.n_pos == lengths[i]
        bounds.close(logits[i, -one.n_pos :], own[0], rounding(family))


@pytest.mark.parametrize("edited", [False, True])
@pytest.mark.parametrize("family", FAMILIES)
def test_cached_values_at_real_positions(family, edited):
    """Every hook point of the decoder; rotated queries and keys too, since padding is not counted as positions."""
    (_, _, cache), alone = runs(family, edited)
    names = in_the_decoder(family)
    assert len(names) > 70
    for name in names:
        for i, (one, _, own) in enumerate(alone):
            value, expected = cache[name][i], own[name][0]
            if name.endswith(("hook_pattern", "hook_attn_scores")):
                value = value[:, -one.n_pos :, -one.n_pos :]
            else:
                value = value[-one.n_pos :]
            bounds.close(value, expected, rounding(family), size=own[bounds.sized_by(name)], of=f"{name} of item {i}")


@pytest.mark.parametrize("family", FAMILIES)
def test_nothing_looks_at_padding(family):
    (together, _, cache), _ = runs(family)
    real = together.token_map["all"]
    for i in range(wrapped(family).cfg.n_layers):
        pattern = cache["pattern", i]
        on_padding = pattern * (~real)[:, None, None, :]
        assert (on_padding.transpose(1, 2)[real] == 0).all()


@pytest.mark.parametrize("edited", [False, True])
def test_cached_values_of_clip(edited):
    (_, _, cache), alone = runs("llava", edited)
    names = [name for name in wrapped("llava").hook_names if name.startswith("vision")]
    assert len(names) > 60
    for name in names:
        for i, (_, _, own) in enumerate(alone):
            size = own[bounds.sized_by(name)]
            bounds.close(cache[name][i], own[name][0], rounding("llava"), size=size, of=f"{name} of item {i}")


def test_cached_values_of_a_tower_that_packs_its_pictures():
    """Pictures of several sizes stand end to end: 24, 80 and 24 patches; their patterns are blocks of one matrix."""
    (_, _, cache), alone = runs("qwen")
    starts, merged = [0, 24, 104, 128], [0, 6, 26, 32]
    names = [name for name in wrapped("qwen").hook_names if name.startswith("vision")]
    assert len(names) > 80
    for name in names:
        ends = merged if cache[name].shape[0] == 32 else starts
        for i, (_, _, own) in enumerate(alone):
            cut = slice(ends[i], ends[i + 1])
            value = cache[name]
            value = value[:, :, cut, cut] if name.endswith(("hook_pattern", "hook_attn_scores")) else value
            if not name.endswith(("hook_pattern", "hook_attn_scores")):
                value = value[:, cut] if value.shape[0] == 1 else value[cut]
            size = own[bounds.sized_by(name)]
            bounds.close(value, own[name], rounding("qwen"), size=size, of=f"{name} of item {i}")


@pytest.mark.parametrize("family", FAMILIES)
def test_random_interventions_do_not_depend_on_batch_mates(family):
    model = wrapped(family)
    singles = unequal(family)
    together = model.prompt(inputs=batched(family, singles))
    edit = la.ReplaceAttention(la.Gaussian(seed=3)) + la.NoiseUpdate("mlp", layers=[1], seed=4)
    edit = edit + la.Ablate("attn", layers=[0], to="resample", seed=5)
    logits = model.run_with_cache(together, "hook_unembed", edit)[0]
    before = model.forward(together)
    for i in range(3):
        own = model.run_with_cache(together[i], "hook_unembed", edit)[0]
        bounds.close(logits[i, -1], own[0, -1], rounding(family), size=own)
        assert bounds.moved(own[0, -1], before[i, -1], rounding(family), times=1e3)


def test_trained_models_answer_a_batch_as_they_answer_alone(tiny_model, shapes_questions):
    """Real prompts of unequal lengths, one of two pictures among them."""
    questions = [q for q in shapes_questions if q.kind in ("comparison", "choice", "colour")][:5]
    assert {len(q.images) for q in questions} == {1, 2}
    together = tiny_model.prompt(questions)
    names = ["pattern3", "blocks.3.attn.hook_attn_scores", "blocks.3.hook_resid_mid"]
    logits, cache = tiny_model.run_with_cache(together, names)
    share = bounds.passes(tiny_model.hf, together.inputs)
    for i, question in enumerate(questions):
        one = tiny_model.prompt(question)
        own, own_cache = tiny_model.run_with_cache(one, names)
        n = one.n_pos
        bounds.close(logits[i, -n:], own[0], share)
        pattern, scores = own_cache["pattern", 3], own_cache["attn_scores", 3]
        bounds.close(cache["pattern", 3][i, :, -n:, -n:], pattern[0], share, size=scores)
        bounds.close(cache["resid_mid", 3][i, -n:], own_cache["resid_mid", 3][0], share)
