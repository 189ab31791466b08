"""Patches and sweeps at every point against torch hooks and nnsight traces written by hand."""

from __future__ import annotations

import random

import bounds
import pytest
import torch
from by_hand import PLACES, by_nnsight, by_torch_hooks, pair
from tiny import FAMILIES, rounding

from lostattn import patching
from lostattn.interventions.patching import Patch

pytestmark = pytest.mark.slow


def settings(model, prompt, point: str) -> list[tuple[int, int | str, int | None]]:
    """Three random layers, positions (one of the image, one of the text, and a token group) and heads."""
    draw = random.Random(point)
    heads = PLACES[point][2]
    columns = {part: prompt.token_map[part][0].nonzero().flatten().tolist() for part in ("image", "text")}
    # Before the image is looked at a text position holds nothing of it, so layers start at 1.
    places = [draw.choice(columns["image"]), draw.choice(columns["text"][-4:]), draw.choice(["image", slice(-4, None)])]
    return [
        (draw.randrange(1, model.cfg.n_layers), at, heads and draw.randrange(getattr(model.cfg, heads)))
        for at in places
    ]


@pytest.mark.parametrize("family", FAMILIES)
@pytest.mark.parametrize("point", sorted(PLACES))
def test_a_patch_is_what_torch_hooks_and_nnsight_make(family: str, point: str) -> None:
    model, clean, corrupted = pair(family)
    _, cache = model.run_with_cache(clean)
    plain = model(corrupted)
    chosen = settings(model, clean, point)
    for layer, positions, head in chosen:
        edit = Patch.of(cache, point, layer, positions, head)
        found = model.run_with_hooks(corrupted, interventions=edit)
        where = clean.token_map.resolve(positions)[0]
        share = rounding(family)
        assert bounds.moved(found, plain, share), (point, layer, positions, head)
        bounds.close(found, by_torch_hooks(family, point, layer, where, head), share)
        bounds.close(found, by_nnsight(model, clean, corrupted, point, layer, where, head), share)
        metric = lambda logits: logits[:, -5:].square().sum((1, 2))  # noqa: E731
        heads = None if head is None else [head]
        table = patching.sweep(model, clean, corrupted, metric, point, layer, [positions], heads)
        # A square is off by twice as much of its logit, which is at most the largest.
        bounds.close(table.value, metric(found).double(), 2 * share, size=found[:, -5:].abs().sum() * found.abs().max())
        assert table.effect.item() != 0 or torch.equal(found[:, -5:], plain[:, -5:])


@pytest.mark.parametrize("family", FAMILIES)
def test_at_every_point_nothing_differs_between_a_prompt_and_itself(family: str) -> None:
    model, clean, corrupted = pair(family, same=True)
    metric = lambda logits: logits[:, -1, 17]  # noqa: E731
    for positions, heads in (("each", None), (["image"], "each")):
        table = patching.sweep(model, clean, corrupted, metric, sorted(PLACES), [1], positions, heads, batch_size=40)
        assert (table.effect == 0.0).all() and table.point.nunique() == len(PLACES)
