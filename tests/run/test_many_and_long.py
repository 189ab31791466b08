"""Three pictures of unequal sizes, and a long text: every part of the workbench on them."""

from __future__ import annotations

import functools
from typing import Any

import bounds
import pytest
import torch
from PIL import Image
from reference import EAGER, logits_of
from tiny import FAMILIES, IMAGE, PATCHES, bare, wrapped
from torch import Tensor

import lostattn as la
from lostattn import lenses, patching

pytestmark = pytest.mark.slow

GRIDS = ((1, 4, 6), (1, 8, 10), (1, 6, 4))
LONG = 1500


def inputs_of(family: str, n_images: int, n_words: int = 6, seed: int = 0) -> dict[str, Tensor]:
    """Pictures with a word between them (of unequal sizes, where the family has sizes), then the text."""
    generator = torch.Generator().manual_seed(seed)
    row = [1, 5]
    for t, h, w in GRIDS[:n_images]:
        row += [7, *[IMAGE["llava"]] * PATCHES] if family == "llava" else [97, *[IMAGE["qwen"]] * (t * h * w // 4), 98]
        row += [9]
    words = torch.randint(10, 90, (n_words,), generator=torch.Generator().manual_seed(1)).tolist()
    ids = torch.tensor([row + words])
    found = {"input_ids": ids, "attention_mask": torch.ones_like(ids)}
    if family == "llava":
        return {**found, "pixel_values": torch.randn(n_images, 3, 35, 35, generator=generator)}
    pixels = [torch.randn(t * h * w, 3 * 2 * 25, generator=generator) for t, h, w in GRIDS[:n_images]]
    kinds = (ids == IMAGE["qwen"]).int()
    grids = torch.tensor(GRIDS[:n_images])
    return {**found, "pixel_values": torch.cat(pixels), "image_grid_thw": grids, "mm_token_type_ids": kinds}


CASES = {"three": (3, 6), "long": (1, LONG)}


@functools.cache
def run(family: str, case: str) -> tuple[Any, Any, Any, int]:
    """``(model, clean, corrupted, the last image)``: the corrupted prompt has another last picture, and no other."""
    model, (n_images, n_words) = wrapped(family), CASES[case]
    clean, other = inputs_of(family, n_images, n_words), inputs_of(family, n_images, n_words, seed=5)
    keep = clean["pixel_values"].clone()
    start = n_images - 1 if family == "llava" else sum(h * w for _, h, w in GRIDS[: n_images - 1])
    keep[start:] = other["pixel_values"][start:]
    prompts = model.prompt(inputs=clean), model.prompt(inputs={**clean, "pixel_values": keep})
    return model, *prompts, n_images - 1


def metric(logits: Tensor) -> Tensor:
    return logits[:, -1, 17] - logits[:, -1, 40]


@functools.cache
def share(family: str, case: str) -> float:
    """How far two passes over this prompt may lie apart: sums over keys are as long as it is."""
    return bounds.passes(bare(family), run(family, case)[1].inputs)


every = pytest.mark.parametrize(("family", "case"), [(f, c) for f in FAMILIES for c in CASES])


@every
def test_a_pass_and_its_patterns_are_those_of_the_bare_model(family: str, case: str) -> None:
    model, clean, _, last = run(family, case)
    logits, cache = model.run_with_cache(clean)
    with torch.no_grad():
        assert torch.equal(logits, bare(family)(**clean.inputs, use_cache=False).logits)
    sums = cache.pattern(1, "last").sum(-1)
    bounds.close(sums, torch.ones_like(sums), bounds.sums(clean.n_pos))
    cut = la.KnockOut("last", f"image:{last}", layers=[1])
    keys = clean.token_map[f"image:{last}"][0]

    def blocked(scores, call):
        scores[:, :, -1, keys] = float("-inf")
        return scores

    path = model.architecture.stack.blocks[1].attn.path
    expected = logits_of(bare(family, EAGER), clean.inputs, {path: (blocked, None)})
    bounds.close(model.run_with_hooks(clean, interventions=cut), expected, share(family, case))


@every
def test_patching_one_of_several_pictures(family: str, case: str) -> None:
    """Only the last picture differs: its tokens bring back all that the image's do, and the others' nothing."""
    model, clean, corrupted, last = run(family, case)
    groups = ["image", *(f"image:{k}" for k in range(last + 1)), "last"]
    args = (model, clean, corrupted, metric, ["resid_pre"], [0])
    table = patching.sweep(*args, groups, batch_size=2).set_index("positions").effect
    near = {"share": share(family, case), "size": model(clean)[:, -1]}
    assert bounds.moved(table["image"], 0.0, **near)
    bounds.close(table["image"], table[f"image:{last}"], **near)
    assert all(table[f"image:{k}"] == 0 for k in range(last)) and table["last"] == 0
    guess = patching.attribute(*args, groups).set_index("positions").effect
    bounds.close(guess["image"], sum(guess[f"image:{k}"] for k in range(last + 1)), **near)
    points, chosen = (["pattern"], [1]) if case == "long" else (["z", "pattern"], [1, 3])
    heads = patching.sweep(model, clean, corrupted, metric, points, [2], ["last"], chosen, batch_size=4)
    _, cache = model.run_with_cache(clean, ["blocks.2.attn.hook_z", "blocks.2.attn.hook_pattern"])
    for row in heads.itertuples():
        edit = la.Patch.of(cache, row.point, 2, "last", row.head)
        alone = metric(model.run_with_hooks(corrupted, interventions=edit))
        bounds.close(row.value, float(alone), **near)
    paths = patching.path_patch(model, clean, corrupted, metric, [("z", 1, 2)], [("resid_post", -1)])
    assert 0 < paths.effect.abs().item() < 10


@every
def test_gradients_on_each_picture(family: str, case: str) -> None:
    model, clean, _, last = run(family, case)
    inputs = {n: v.clone() for n, v in clean.inputs.items()}
    pixels = inputs["pixel_values"].requires_grad_()
    metric(bare(family)(**{**inputs, "pixel_values": pixels}, use_cache=False).logits).sum().backward()
    product = (pixels.grad * pixels).detach()
    parts = product.split(1 if family == "llava" else [h * w for _, h, w in GRIDS[: last + 1]])
    back = 2 * share(family, case)  # a backward pass is as deep as the forward one
    logits, cache = model.run_with_cache(clean, "blocks.0.hook_resid_pre", backward=metric)
    moved = (cache["resid_pre", 0] * cache.grad("resid_pre", 0)).sum(-1)[0]
    for k in range(last + 1):
        found = lenses.input_attribution(model, clean, metric, "pixels", image=k)
        bounds.close(found.sum(), parts[k].sum(), back, size=parts[k].abs().sum())
        tokens = lenses.input_attribution(model, clean, metric, "tokens", image=k)
        at = clean.token_map[f"image:{k}"][0]
        bounds.close(tokens.sum(), moved[at].sum(), back, size=moved[at].abs().sum())
    attributed = lenses.image_attribution(model.run_with_cache(clean)[1], 17, 40)
    for k in range(last + 1):
        here = clean.token_map[f"image:{k}"][0]
        own = attributed.values[1, 2, here]
        bounds.close(attributed.patches(1, 2, image=k).sum(), own.sum(), bounds.sums(len(own)), size=own.abs().sum())


@every
def test_a_generation_is_a_loop_of_single_passes(family: str, case: str) -> None:
    model, clean, _, last = run(family, case)
    cut = la.KnockOut("last", f"image:{last}", layers=[1, 2]) + la.Ablate("mlp", layers=[0], positions="last")
    found = model.generate(clean, interventions=cut, max_new_tokens=3, min_new_tokens=3).tokens[0].tolist()
    first = int(model.run_with_hooks(clean, interventions=cut)[0, -1].argmax())
    assert found[0] == first and len(found) == 3


def test_pictures_of_three_sizes_are_seen_and_read(tiny_model, shapes_questions) -> None:
    """Lenses and figures of each picture, knock-outs of each, and numbers over such data."""
    pictures = [q.images[0] for q in shapes_questions if len(q.images) == 1][:3]
    sizes = [(56, 84), (112, 70), (70, 70)]
    resized = tuple(p.resize(size, Image.Resampling.NEAREST) for p, size in zip(pictures, sizes, strict=True))
    question = la.data.Question("three", "How many squares are there?", resized, "2", ("1", "2"), "count", "s")
    prompt = tiny_model.prompt(question)
    _, cache = tiny_model.run_with_cache(prompt)
    attributed = lenses.image_attribution(cache, 17)
    patches = [len(grid) for grid in prompt.token_map.grids[0]]
    for k, n in enumerate(patches):
        assert lenses.vision_lens(tiny_model, prompt, image=k).logits.shape[:2] == (1, n)
        assert len(attributed.patches(2, 1, image=k)) == n
        assert attributed.figure(2, 1, image=k).axes[0].images
        assert la.view.attention_on_image(cache, prompt, 2, image=k).axes
    edges = {f"image {k} -> last": ("last", f"image:{k}") for k in range(3)}
    losses = la.experiments.flow(tiny_model, [question], edges, windows=[[1, 2]], progress=False)
    assert len(losses) == 6 and losses.change.nunique() > 3
    assert len(tiny_model.measure([question] * 1, ["correct", "updates"])) == 1
