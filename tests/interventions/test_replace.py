"""Replacing attention on the trained models, against the same replacement in a bare model's eager softmax."""

from __future__ import annotations

import bounds
import edit_reference as reference
import pytest
import torch
from torch import Tensor

import lostattn as la


def images(prompt) -> Tensor:
    return prompt.token_map["image"][:, None, None, :]


def last(pattern: Tensor) -> Tensor:
    rows = torch.zeros(1, 1, pattern.shape[2], 1, dtype=torch.bool)
    rows[:, :, -1] = True
    return rows


def shared_out(pattern: Tensor, cells: Tensor, values: Tensor, keep_mass: bool, mix: float) -> Tensor:
    """The definition: values in the place of weights, or sharing out the weight that was there."""
    cells = cells & (pattern > 0)
    new = values.expand_as(pattern) * cells
    if keep_mass:
        new = new / new.sum(-1, keepdim=True).clamp_min(1e-20) * (pattern * cells).sum(-1, keepdim=True)
    return torch.where(cells, (1 - mix) * pattern + mix * new, pattern)


@pytest.mark.parametrize("keep_mass", [True, False])
@pytest.mark.parametrize("which", ["prompt", "batch"])
def test_fixed_and_mixed_at_some_layers_and_heads(pair, which, keep_mass):
    prompt = getattr(pair, which)
    keys = slice(14, 25)  # image tokens in both families
    values = torch.rand(11, generator=torch.Generator().manual_seed(0))
    edit = la.ReplaceAttention(
        la.Fixed(values), layers=[1, -2], heads=[0, 5], queries="last", keys=keys, mix=0.75, keep_mass=keep_mass
    )

    def by_hand(pattern: Tensor, layer: int) -> Tensor:
        if layer not in (1, 4):
            return pattern
        cells = prompt.token_map[keys][:, None, None, :] & last(pattern)
        heads = torch.zeros(1, 8, 1, 1, dtype=torch.bool)
        heads[:, [0, 5]] = True
        laid = torch.zeros(len(prompt), 1, 1, prompt.n_pos)
        laid[prompt.token_map[keys][:, None, None, :]] = values.repeat(len(prompt))
        return shared_out(pattern, cells & heads, laid, keep_mass, 0.75)

    got = pair.model.run_with_hooks(prompt, interventions=edit)
    want = reference.logits(pair.hf, prompt, weights=by_hand)
    bounds.close(got[:, -1], want[:, -1], pair.share)
    real = prompt.token_map["all"]
    bounds.close(got[real], want[real], pair.share)
    assert bounds.moved(got[:, -1], reference.logits(pair.hf, prompt)[:, -1], pair.share)


@pytest.mark.parametrize("queries", ["image", "all", slice(5, None), -3, "question|last"])
def test_uniform_for_any_queries(pair, queries):
    prompt = pair.batch

    def by_hand(pattern: Tensor, layer: int) -> Tensor:
        cells = images(prompt) & prompt.token_map[queries][:, None, :, None]
        return shared_out(pattern, cells, torch.ones_like(pattern), True, 1.0)

    edit = la.ReplaceAttention(la.Uniform(), queries=queries)
    got = pair.model.run_with_hooks(prompt, interventions=edit)
    want = reference.logits(pair.hf, prompt, weights=by_hand)
    real = prompt.token_map["all"]
    bounds.close(got[real], want[real], pair.share)
    assert bounds.moved(want[real], reference.logits(pair.hf, prompt)[real], pair.share)


def test_uniform_without_the_mass_is_one_in_all(pair):
    _, cache = pair.model.run_with_cache(
        pair.prompt, "blocks.2.attn.hook_pattern", la.ReplaceAttention(la.Uniform(), layers=2, keep_mass=False)
    )
    row = cache["pattern", 2][0, :, -1]
    image = pair.prompt.token_map["image"][0]
    bounds.close(row[:, image], torch.full_like(row[:, image], 1 / int(image.sum())), bounds.sums(int(image.sum())))


def test_text_columns_and_other_rows_are_untouched(pair):
    name = "blocks.3.attn.hook_pattern"
    _, plain = pair.model.run_with_cache(pair.batch, name, la.ScaleAttention(1.0, layers=3))
    for source in (la.Gaussian(seed=1), la.Dirichlet(seed=1), la.Uniform(), la.VisionPrior(), la.Complexity()):
        _, edited = pair.model.run_with_cache(pair.batch, name, la.ReplaceAttention(source, layers=3))
        a, b = plain[name], edited[name]
        cells = (images(pair.batch) & last(a)).expand_as(a)
        assert torch.equal(a[~cells], b[~cells])
        assert not torch.equal(a[cells], b[cells])
        real = pair.batch.token_map["all"][:, None, :, None].expand(*a.shape[:3], 1)[..., 0]
        # One is what the row sums to before; what the image has is taken out of it, shared out and put back.
        bounds.close(b.sum(-1)[real], torch.ones_like(b.sum(-1)[real]), 3 * bounds.sums(b.shape[-1]))
        assert (b >= 0).all()


def test_scores_of_fixed_values_take_moments_and_text_shares_in_the_change(pair):
    prompt = pair.prompt
    image = prompt.token_map["image"][0]
    values = torch.rand(int(image.sum()), generator=torch.Generator().manual_seed(3))

    def by_hand(scores: Tensor, layer: int) -> Tensor:
        out = scores.clone()
        old = scores[0, :, -1][:, image]
        unit = (values - values.mean()) / values.std(correction=0)
        new = old.mean(-1, keepdim=True) + old.std(-1, correction=0, keepdim=True) * unit
        out[0, :, -1, image] = 0.25 * old + 0.75 * new
        return out

    edit = la.ReplaceAttention(la.Fixed(values), space="scores", mix=0.75)
    got = pair.model.run_with_hooks(prompt, interventions=edit)
    want = reference.logits(pair.hf, prompt, scores=by_hand)
    bounds.close(got, want, pair.share)
    assert bounds.moved(want, reference.logits(pair.hf, prompt), pair.share)


@pytest.mark.parametrize("space", ["weights", "scores"])
def test_mix_zero_changes_no_bit_of_the_logits(pair, space):
    edit = la.ReplaceAttention(la.Gaussian(), mix=0.0, space=space, queries="all")
    assert torch.equal(pair.model.run_with_hooks(pair.batch, interventions=edit), pair.model(pair.batch))


@pytest.mark.parametrize("source", [la.Gaussian, la.Dirichlet])
@pytest.mark.parametrize("space", ["weights", "scores"])
def test_seeds(pair, source, space):
    def run(seed):
        edit = la.ReplaceAttention(source(seed=seed), space=space)
        return pair.model.run_with_hooks(pair.prompt, interventions=edit)[:, -1]

    assert torch.equal(run(3), run(3))
    assert bounds.moved(run(3), run(4), pair.share)
    assert torch.equal(
        run(5),
        pair.model.run_with_hooks(
            pair.prompt, interventions=la.ReplaceAttention(source(seed=3), space=space).with_seed(2)
        )[:, -1],
    )


@pytest.mark.slow
@pytest.mark.parametrize(
    "edit",
    [
        la.ReplaceAttention(la.Gaussian(seed=2)),
        la.ReplaceAttention(la.Gaussian(seed=2), space="scores", queries="question"),
        la.ReplaceAttention(la.Dirichlet(seed=2)),
        la.ReplaceAttention(la.VisionPrior(), queries="text"),
        la.ReplaceAttention(la.Complexity()),
        la.Released(seed=2),
        la.Released("vision_encoder"),
        la.NoiseUpdate("attn", layers=[2, 3], seed=2),
        la.NoiseWeights("qkv", layers=1, seed=2),
        la.Ablate("mlp", layers=2, to="mean"),
        la.Ablate("head", layers=2, heads=[1, 6], to="resample", seed=2),
        la.KnockOut("question|template", "image:0", layers=range(2)),
    ],
    ids=lambda edit: repr(edit)[:40],
)
def test_an_item_is_edited_the_same_alone_and_in_a_padded_batch(pair, edit):
    # The processor's own padding, so that the neighbours decide how much there is.
    together = pair.model.run_with_hooks(pair.batch, interventions=edit)[:, -1]
    alone = torch.cat([pair.model.run_with_hooks(one, interventions=edit)[:, -1] for one in pair.batch])
    bounds.close(together, alone, pair.share)
    assert all(bounds.moved(*rows, pair.share) for rows in zip(alone, pair.model(pair.batch)[:, -1], strict=True))


def test_dirichlet_is_shared_by_layers_heads_and_rows_or_by_none(pair):
    names = [f"blocks.{i}.attn.hook_pattern" for i in (1, 4)]
    image = pair.prompt.token_map["image"][0]

    def rows(shared: bool) -> list[Tensor]:
        edit = la.ReplaceAttention(la.Dirichlet(seed=1, shared=shared), queries=[-1, -2], keep_mass=False)
        _, cache = pair.model.run_with_cache(pair.prompt, names, edit)
        return [cache[n][0, h, r, image] for n in names for h in (0, 7) for r in (-1, -2)]

    same = rows(True)
    assert all(torch.equal(row, same[0]) for row in same)
    bounds.close(same[0].sum(), torch.ones(()), bounds.sums(len(same[0])))
    assert len({tuple(row.tolist()) for row in rows(False)}) == 8


def test_gaussian_differs_by_layer(pair):
    # With the mass kept and equal old weights only the draws could differ; so compare the draws of two layers.
    edit = la.ReplaceAttention(la.Gaussian(seed=1), layers=[2, 3])
    from lostattn.plan.setting import Setting

    first, second = edit.compile(Setting(pair.model.sites, pair.model.hf, pair.prompt))
    assert first.params["draw_params"]["seeds"] != second.params["draw_params"]["seeds"]


def test_a_pattern_from_another_picture_is_the_pattern_set_by_hand(pair, shapes_questions):
    model, prompt = pair.model, pair.prompt
    mates = [q for q in shapes_questions if len(q.images) == 1]
    others = (model.prompt(q.text, images=[m.images[0]]) for q in mates for m in mates)
    other = next(p for p in others if p.n_pos == prompt.n_pos and p.images != prompt.images)
    _, cache = model.run_with_cache(other, lambda name: "blocks" in name and "hook_pattern" in name)
    edit = la.ReplaceAttention(la.FromCache.of(cache), queries="all", keys="all", keep_mass=False)
    kept = {i: cache["pattern", i] for i in range(6)}
    want = reference.logits(pair.hf, prompt, weights=lambda pattern, layer: kept[layer])
    got = model.run_with_hooks(prompt, interventions=edit)
    bounds.close(got, want, pair.share)
    assert bounds.moved(got, model(prompt), pair.share)

    def image_share(pattern: Tensor, layer: int) -> Tensor:
        return shared_out(pattern, images(prompt) & last(pattern), kept[layer], True, 1.0) if layer == 2 else pattern

    part = la.ReplaceAttention(la.FromCache.of(cache, layers=[2, -1]), layers=2)
    got = model.run_with_hooks(prompt, interventions=part)
    bounds.close(got, reference.logits(pair.hf, prompt, weights=image_share), pair.share)


def test_a_pattern_from_the_same_prompt_is_no_edit(pair):
    _, cache = pair.model.run_with_cache(pair.batch)
    edit = la.ReplaceAttention(la.FromCache.of(cache), queries="all", keys="all", keep_mass=False)
    real = pair.batch.token_map["all"]
    got = pair.model.run_with_hooks(pair.batch, interventions=edit)
    bounds.close(got[real], pair.model(pair.batch)[real], pair.share)


def test_from_a_cache_takes_what_was_kept(pair):
    _, cache = pair.model.run_with_cache(pair.prompt, ["blocks.1.attn.hook_pattern", "blocks.5.attn.hook_pattern"])
    assert set(la.FromCache.of(cache).patterns) == {1, 5}
    assert set(la.FromCache.of(cache, layers=-1).patterns) == {5}


def test_knocked_out_and_then_replaced_in_scores_is_finite(pair):
    out = la.KnockOut("last", "image:0", layers=2)
    replaced = la.ReplaceAttention(la.Gaussian(seed=1), layers=2, space="scores")
    got = pair.model.run_with_hooks(pair.prompt, interventions=out + replaced)
    assert torch.isfinite(got).all()
    assert torch.equal(got, pair.model.run_with_hooks(pair.prompt, interventions=out))


def test_knock_out_is_minus_infinity_before_the_softmax(pair):
    def by_hand(scores: Tensor, layer: int) -> Tensor:
        if layer not in (2, 3):
            return scores
        return scores.masked_fill(images(pair.batch) & last(scores), -torch.inf)

    got = pair.model.run_with_hooks(pair.batch, interventions=la.KnockOut("last", "image", layers=[2, 3]))
    want = reference.logits(pair.hf, pair.batch, scores=by_hand)
    bounds.close(got[:, -1], want[:, -1], pair.share)
    assert bounds.moved(got[:, -1], pair.model(pair.batch)[:, -1], pair.share)


def test_a_row_cut_from_everything_reads_nothing(pair):
    edit = la.KnockOut("last", "all", layers=2, heads=[3])
    names = ["blocks.2.attn.hook_pattern", "blocks.2.attn.hook_z"]
    logits, cache = pair.model.run_with_cache(pair.batch, names, edit)
    assert (cache["pattern", 2][:, 3, -1] == 0).all()
    # What attention had written there is taken away again, so that its roundings are left.
    _, plain = pair.model.run_with_cache(pair.batch, names)
    bounds.close(cache["z", 2][:, -1, 3], torch.zeros_like(cache["z", 2][:, -1, 3]), pair.share, size=plain["z", 2])
    real = pair.batch.token_map["all"]
    assert torch.isfinite(logits[real]).all()
    beside = cache["pattern", 2][:, 2, -1].sum(-1)  # a head beside it
    bounds.close(beside, torch.ones_like(beside), bounds.sums(pair.batch.n_pos))


def test_scaled_weights_are_not_renormalised(pair):
    def by_hand(pattern: Tensor, layer: int) -> Tensor:
        return torch.where(images(pair.batch) & last(pattern), pattern * 2.5, pattern) if layer == 1 else pattern

    got = pair.model.run_with_hooks(pair.batch, interventions=la.ScaleAttention(2.5, layers=1))
    want = reference.logits(pair.hf, pair.batch, weights=by_hand)
    bounds.close(got[:, -1], want[:, -1], pair.share)
    assert bounds.moved(got[:, -1], pair.model(pair.batch)[:, -1], pair.share)


def test_order_at_one_point(pair):
    a = la.ScaleAttention(2.0, layers=2, keys="all")
    b = la.ReplaceAttention(la.Uniform(), layers=2, keep_mass=False)

    def doubled(pattern: Tensor) -> Tensor:
        return torch.where(last(pattern), pattern * 2, pattern)

    def uniform(pattern: Tensor) -> Tensor:
        n = int(pair.prompt.token_map["image"].sum())
        return torch.where(images(pair.prompt) & last(pattern), 1 / n, pattern)

    for edit, by_hand in ((a + b, lambda p: uniform(doubled(p))), (b + a, lambda p: doubled(uniform(p)))):
        got = pair.model.run_with_hooks(pair.prompt, interventions=edit)
        want = reference.logits(pair.hf, pair.prompt, weights=lambda p, i, f=by_hand: f(p) if i == 2 else p)
        bounds.close(got, want, pair.share)
    first, second = (pair.model.run_with_hooks(pair.prompt, interventions=e) for e in (a + b, b + a))
    assert bounds.moved(first, second, pair.share)


def test_nothing_composed_changes_nothing(pair):
    nothing = la.Composition(())
    assert torch.equal(pair.model.run_with_hooks(pair.prompt, interventions=nothing), pair.model(pair.prompt))


def test_a_layer_named_twice_is_edited_once(pair):
    once = la.ReplaceAttention(la.Uniform(), layers=[4], mix=0.5)
    twice = la.ReplaceAttention(la.Uniform(), layers=[4, -2, 4], mix=0.5)
    run = pair.model.run_with_hooks
    assert torch.equal(run(pair.prompt, interventions=once), run(pair.prompt, interventions=twice))
