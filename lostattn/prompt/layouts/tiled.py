"""Layouts of pictures that are cut into tiles: laid together again with newlines, or each between its own marks."""

from __future__ import annotations

import math
import re
from collections.abc import Sequence
from dataclasses import replace
from typing import Any

from torch import Tensor

from lostattn.pictures.crops import shown_parts
from lostattn.pictures.patch_grid import Edges, PatchGrid, TiledGrid, UnknownGrid
from lostattn.pictures.shown import Shown, Size
from lostattn.prompt.layouts.base import SEPARATOR, Batch, ImageLayout, cuts_pictures, joined_grids, placed_grid
from lostattn.prompt.layouts.grids import merge_factor, patch_side, token_grid
from lostattn.prompt.layouts.marks import marked_pieces


def any_resolution(batch: Batch) -> list[ImageLayout] | None:
    """A thumbnail, then the tiles' patches as one grid without its padding, a newline after each row (LLaVA-NeXT).

    A picture that is not cut up (one of several in a prompt, LLaVA-OneVision) is one tensor and a newline.
    """
    pixels, sizes = batch.inputs.get("pixel_values"), batch.inputs.get("image_sizes")
    pins, side = getattr(batch.config, "image_grid_pinpoints", None), patch_side(batch)
    if pixels is None or sizes is None or side is None or not pins or pixels.ndim != 5 or len(sizes) != len(pixels):
        return None
    counts = batch.inputs.get("batch_num_images")
    alone = [n == 1 for n in counts.tolist() for _ in range(n)] if counts is not None else [True] * len(sizes)
    base = pixels.shape[-1] // side
    merge = merge_factor(batch, base, base * base) or 1
    layouts = []
    for k, (high, wide) in enumerate(sizes.tolist()):
        # The processor saw the pictures in this size, so it is known also where the pictures are not.
        parts = shown_parts(batch.processor, (wide, high), 1 if alone[k] else 2)
        known = batch.flat_sizes
        size = known[k][0] if known is not None and len(known) == len(sizes) else None
        if size is not None and size != (wide, high):
            parts, size = f"the picture is of {size}, but the processor saw one of {(wide, high)}", None
        picture = _Anyres(pixels.shape[-1], side * merge, base // merge, merge, (wide, high), size, parts)
        layouts.append(picture.cut(pins, _most_patches(batch.config)) if alone[k] else picture.whole())
    return layouts if sum(one.tokens for one in layouts) == batch.tokens else None


def _most_patches(config: Any) -> int | None:
    """How many tiles' worth of patches a picture may keep; more are interpolated down (``anyres_max_9``)."""
    ratio = getattr(config, "vision_aspect_ratio", None)
    found = re.search(r"(\d+)$", ratio) if isinstance(ratio, str) else None
    return int(found[1]) if found else None


class _Anyres:
    """One picture of the any-resolution layout."""

    def __init__(
        self, tensor: int, step: int, base: int, merge: int, seen: Size, size: Size | None, parts: list[Shown] | str
    ) -> None:
        self.tensor, self.step, self.base, self.merge, self.seen, self.size = tensor, step, base, merge, seen, size
        self.parts: list[Shown] | None = None if isinstance(parts, str) else parts
        self.note = parts if isinstance(parts, str) else None

    def _base(self) -> PatchGrid:
        grid = PatchGrid(self.base, self.base, merge=self.merge)
        part = self.parts[0] if self.parts is not None and self.size is not None else None
        return placed_grid(grid, part, self.size, self.note, (self.tensor, self.tensor), self.step)

    def whole(self) -> ImageLayout:
        """Not cut up: its patches and one newline."""
        grid = self._base()
        return ImageLayout(len(grid) + 1, grid, (*range(len(grid)), SEPARATOR))

    def cut(self, pins: Sequence[Sequence[int]], most: int | None) -> ImageLayout:
        """Cut up: thumbnail, and the tiles with a newline after each row."""
        from transformers.image_processing_utils import select_best_resolution

        wide, high = self.seen
        canvas = select_best_resolution((high, wide), [tuple(p) for p in pins])
        full = (canvas[0] // self.tensor * self.base, canvas[1] // self.tensor * self.base)
        (top, left), (rows, cols) = unpadded_area(full, self.seen)
        kept = (rows, cols)
        if most is not None and (ratio := math.sqrt(rows * cols / (most * self.base**2))) > 1.1:
            kept = (int(rows // ratio), int(cols // ratio))
        detail = PatchGrid(*kept, size=self.size, merge=self.merge, role="tiles")
        tiles = [part for part in self.parts or () if part.place is not None]
        if self.size is not None and tiles:
            across = [(part.covers[0], part.covers[2]) for part in tiles if part.place and part.place[0] == 0]
            down = [(part.covers[1], part.covers[3]) for part in tiles if part.place and part.place[1] == 0]
            x, y = self._edges(across, left, cols, kept[1]), self._edges(down, top, rows, kept[0])
            detail = replace(detail, covers=(x[0][0], y[0][0], x[-1][1], y[-1][1]), x_edges=x, y_edges=y)
        elif self.note is not None and self.size is not None:
            detail = replace(detail, note=self.note)
        thumbnail = replace(self._base(), role="thumbnail")
        n = len(thumbnail)
        lines = [(*range(n + r * kept[1], n + (r + 1) * kept[1]), SEPARATOR) for r in range(kept[0])]
        order = (*range(n), *(patch for line in lines for patch in line))
        return ImageLayout(len(order), TiledGrid((thumbnail, detail)), order)

    def _edges(self, spans: Sequence[tuple[float, float]], first: int, n: int, kept: int) -> Edges:
        """Where the columns (or rows) `first` to `first + n` of all tiles lie, as `kept` even shares of them.

        A tile's last pixels that are no whole patch belong to no column, so columns may have gaps between them.
        """

        def start(place: float, end: bool) -> float:
            place = round(place, 9)
            cell = math.ceil(place) - 1 if end else math.floor(place)
            tile = min(int(cell // self.base), len(spans) - 1)
            left, right = spans[tile]
            return left + (place - tile * self.base) * self.step / self.tensor * (right - left)

        share = n / kept
        return tuple((start(first + i * share, False), start(first + (i + 1) * share, True)) for i in range(kept))


def unpadded_area(full: tuple[int, int], seen: Size) -> tuple[tuple[int, int], tuple[int, int]]:
    """The first (row, column) and the number of (rows, columns) of a canvas that are not all padding."""
    (rows, cols), (wide, high) = full, seen
    if wide / high > cols / rows:
        spare = (rows - int(round(high * (cols / wide), 7))) // 2
        return (spare, 0), (rows - 2 * spare, cols)
    spare = (cols - int(round(wide * (rows / high), 7))) // 2
    return (0, spare), (rows, cols - 2 * spare)


def framed_tiles(batch: Batch) -> list[ImageLayout] | None:
    """Tiles of one size between marks of their own, those of an item in a row of `pixel_values` (Idefics, SmolVLM)."""
    pixels = batch.inputs.get("pixel_values")
    if pixels is None or pixels.ndim != 5 or "image_sizes" in batch.inputs or batch.ids is None:
        return None
    real = tile_mask(pixels).sum(-1).tolist()  # items with fewer tiles are filled with zeros
    if len(real) != len(batch.ids) or not sum(real) or batch.tokens % sum(real):
        return None
    each = batch.tokens // sum(real)
    found = token_grid(batch, pixels.shape[-2], pixels.shape[-1], each)
    tensor = (pixels.shape[-1], pixels.shape[-2])
    layouts: list[ImageLayout] = []
    for i, row in enumerate(batch.ids):
        for size, own, note in own_tiles(batch, i, row, real[i]):
            if isinstance(found, UnknownGrid):
                layouts.append(ImageLayout(each * len(own), replace(found, size=size), rows=len(own)))
                continue
            like = [(replace(found.grid, role=role, place=place), part) for part, role, place in own]
            grids = [placed_grid(grid, part, size, note, tensor, found.step) for grid, part in like]
            grid = joined_grids(grids)
            layouts.append(ImageLayout(len(grid), grid, tuple(range(len(grid))), rows=len(own)))
    return layouts


Tile = tuple[Shown | None, str, tuple[int, int] | None]
"""What a tile shows (None: not known), its role and its place."""


def own_tiles(batch: Batch, item: int, row: Sequence[int], n: int) -> list[tuple[Size | None, list[Tile], str | None]]:
    """The pictures of an item of `n` tiles: size, tiles, and why their place in the picture is not known."""
    sizes = batch.sizes[item] if batch.sizes is not None else []
    parts = _cut_into(batch, sizes, n) if batch.sizes is not None and cuts_pictures(batch.processor) else None
    if parts is not None:
        return [(size, [(p, p.role, p.place) for p in own], None) for size, own in zip(sizes, parts, strict=True)]
    marked = marked_pieces(batch, row)
    if marked is None or sum(len(own) for own in marked) != n:
        shares = [1] * n if len(sizes) == n else [n] * bool(n)
        marked = [[("whole" if m == 1 else "tile", None)] * m for m in shares]
    held = sizes if batch.sizes is not None and len(sizes) == len(marked) else None
    note = f"{type(getattr(batch.processor, 'image_processor', None)).__name__} prepares pictures in its own way"
    return [
        (held[k] if held else None, [(None, role, place) for role, place in own], note if held else None)
        for k, own in enumerate(marked)
    ]


def _cut_into(batch: Batch, sizes: Sequence[Size], n: int) -> list[list[Shown]] | None:
    """What the tiles of pictures of these sizes show, by the processor's own rule; None where it makes no `n` tiles."""
    for cut in (None, True, False):
        parts = [shown_parts(batch.processor, size, len(sizes), cut) for size in sizes]
        known = [own for own in parts if not isinstance(own, str)]
        if len(known) == len(parts) and sum(map(len, known)) == n:
            return known
    return None


def tile_mask(pixels: Tensor) -> Tensor:
    """Which tiles of ``[item, tile, channel, height, width]`` hold anything."""
    return pixels.ne(0).flatten(2).any(-1)
