"""Paint one patch's box in a picture, run the real processor, and see which tokens change before anything is mixed."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import families
import numpy as np
import torch
from PIL import Image

from lostattn.prompt import build_prompt

TEXT = "How many red squares are there?"


def noise(width: int, height: int, seed: int = 0) -> Image.Image:
    """A picture with no two pixels alike."""
    rng = np.random.default_rng(seed)
    return Image.fromarray(rng.integers(0, 256, (height, width, 3), dtype=np.uint8))


def grey(width: int, height: int) -> Image.Image:
    """A picture of one colour."""
    return Image.new("RGB", (width, height), (90, 90, 90))


def prompt(name: str, *pictures: Image.Image) -> Any:
    """One question about some pictures, through the family's own processor."""
    family = families.family(name)
    marks = "<image>" * len(pictures) if family.name == "paligemma" else ""  # it has no chat template
    return build_prompt(family.processor, family.config, marks + TEXT, images=list(pictures))


@torch.no_grad()
def seen(name: str, given: Any) -> torch.Tensor:
    """What the decoder is given of the pictures of a prompt: ``[position, width]``, or ``[key, width]``."""
    model = families.model(name)
    kept = []
    if given.token_map.cross is not None:
        projector = model.model.multi_modal_projector
        hook = projector.register_forward_hook(lambda m, a, out: kept.append(out.reshape(-1, out.shape[-1])))
    else:
        decoder = model.get_decoder()
        hook = decoder.register_forward_pre_hook(
            lambda m, a, k: kept.append(k["inputs_embeds"][0].clone()), with_kwargs=True
        )
    try:
        model(**given.inputs)
    finally:
        hook.remove()
    return kept[0]


@dataclass(frozen=True)
class Painted:
    """What painting a box changed.

    Attributes:
        patches: the patches, of the first image, whose tokens changed.
        elsewhere: how many other positions changed.
        box: what was painted.
    """

    patches: set[int]
    elsewhere: int
    box: tuple[int, int, int, int]


def paint(name: str, size: tuple[int, int], box: tuple[int, int, int, int], colour: int = 255) -> Painted:
    """Paint whole pixels of a grey picture, and compare what the decoder is given."""
    plain, painted = grey(*size), grey(*size)
    painted.paste((colour, 0, colour // 2), box)
    before, after = _plain(name, size), prompt(name, painted)
    moved = (seen(name, after) - before[1]).abs().amax(-1) > 1e-5
    token_map = before[0].token_map
    where = token_map if token_map.cross is None else token_map.cross
    image, patch = where.image_index[0], where.patch_index[0]
    known = (image == 0) & (patch >= 0)
    assert plain.size == painted.size
    return Painted(set(patch[moved & known].tolist()), int((moved & ~known).sum()), box)


_PLAIN: dict[tuple[str, tuple[int, int]], tuple[Any, torch.Tensor]] = {}


def _plain(name: str, size: tuple[int, int]) -> tuple[Any, torch.Tensor]:
    if (name, size) not in _PLAIN:
        given = prompt(name, grey(*size))
        _PLAIN[name, size] = (given, seen(name, given))
    return _PLAIN[name, size]


def grid_of(name: str, size: tuple[int, int]) -> Any:
    """The grid of a picture of that size."""
    return _plain(name, size)[0].token_map.grids[0][0]
