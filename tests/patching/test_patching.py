"""Patches and sweeps: what is put where, nothing where nothing differs, and what is refused."""

from __future__ import annotations

import bounds
import pytest
import torch
from by_hand import hooked, pair
from tiny import FAMILIES, bare, batched, rounding, unequal, wrapped

from lostattn import patching
from lostattn.answers import logit_difference
from lostattn.errors import InputError
from lostattn.interventions.patching import Patch
from lostattn.plan.intervention import Intervention


@pytest.mark.parametrize("family", FAMILIES)
def test_a_patched_pattern_reads_the_corrupted_values_with_the_clean_weights(family: str) -> None:
    """By hand: the head's part of z is clean weights times corrupted values; nothing else at this layer changes."""
    model, clean, corrupted = pair(family)
    layer, head = 1, 2
    _, a = model.run_with_cache(clean)
    _, b = model.run_with_cache(corrupted)
    group = model.cfg.n_heads // model.cfg.n_key_value_heads
    z = a["pattern", layer][0, head] @ b["v", layer][0, :, head // group]
    d = model.cfg.d_head

    def edit(value):
        out = value.clone()
        out[0, -3:, head * d : (head + 1) * d] = z[-3:]
        return out

    expected = hooked(model, bare(family), "z", layer, edit, corrupted.inputs)
    patch = Patch.of(a, "pattern", layer, slice(-3, None), head)
    bounds.close(model.run_with_hooks(corrupted, interventions=patch), expected, rounding(family))
    _, after = model.run_with_cache(corrupted, interventions=patch)
    others = [h for h in range(model.cfg.n_heads) if h != head]
    # The same attention in the same pass: only the rows of the one head are written anew.
    bounds.close(after["z", layer][:, :, others], b["z", layer][:, :, others], rounding(family))
    assert torch.equal(after["pattern", layer][:, head, -3:], a["pattern", layer][:, head, -3:])


@pytest.mark.parametrize("family", FAMILIES)
def test_a_query_head_of_shared_keys_is_patched_alone(family: str) -> None:
    model, clean, corrupted = pair(family)
    _, a = model.run_with_cache(clean)
    _, b = model.run_with_cache(corrupted)
    _, after = model.run_with_cache(corrupted, interventions=Patch.of(a, "z", 1, "image", heads=3))
    image = clean.token_map["image"]
    assert torch.equal(after["z", 1][image][:, 3], a["z", 1][image][:, 3])
    others = [h for h in range(model.cfg.n_heads) if h != 3]
    assert torch.equal(after["z", 1][:, :, others], b["z", 1][:, :, others])
    assert torch.equal(after["z", 1][~image][:, 3], b["z", 1][~image][:, 3])


@pytest.mark.parametrize("family", FAMILIES)
@pytest.mark.parametrize("batch_size", [6, 25])
def test_a_sweep_is_zero_when_nothing_differs_and_not_when_the_picture_does(family: str, batch_size: int) -> None:
    points = [
        "resid_pre",
        "resid_mid",
        "resid_post",
        "attn_out",
        "mlp_out",
        "q",
        "k",
        "v",
        "z",
        "pattern",
        "attn_scores",
    ]
    right, wrong = torch.tensor([3]), torch.tensor([40])

    def metric(logits):
        return logit_difference(logits, right, wrong)

    args = {"points": points, "layers": [0, 2], "positions": ["image", "last"], "batch_size": batch_size}
    table = patching.sweep(*pair(family, same=True), metric, **args)
    assert len(table) == len(points) * 2 * 2
    assert (table.effect == 0.0).all()
    assert table.normalised.isna().all()
    other = patching.sweep(*pair(family), metric, **args)
    # In layer 0 the last position has not looked at the picture yet, and q of layer 2 feeds what follows from it.
    felt = other[other.positions == "image"].groupby("point").effect.apply(lambda effect: effect.abs().max())
    least = 10 * rounding(family) * float(pair(family)[0](pair(family)[1]).abs().max())
    assert (felt.drop(["q", "pattern", "attn_scores"]) > least).all(), felt
    assert other[(other.layer == 0) & (other.positions == "last") & (other.point == "resid_pre")].effect.item() == 0


@pytest.mark.parametrize("batch_size", [3, 20])
def test_a_sweep_tells_what_each_patch_changed(batch_size: int) -> None:
    """Counted by hand in the caches of both runs: rows of the stream, one head's rows, and weights of a pattern."""
    model, clean, corrupted = pair("llava")
    points, groups = ["resid_pre", "z", "pattern"], ["image", "last"]
    table = patching.sweep(
        model, clean, corrupted, lambda logits: logits[:, -1, 17], points, [0, 2], groups, batch_size=batch_size
    )
    (_, a), (_, b) = (model.run_with_cache(prompt) for prompt in (clean, corrupted))
    for row in table.itertuples():
        chosen = clean.token_map.resolve(row.positions)[0]
        differs = a[row.point, row.layer][0] != b[row.point, row.layer][0]
        cells = differs[:, chosen].sum() if row.point == "pattern" else differs[chosen].any(-1).sum()
        assert row.touched == int(cells), row
    assert table[(table.point == "resid_pre") & (table.layer == 0)].set_index("positions").touched["last"] == 0
    assert (table[table.touched == 0].effect == 0).all() and (table.touched > 0).sum() >= 8
    assert (patching.sweep(model, clean, clean, lambda logits: logits[:, -1, 17], "z", 1, "image").touched == 0).all()


@pytest.mark.parametrize("family", FAMILIES)
def test_the_whole_stream_restores_the_clean_run(family: str) -> None:
    model, clean, corrupted = pair(family)
    table = patching.sweep(
        model, clean, corrupted, lambda logits: logits[:, -1, 17], "resid_pre", positions={"everything": "all"}
    )
    logits = model(clean)[:, -1]
    bounds.close(table.value, table.clean, rounding(family), size=logits)
    bounds.close(table.normalised * (table.clean - table.corrupted), table.effect, bounds.sums(3))
    assert table.positions.unique().tolist() == ["everything"]
    last = patching.sweep(model, clean, corrupted, lambda logits: logits[:, -1, 17], "resid_post", -1, ["last"])
    bounds.close(last.value.item(), last.clean.item(), rounding(family), size=logits)


@pytest.mark.parametrize("batch_size", [23, 64])
def test_a_sweep_is_the_same_whatever_the_batch(batch_size: int) -> None:
    model, clean, corrupted = pair("llava")
    table = patching.sweep(
        model,
        clean,
        corrupted,
        lambda logits: logits[:, -1, 17],
        ["z", "mlp_out"],
        [1],
        "each",
        "each",
        batch_size=batch_size,
    )
    assert len(table) == clean.n_pos * (model.cfg.n_heads + 1)
    assert table.columns.tolist() == [
        "point", "layer", "head", "positions", "token", "item",
        "clean", "corrupted", "value", "effect", "normalised", "touched",
    ]  # fmt: skip
    _, cache = model.run_with_cache(clean)
    for row in (6, 40, 100, len(table) - 4):
        one = table.iloc[row]
        head = None if one["head"] < 0 else int(one["head"])
        edit = Patch.of(cache, one.point, int(one.layer), int(one.positions), head)
        expected = model.run_with_hooks(corrupted, interventions=edit)[0, -1]
        bounds.close(one.value, expected[17], rounding("llava"), size=expected)
    mlp = table[table.point == "mlp_out"]
    assert (mlp["head"] == -1).all() and mlp.positions.tolist() == list(range(clean.n_pos))


@pytest.mark.parametrize("family", FAMILIES)
def test_pairs_side_by_side_are_pairs_one_by_one(family: str) -> None:
    """Items of unequal length, padded: each pair's numbers are its own."""
    model = wrapped(family)
    singles = unequal(family)
    spoilt = [{**one, "pixel_values": one["pixel_values"].flip(0) * 0.5 + 0.3} for one in singles]
    clean, corrupted = (model.prompt(inputs=batched(family, some)) for some in (singles, spoilt))
    args = {"metric": lambda logits: logits[:, -1, 17], "points": ["resid_pre", "z"], "positions": ["image", "last"]}
    together = patching.sweep(model, clean, corrupted, batch_size=9, layers=[1, 2], **args)
    size = model(clean)[:, -1]  # an effect is off as the two logits are that it is the difference of
    for i, (a, b) in enumerate(zip(singles, spoilt, strict=True)):
        alone = patching.sweep(model, model.prompt(inputs=a), model.prompt(inputs=b), layers=[1, 2], **args)
        mine = together[together["item"] == i]
        bounds.close(mine.effect, alone.effect, rounding(family), size=size)
        assert bounds.moved(mine.value, mine.corrupted, rounding(family), size=size)
    mean = patching.sweep(model, clean, corrupted, layers=[1], **{**args, "metric": lambda x: x[:, -1, 17].mean()})
    assert (mean["item"] == -1).all()
    by_item = together[together.layer == 1].groupby(["point", "positions"], sort=False).effect.mean()
    bounds.close(mean.effect, by_item, rounding(family), size=size)


@pytest.mark.parametrize("family", FAMILIES)
def test_unequal_layouts_are_refused_with_the_alternative(family: str) -> None:
    model = wrapped(family)
    a, b = (model.prompt(inputs=one) for one in unequal(family)[:2])
    metric = lambda logits: logits[:, -1, 17]  # noqa: E731
    message = "unequal layout.*Patch by token group instead: positions='image', 'question' or 'last'"
    with pytest.raises(InputError, match=message):
        patching.sweep(model, a, b, metric, "resid_pre", [1], "each")
    _, cache = model.run_with_cache(a)
    with pytest.raises(InputError, match=message):
        model.run_with_hooks(b, interventions=Patch.of(cache, "resid_pre", 1))
    with pytest.raises(InputError, match="the keys of .*hook_pattern' are not the same tokens"):
        model.run_with_hooks(b, interventions=Patch.of(cache, "pattern", 1, "last"))
    # An int that means an image's token here and a word there.
    with pytest.raises(InputError, match=r"position \d+ is .* in one, but what would go there is .* in the other"):
        model.run_with_hooks(b, interventions=Patch.of(cache, "resid_pre", 1, -4))
    # The alternatives work: the last position as it is, and groups of unequal size by their mean.
    table = patching.sweep(model, a, b, metric, "resid_pre", [1], ["last"])
    expected = model.run_with_hooks(
        b, [("blocks.1.hook_resid_pre", lambda x, hook: torch.cat([x[:, :-1], cache["resid_pre", 1][:, -1:]], 1))]
    )
    bounds.close(table.value.item(), expected[0, -1, 17], rounding(family), size=expected)
    mean = Patch.of(cache, "resid_pre", 1, "text", reduce="mean")
    _, after = model.run_with_cache(b, interventions=mean)
    text = a.token_map["text"][0]
    rows = cache["resid_pre", 1][0, text]
    bounds.close(after["resid_pre", 1][0, -1], rows.mean(0), bounds.sums(len(rows)), size=rows)
    averaged = patching.sweep(model, a, b, metric, "resid_pre", [1], ["text"], reduce="mean")
    expected = model.run_with_hooks(b, interventions=mean)
    bounds.close(averaged.value.item(), expected[0, -1, 17], rounding(family), size=expected)


def test_patches_are_values() -> None:
    model, clean, corrupted = pair("qwen")
    _, cache = model.run_with_cache(clean)
    patch = Patch.of(cache, ["z", "blocks.2.attn.hook_k"], 1, "image", heads=[0, 1])
    assert set(patch.values) == {"blocks.1.attn.hook_z", "blocks.2.attn.hook_k"}
    back = Intervention.from_json(patch.to_json())
    assert back == patch and back != Patch.of(cache, "z", 1, "image", heads=[0, 1])
    both = Patch.of(cache, "mlp_out", 0) + patch
    after = model.run_with_hooks(corrupted, interventions=both)
    again = model.run_with_hooks(corrupted, interventions=Intervention.from_json(both.to_json()))
    assert torch.equal(after, again)
    # In a generation it acts on the prompt alone.
    text = model.generate(corrupted, interventions=patch, max_new_tokens=3).tokens
    assert int(text[0, 0]) == int(model.run_with_hooks(corrupted, interventions=patch)[0, -1].argmax())


def test_bad_patches_are_refused() -> None:
    model, clean, corrupted = pair("qwen")
    _, cache = model.run_with_cache(clean)
    with pytest.raises(InputError, match="heads is \\[4\\], but 'blocks.1.attn.hook_k' has heads 0 to 1"):
        model.run_with_hooks(corrupted, interventions=Patch.of(cache, "k", 1, heads=4))
    with pytest.raises(InputError, match="'blocks.1.hook_mlp_out' has no heads"):
        model.run_with_hooks(corrupted, interventions=Patch.of(cache, "mlp_out", 1, heads=0))
    with pytest.raises(InputError, match="is no point of a decoder layer"):
        Patch.of(cache, "vision_projector.hook_out")
    with pytest.raises(InputError, match="layer 9 is out of range"):
        Patch.of(cache, "z", 9)
    with pytest.raises(InputError, match="reduce is 'sum'; expected one of 'none', 'mean'"):
        Patch.of(cache, "z", 1, reduce="sum")
    metric = lambda logits: logits[:, -1, 17]  # noqa: E731
    with pytest.raises(InputError, match="clean holds 1 items, corrupted 2"):
        patching.sweep(model, clean, corrupted[[0, 0]], metric)
    with pytest.raises(InputError, match=r"the metric gave \(1, 103\) for 1 items"):
        patching.sweep(model, clean, corrupted, lambda logits: logits[:, -1], "z", 1, ["last"])
    with pytest.raises(InputError, match="heads is 'all'; expected 'each', None, or some of 0 to 5"):
        patching.sweep(model, clean, corrupted, metric, "z", 1, ["last"], heads="all")
    with pytest.raises(InputError, match="batch_size is 0"):
        patching.sweep(model, clean, corrupted, metric, batch_size=0)
    with pytest.raises(InputError, match="positions is empty"):
        patching.sweep(model, clean, corrupted, metric, positions=[])


@pytest.mark.parametrize("family", FAMILIES)
def test_fewer_settings_than_fit_a_pass(family: str) -> None:
    """Patterns of unequal prompts side by side, with room to spare in the batch."""
    model = wrapped(family)
    singles = unequal(family)
    spoilt = [{**one, "pixel_values": one["pixel_values"] * 0.5 + 0.3} for one in singles]
    clean, corrupted = (model.prompt(inputs=batched(family, some)) for some in (singles, spoilt))
    table = patching.sweep(model, clean, corrupted, lambda x: x[:, -1, 17], "pattern", 1, ["last"], [2], batch_size=64)
    _, cache = model.run_with_cache(clean)
    expected = model.run_with_hooks(corrupted, interventions=Patch.of(cache, "pattern", 1, "last", 2))[:, -1]
    bounds.close(table.value, expected[:, 17].double(), rounding(family), size=expected)
    assert bounds.moved(table.value, table.corrupted, rounding(family), size=expected)


@pytest.mark.parametrize("family", FAMILIES)
def test_patches_and_sweeps_go_where_the_model_is(family: str) -> None:
    """The rehearsal of a remote run ships every kernel as source, and gives the same numbers."""
    model, clean, corrupted = pair(family)
    args = {"points": ["z", "pattern", "resid_pre"], "layers": [1], "positions": ["image", "last"], "batch_size": 6}
    here = patching.sweep(model, clean, corrupted, lambda x: x[:, -1, 17], **args)
    there = patching.sweep(model, clean, corrupted, lambda x: x[:, -1, 17], **args, remote="local")
    bounds.close(there.value, here.value, rounding(family), size=model(clean)[:, -1])
