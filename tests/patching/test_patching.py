"""Patches and sweeps against hand-written torch hooks and nnsight traces; nothing where nothing differs."""

from __future__ import annotations

import random

import pytest
import torch
from tiny import FAMILIES, INPUTS, bare, batched, unequal, wrapped
from torch.testing import assert_close

from lostattn import patching
from lostattn.answers import logit_difference
from lostattn.errors import InputError
from lostattn.interventions.base import Intervention
from lostattn.patching import Patch

CLOSE = {"rtol": 1e-4, "atol": 1e-4}
# Where a point is in the Hugging Face model: the part of a block, which side of it, and its heads.
PLACES = {
    "resid_pre": ("path", "input", None),
    "resid_post": ("path", "output", None),
    "mlp_out": ("mlp_out", "output", None),
    "attn_out": ("attn.path", "output", None),
    "z": ("attn.o", "input", "n_heads"),
    "q": ("attn.q", "output", "n_heads"),
    "k": ("attn.k", "output", "n_key_value_heads"),
    "v": ("attn.v", "output", "n_key_value_heads"),
}


def pair(family: str, same: bool = False):
    """A clean and a corrupted prompt: equal texts, other pictures."""
    model = wrapped(family)
    clean = INPUTS[family](seed=0)
    corrupted = clean if same else {**clean, "pixel_values": INPUTS[family](seed=1)["pixel_values"]}
    return model, model.prompt(inputs=clean), model.prompt(inputs=corrupted)


def setting(model, prompt, seed: int) -> tuple[str, int, int, int | None]:
    """A random point, layer, position and head, the position an image's."""
    draw = random.Random(seed)
    point = draw.choice(sorted(PLACES))
    heads = PLACES[point][2]
    position = draw.choice(prompt.token_map["image"][0].nonzero().flatten().tolist())
    return point, draw.randrange(model.cfg.n_layers), position, heads and draw.randrange(getattr(model.cfg, heads))


def place(model, point: str, layer: int) -> tuple[str, str]:
    owner = model.architecture.stack.blocks[layer]
    name, side, _ = PLACES[point]
    for part in name.split("."):
        owner = getattr(owner, part)
    return owner, side


def swapped(model, point: str, value: torch.Tensor, new: torch.Tensor, position: int, head: int | None):
    """``value`` with ``new``'s row (or a head's part of it) put in."""
    out = value.clone()
    if head is None:
        out[:, position] = new[:, position]
    else:
        d = model.cfg.d_head
        out[:, position, head * d : (head + 1) * d] = new[:, position, head * d : (head + 1) * d]
    return out


def hooked(model, hf, point: str, layer: int, edit, inputs) -> torch.Tensor:
    """The logits under a torch hook that edits one module's input or output."""
    path, side = place(model, point, layer)
    module = hf.get_submodule(path)

    def of_output(module, args, output):
        return (edit(output[0]), *output[1:]) if isinstance(output, tuple) else edit(output)

    def of_input(module, args, kwargs):
        if args:
            return (edit(args[0]), *args[1:]), kwargs
        return args, {**kwargs, "hidden_states": edit(kwargs["hidden_states"])}

    handle = (
        module.register_forward_hook(of_output)
        if side == "output"
        else module.register_forward_pre_hook(of_input, with_kwargs=True)
    )
    try:
        with torch.no_grad():
            return hf(**inputs, use_cache=False).logits
    finally:
        handle.remove()


def by_torch_hooks(family, model, clean, corrupted, point, layer, position, head) -> torch.Tensor:
    hf, seen = bare(family), []
    hooked(model, hf, point, layer, lambda value: seen.append(value.clone()) or value, clean.inputs)
    return hooked(
        model, hf, point, layer, lambda v: swapped(model, point, v, seen[0], position, head), corrupted.inputs
    )


def by_nnsight(model, clean, corrupted, point, layer, position, head) -> torch.Tensor:
    import nnsight  # not at the top: beartype cannot be imported for the first time after it

    path, side = place(model, point, layer)
    envoy = model.nn.get(path)
    with torch.no_grad(), model.trace(clean, use_cache=False):
        value = envoy.input if side == "input" else envoy.output
        seen = nnsight.save(value if isinstance(value, torch.Tensor) else value[0])
    with torch.no_grad(), model.trace(corrupted, use_cache=False):
        if side == "input":
            envoy.input = swapped(model, point, envoy.input, seen, position, head)
        else:
            raw = envoy.output
            whole = isinstance(raw, torch.Tensor)
            new = swapped(model, point, raw if whole else raw[0], seen, position, head)
            envoy.output = new if whole else (new, *raw[1:])
        logits = nnsight.save(model.nn.output.logits)
    return logits


@pytest.mark.parametrize("family", FAMILIES)
@pytest.mark.parametrize("seed", [0, 1, 2])
def test_a_patch_is_what_torch_hooks_and_nnsight_make_by_hand(family: str, seed: int) -> None:
    model, clean, corrupted = pair(family)
    chosen = setting(model, clean, seed)
    point, layer, position, head = chosen
    _, cache = model.run_with_cache(clean)
    edit = Patch.of(cache, point, layer, position, head)
    found = model.run_with_hooks(corrupted, interventions=edit)
    assert (found - model(corrupted)).abs().max() > 1e-3, chosen
    assert_close(found, by_torch_hooks(family, model, clean, corrupted, *chosen), **CLOSE)
    assert_close(found, by_nnsight(model, clean, corrupted, *chosen), **CLOSE)
    table = patching.sweep(
        model,
        clean,
        corrupted,
        lambda logits: logits[:, -1, 17],
        point,
        layer,
        [position],
        None if head is None else [head],
    )
    assert table.value.tolist() == pytest.approx([float(found[0, -1, 17])], abs=1e-4)


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
    assert_close(model.run_with_hooks(corrupted, interventions=patch), expected, **CLOSE)
    _, after = model.run_with_cache(corrupted, interventions=patch)
    others = [h for h in range(model.cfg.n_heads) if h != head]
    assert_close(after["z", layer][:, :, others], b["z", layer][:, :, others], rtol=1e-5, atol=1e-5)
    assert_close(after["pattern", layer][:, head, -3:], a["pattern", layer][:, head, -3:], rtol=0, atol=1e-6)


@pytest.mark.parametrize("family", FAMILIES)
def test_a_query_head_of_shared_keys_is_patched_alone(family: str) -> None:
    model, clean, corrupted = pair(family)
    _, a = model.run_with_cache(clean)
    _, b = model.run_with_cache(corrupted)
    _, after = model.run_with_cache(corrupted, interventions=Patch.of(a, "z", 1, "image", heads=3))
    image = clean.token_map["image"]
    assert_close(after["z", 1][image][:, 3], a["z", 1][image][:, 3], rtol=0, atol=0)
    others = [h for h in range(model.cfg.n_heads) if h != 3]
    assert_close(after["z", 1][:, :, others], b["z", 1][:, :, others], rtol=0, atol=0)
    assert_close(after["z", 1][~image][:, 3], b["z", 1][~image][:, 3], rtol=0, atol=0)


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
    assert (felt.drop(["q", "pattern", "attn_scores"]) > 1e-3).all(), felt
    assert other[(other.layer == 0) & (other.positions == "last") & (other.point == "resid_pre")].effect.item() == 0


@pytest.mark.parametrize("family", FAMILIES)
def test_the_whole_stream_restores_the_clean_run(family: str) -> None:
    model, clean, corrupted = pair(family)
    table = patching.sweep(
        model, clean, corrupted, lambda logits: logits[:, -1, 17], "resid_pre", positions={"everything": "all"}
    )
    assert table.normalised.tolist() == pytest.approx([1.0] * model.cfg.n_layers, abs=1e-3)
    assert table.positions.unique().tolist() == ["everything"]
    last = patching.sweep(model, clean, corrupted, lambda logits: logits[:, -1, 17], "resid_post", -1, ["last"])
    assert last.value.item() == pytest.approx(last.clean.item(), abs=1e-4)


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
        "point", "layer", "head", "positions", "token", "item", "clean", "corrupted", "value", "effect", "normalised"
    ]  # fmt: skip
    _, cache = model.run_with_cache(clean)
    for row in (6, 40, 100, len(table) - 4):
        one = table.iloc[row]
        head = None if one["head"] < 0 else int(one["head"])
        edit = Patch.of(cache, one.point, int(one.layer), int(one.positions), head)
        expected = model.run_with_hooks(corrupted, interventions=edit)[0, -1, 17]
        assert one.value == pytest.approx(float(expected), abs=1e-4)
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
    for i, (a, b) in enumerate(zip(singles, spoilt, strict=True)):
        alone = patching.sweep(model, model.prompt(inputs=a), model.prompt(inputs=b), layers=[1, 2], **args)
        mine = together[together["item"] == i]
        assert mine.effect.tolist() == pytest.approx(alone.effect.tolist(), abs=1e-4)
        assert mine.effect.abs().max() > 1e-3
    mean = patching.sweep(model, clean, corrupted, layers=[1], **{**args, "metric": lambda x: x[:, -1, 17].mean()})
    assert (mean["item"] == -1).all()
    by_item = together[together.layer == 1].groupby(["point", "positions"], sort=False).effect.mean()
    assert mean.effect.tolist() == pytest.approx(by_item.tolist(), abs=1e-4)


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
    assert table.value.item() == pytest.approx(float(expected[0, -1, 17]), abs=1e-4)
    mean = Patch.of(cache, "resid_pre", 1, "text", reduce="mean")
    _, after = model.run_with_cache(b, interventions=mean)
    text = a.token_map["text"][0]
    assert_close(after["resid_pre", 1][0, -1], cache["resid_pre", 1][0, text].mean(0), rtol=1e-5, atol=1e-5)
    averaged = patching.sweep(model, a, b, metric, "resid_pre", [1], ["text"], reduce="mean")
    expected = model.run_with_hooks(b, interventions=mean)
    assert averaged.value.item() == pytest.approx(float(expected[0, -1, 17]), abs=1e-4)


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
    assert_close(after, again, rtol=0, atol=0)
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
    expected = model.run_with_hooks(corrupted, interventions=Patch.of(cache, "pattern", 1, "last", 2))[:, -1, 17]
    assert table.value.tolist() == pytest.approx(expected.tolist(), abs=1e-4)
    assert table.effect.abs().max() > 1e-5


@pytest.mark.parametrize("family", FAMILIES)
def test_patches_and_sweeps_go_where_the_model_is(family: str) -> None:
    """The rehearsal of a remote run ships every kernel as source, and gives the same numbers."""
    model, clean, corrupted = pair(family)
    args = {"points": ["z", "pattern", "resid_pre"], "layers": [1], "positions": ["image", "last"], "batch_size": 6}
    here = patching.sweep(model, clean, corrupted, lambda x: x[:, -1, 17], **args)
    there = patching.sweep(model, clean, corrupted, lambda x: x[:, -1, 17], **args, remote="local")
    assert there.value.tolist() == pytest.approx(here.value.tolist(), abs=1e-5)
