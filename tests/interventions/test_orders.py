"""Several edits at one attention, in every order: each equals a softmax written out by hand, in double precision."""

from __future__ import annotations

import functools
import itertools

import bounds
import pytest
import torch
from tiny import FAMILIES, batched, rounding, unequal, wrapped

import lostattn as la

LAYER = 1
KNOCKED, KEPT, PUT, SCALED = [-9, -7, -5], [-8, -7, -6, -5], [-7, -6, -4], [-9, -6, -4]
HEADS = {"knock": (0, 1, 3), "keep": None, "put": (0, 2, 3), "scale": (1, 3)}
ROWS = [-6, -3, -1]  # one of them sees only some of the keys
FIXED_KEPT, FIXED_PUT, MIX, FACTOR = [1.0, 2.0, 0.0, 5.0], [0.3, 0.0, 0.6], 0.75, 0.4

EDITS = {
    "knock": la.KnockOut(ROWS, KNOCKED, layers=LAYER, heads=HEADS["knock"]),
    "keep": la.ReplaceAttention(la.Fixed(FIXED_KEPT), layers=LAYER, queries=ROWS, keys=KEPT),
    "put": la.ReplaceAttention(
        la.Fixed(FIXED_PUT), LAYER, HEADS["put"], queries=ROWS, keys=PUT, keep_mass=False, mix=MIX
    ),
    "scale": la.ScaleAttention(FACTOR, queries=ROWS, keys=SCALED, layers=LAYER, heads=HEADS["scale"]),
}
ORDERS = list(itertools.permutations(EDITS, 3))


@functools.cache
def untouched(family):
    model = wrapped(family)
    n = batched(family, unequal(family))["input_ids"].shape[1]
    prompt = model.prompt(inputs=batched(family, unequal(family)))
    _, cache = model.run_with_cache(prompt)
    return prompt, cache, n


def fixed_for(edit, prompt):
    """Values of one number a key serve every item."""
    source = getattr(edit, "source", None)
    if source is None:
        return edit
    return la.ReplaceAttention(
        la.Fixed(source.values.expand(len(prompt), -1)),
        edit.layers, edit.heads, edit.queries, edit.keys, edit.mix, edit.space, edit.keep_mass,
    )  # fmt: skip


def softmax(scores):
    """Of one row, as a list of weights."""
    largest = max(scores)
    powers = [
        0.0 if s == float("-inf") else torch.tensor(s - largest, dtype=torch.float64).exp().item() for s in scores
    ]
    return [p / sum(powers) for p in powers]


def of_row(order, scores, row, head, n):
    """One row of weights: what is knocked out goes first and stays out, then the others in the order given."""

    def acts(name):
        return HEADS[name] is None or head in HEADS[name]

    out = {n + k for k in KNOCKED} if "knock" in order and acts("knock") else set()
    weights = softmax([float("-inf") if j in out else s for j, s in enumerate(scores)])
    for name in order:
        if name == "knock" or not acts(name):
            continue
        keys = [n + k for k in {"keep": KEPT, "put": PUT, "scale": SCALED}[name]]
        seen = [j for j in keys if j <= row and j not in out]
        if name == "scale":
            for j in seen:
                weights[j] *= FACTOR
            continue
        values = dict(zip(keys, FIXED_KEPT if name == "keep" else FIXED_PUT, strict=True))
        if name == "put":
            for j in seen:
                weights[j] = (1 - MIX) * weights[j] + MIX * values[j]
            continue
        total, mass = sum(values[j] for j in seen), sum(weights[j] for j in seen)
        if total > 0 and len(seen) > 1:
            for j in seen:
                weights[j] = values[j] * mass / total
    return weights


@pytest.mark.parametrize("order", ORDERS, ids="-".join)
@pytest.mark.parametrize("family", FAMILIES)
def test_three_edits_in_every_order_are_a_softmax_by_hand(family, order):
    prompt, before, n = untouched(family)
    edit = sum(fixed_for(EDITS[name], prompt) for name in order)
    _, cache = wrapped(family).run_with_cache(prompt, lambda name: f"blocks.{LAYER}.attn" in name, edit)
    scores, pattern = before["attn_scores", LAYER].double(), cache["pattern", LAYER]
    expected = before["pattern", LAYER].double().clone()
    for b, head, row in itertools.product(range(len(prompt)), range(pattern.shape[1]), ROWS):
        at = n + row
        expected[b, head, at] = torch.tensor(
            of_row(order, scores[b, head, at].tolist(), at, head, n), dtype=torch.float64
        )
    bounds.close(pattern.double(), expected, rounding(family))
    knocked = pattern[:, list(HEADS["knock"])][:, :, ROWS][..., KNOCKED]
    assert "knock" not in order or not knocked.any()
    groups = pattern.shape[1] // cache["v", LAYER].shape[2]
    values = cache["v", LAYER].double().repeat_interleave(groups, 2)
    mixed = torch.einsum("bhqk,bkhd->bqhd", expected, values)
    real = prompt.token_map.real
    bounds.close(cache["z", LAYER].double()[real], mixed[real], rounding(family))
    assert not cache.touched.nowhere and len(cache.touched.cells) == 3


@pytest.mark.parametrize("family", FAMILIES)
def test_nothing_brings_a_knocked_out_key_back(family):
    """Whatever gives weights or scores, before it or after it in the sum, at the prompt's pass and at every step."""
    prompt, before, _ = untouched(family)
    model = wrapped(family)
    out = la.KnockOut("last", "image", layers=LAYER)
    image = prompt.token_map["image"]
    givers = {
        "put": la.ReplaceAttention(la.Uniform(), keep_mass=False, layers=LAYER),
        "kept": la.ReplaceAttention(la.Gaussian(seed=1), keys=("image", "text"), layers=LAYER),
        "all keys": la.ReplaceAttention(la.Dirichlet(seed=2), keys="all", keep_mass=False, layers=LAYER),
        "cache": la.ReplaceAttention(la.FromCache.of(before, LAYER), keys="all", keep_mass=False, layers=LAYER),
        "scores": la.ReplaceAttention(la.Uniform(), space="scores", layers=LAYER),
        "released": la.Released("gaussian_noise", layers=LAYER, percentiles=(0.0, 1.0)),
        "scaled": la.ScaleAttention(3.0, layers=LAYER),
        "patched": la.Patch.of(before, "pattern", layers=LAYER, positions="last"),
    }
    for name, giver in givers.items():
        for edit in (out + giver, giver + out):
            _, cache = model.run_with_cache(prompt, f"blocks.{LAYER}.attn.hook_pattern", edit)
            last = cache["pattern", LAYER][:, :, -1]
            assert not last.masked_select(image[:, None].expand_as(last)).any(), name
            assert bool(last.masked_select(~image[:, None].expand_as(last)).any()), name
        long = model.generate(prompt, out + giver, max_new_tokens=3, names_filter=f"blocks.{LAYER}.attn.hook_pattern")
        for step in long.steps:
            row = step["pattern", LAYER][..., : image.shape[1]]
            assert not row.masked_select(image[:, None].expand_as(row)).any(), name


@pytest.mark.parametrize("family", FAMILIES)
def test_a_row_that_lost_every_key_reads_nothing_whatever_follows(family):
    prompt, _, _ = untouched(family)
    put = la.ReplaceAttention(la.Uniform(), keys="all", keep_mass=False, layers=LAYER)
    edit = put + la.KnockOut("last", "all", layers=LAYER)
    _, cache = wrapped(family).run_with_cache(prompt, lambda name: f"blocks.{LAYER}.attn" in name, edit)
    assert not cache["pattern", LAYER][:, :, -1].any()
    largest = cache["z", LAYER].abs().max()
    assert cache["z", LAYER][:, -1].abs().max() <= rounding(family) * largest  # what the kernel read, taken off again
