"""Paint one patch's box in a picture, run the real processor, and see which tokens change before anything is mixed."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import bounds
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
    """What painting boxes changed.

    Attributes:
        patches: the patches, of the first image, whose tokens changed.
        elsewhere: how many other positions changed.
    """

    patches: set[int]
    elsewhere: int


def paint(name: str, size: tuple[int, int], *boxes: tuple[int, int, int, int]) -> Painted:
    """Paint whole pixels of a grey picture, and compare what the decoder is given."""
    painted = grey(*size)
    for box in boxes:
        painted.paste((255, 0, 127), box)
    before, after = _plain(name, size), prompt(name, painted)
    moved = bounds.changed(seen(name, after), before[1])
    token_map = before[0].token_map
    where = token_map if token_map.cross is None else token_map.cross
    image, patch = where.image_index[0], where.patch_index[0]
    known = (image == 0) & (patch >= 0)
    return Painted(set(patch[moved & known].tolist()), int((moved & ~known).sum()))


_PLAIN: dict[tuple[str, tuple[int, int]], tuple[Any, torch.Tensor]] = {}


def _plain(name: str, size: tuple[int, int]) -> tuple[Any, torch.Tensor]:
    if (name, size) not in _PLAIN:
        given = prompt(name, grey(*size))
        _PLAIN[name, size] = (given, seen(name, given))
    return _PLAIN[name, size]


def grid_of(name: str, size: tuple[int, int]) -> Any:
    """The grid of a picture of that size."""
    return _plain(name, size)[0].token_map.grids[0][0]


def inside(box: torch.Tensor) -> tuple[int, int, int, int]:
    """Whole pixels well inside a patch's box, so that resizing does not blur them into its neighbours."""
    x0, y0, x1, y1 = box.tolist()
    across, down = (x1 - x0) * 0.3, (y1 - y0) * 0.3
    found = (round(x0 + across), round(y0 + down), round(x1 - across), round(y1 - down))
    assert found[2] > found[0] and found[3] > found[1], "choose a larger picture: this patch has no pixel well inside"
    return found


def check(name: str, size: tuple[int, int], patch: int, boxes: torch.Tensor | None = None) -> None:
    """Painting well inside a patch changes its token, no other of its own tile, and what lies there in other tiles.

    A patch elsewhere (of the thumbnail, or of the tile below a thumbnail) must change where the paint lies in its
    middle half, and may change where the paint comes within half a patch of it, as far as resizing blurs.
    """
    grid = grid_of(name, size)
    boxes = grid.boxes() if boxes is None else boxes
    x0, y0, x1, y1 = inside(boxes[patch])
    found = paint(name, size, (x0, y0, x1, y1))
    assert not found.elsewhere, "a position that is no patch of the picture changed"

    def touched(part: torch.Tensor, grown: float) -> set[int]:
        wide, high = (part[:, 2] - part[:, 0]) * grown, (part[:, 3] - part[:, 1]) * grown
        across = (part[:, 0] - wide < x1) & (x0 < part[:, 2] + wide)
        return set((across & (part[:, 1] - high < y1) & (y0 < part[:, 3] + high)).nonzero().flatten().tolist())

    start = 0
    for tile in grid.tiles:
        part = boxes[start : start + len(tile)]
        changed = {p - start for p in found.patches if start <= p < start + len(tile)}
        if start <= patch < start + len(tile):
            assert changed == {patch - start}, f"patches {sorted(changed)} changed, not {patch - start} alone"
        else:
            real = {p for p in range(len(part)) if (part[p, 2:] > part[p, :2]).all()}
            must, may = touched(part, -0.25) & real, touched(part, 0.5)
            assert must <= changed <= may, f"in another tile {sorted(changed)} changed, not {sorted(must)}"
        start += len(tile)
