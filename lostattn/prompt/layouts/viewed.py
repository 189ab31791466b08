"""Layouts of pictures that are seen as a whole and in tiles, with a tensor or a shape of its own for each."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace

from torch import Tensor

from lostattn.pictures.patch_grid import Edges, PatchGrid, TiledGrid
from lostattn.pictures.shown import Shown, Size
from lostattn.prompt.layouts.base import PLACELESS, SEPARATOR, Batch, ImageLayout, joined_grids, placed_grid
from lostattn.prompt.layouts.grids import may_query, patch_side, placeless, resampler
from lostattn.prompt.layouts.marks import image_runs, item_of_each, marked_pieces, tile_places
from lostattn.prompt.layouts.packed import packed_merge, shown_of
from lostattn.prompt.layouts.tiled import own_tiles

_SHAPES = ("target_sizes", "tgt_sizes", "spatial_shapes")


def pieces(batch: Batch) -> list[ImageLayout] | None:
    """A picture, or all of it and its tiles, each of a shape of its own; the inputs say the shapes in patches."""
    shapes = next((batch.inputs[name].tolist() for name in _SHAPES if name in batch.inputs), None)
    merge = packed_merge(batch, sum(high * wide for high, wide in shapes)) if shapes else None
    if shapes is None or merge is None:
        return None
    cells = [(high // merge, wide // merge) for high, wide in shapes]
    layouts = []
    for size, own, note in _pictures(batch, [rows * cols for rows, cols in cells]):
        grids: list[PatchGrid] = []
        for k, part, role, place in own:
            tensor = (shapes[k][1], shapes[k][0])
            side = patch_side(batch)
            if part is not None and side:
                part = replace(part, size=(part.size[0] // side, part.size[1] // side))
            cell = PatchGrid(*cells[k], merge=merge, role=role, place=place)
            grids.append(placed_grid(cell, part, size, note, tensor, merge))
        n = sum(map(len, grids))
        layouts.append(ImageLayout(n, joined_grids(grids), tuple(range(n)), rows=len(own)))
    return layouts


_Own = list[tuple[int, Shown | None, str, tuple[int, int] | None]]


def _pictures(batch: Batch, counts: list[int]) -> list[tuple[Size | None, _Own, str | None]]:
    """Every picture: its size, its pieces (which one, what it shows, role, place), why their place is not known.

    Args:
        batch: as everywhere.
        counts: the tokens of every piece of the batch, in order.
    """
    items = item_of_each(batch, counts)
    if items is None:
        return [(None, [(k, None, "whole", None)], None) for k in range(len(counts))]
    found: list[tuple[Size | None, _Own, str | None]] = []
    for i, own in enumerate(items):
        row = batch.ids[i] if batch.ids is not None else ()
        left = iter(own)
        grouped = own_tiles(batch, i, row, len(own))
        if batch.sizes is None and marked_pieces(batch, row) is None:
            grouped = [(None, [(None, "whole", None)], None)] * len(own)
        for size, parts, note in grouped:
            found.append((size, [(next(left), part, role, place) for part, role, place in parts], note))
    return found


def gridded_views(batch: Batch) -> list[ImageLayout] | None:
    """A small copy and a large one of each picture, the rows and columns of both in the inputs (Molmo 2).

    The patches that each token pools are in the inputs too; -1 among them where the last row or column of tokens has
    fewer, so that rows and columns are of unequal size.
    """
    shapes, pooled = batch.inputs.get("image_grids"), batch.inputs.get("image_token_pooling")
    if shapes is None or shapes.ndim != 2 or shapes.shape[1] != 4:
        return None
    both = [[(low[0], low[1]), (low[2], low[3])] for low in shapes.tolist()]
    if sum(rows * cols for pair in both for rows, cols in pair) != batch.tokens:
        return None
    layouts, at = [], 0
    for k, pair in enumerate(both):
        size, _, note = shown_of(batch, k, len(both))
        real = [shape for shape in pair if shape[0] * shape[1]]
        grids = []
        for n, (rows, cols) in enumerate(real):
            role = "whole" if len(real) == 1 else ("thumbnail", "tiles")[n]
            own = None if pooled is None else pooled[at : at + rows * cols]
            at += rows * cols
            grids.append(_pooled(PatchGrid(rows, cols, role=role), own, size, note))
        grid = grids[0] if len(grids) == 1 else TiledGrid(tuple(grids))
        layouts.append(ImageLayout(len(grid), grid, tuple(range(len(grid)))))
    return layouts


def _pooled(grid: PatchGrid, pooled: Tensor | None, size: Size | None, note: str | None) -> PatchGrid:
    """A grid that covers all of its picture, with rows and columns as large as the patches that they pool are many."""
    side = 1 if pooled is None else math.isqrt(pooled.shape[1])
    if pooled is None or side * side != pooled.shape[1] or len(pooled) != len(grid):
        return grid
    grid = replace(grid, merge=side, size=size)
    if size is None or note is not None:
        return grid if note is None else replace(grid, note=note)
    real = (pooled >= 0).reshape(grid.rows, grid.cols, side, side)
    high, wide = real.any(3).any(1).sum(-1).tolist(), real.any(2).any(0).sum(-1).tolist()
    x, y = _shares(wide, float(size[0])), _shares(high, float(size[1]))
    return replace(grid, covers=(0.0, 0.0, float(size[0]), float(size[1])), x_edges=x, y_edges=y)


def _shares(weights: Sequence[int], length: float) -> Edges:
    """A length in shares of these weights, one after another."""
    cuts = [sum(weights[:k]) * length / sum(weights) for k in range(len(weights) + 1)]
    return tuple(zip(cuts[:-1], cuts[1:], strict=True))


@dataclass(frozen=True)
class _View:
    """The tokens of a batch's tensors: (rows, columns) of a whole picture and of a tile, whether newlines end rows."""

    whole: tuple[int, int]
    tile: tuple[int, int]
    step: int
    newlines: bool


def viewed_layouts(batch: Batch) -> list[ImageLayout] | None:
    """All of each picture in `pixel_values`, its tiles in `pixel_values_local`; `num_local_patches` says how many.

    Tiles come first. Either each keeps its own tokens (Step 3.7), or they are laid together as one grid with a newline
    after each row, and a separator ends the picture (Unlimited-OCR). Learned queries (DeepSeek-OCR 2) have no place.
    """
    pixels, local = batch.inputs.get("pixel_values"), batch.inputs.get("pixel_values_local")
    counted, said = batch.inputs.get("num_local_patches"), batch.inputs.get("patches_grid")
    two_towers = getattr(batch.vision, "sam_config", None) is not None
    if pixels is None or pixels.ndim != 4 or not (two_towers or (counted is not None and local is not None)):
        return None
    n = len(pixels)
    tiles = [0] * n if counted is None else [int(one) for one in counted]
    shapes = [None if said is None or not tiles[k] else (int(said[k][1]), int(said[k][0])) for k in range(n)]
    if made := resampler(batch.config):
        return _queried(batch, n, made)
    view = _solved(batch, pixels, local, tiles, shapes)
    if view is None:
        return None
    places = _places(batch, view, tiles, shapes)
    return [_viewed(batch, view, k, places[k], pixels, local) for k in range(n)]


def _queried(batch: Batch, n: int, made: str) -> list[ImageLayout] | None:
    """Queries and the separator behind each picture's."""
    runs = batch.runs()
    counts = runs if len(runs) == n else [batch.tokens // n] * n
    if sum(counts) != batch.tokens:
        return None
    sizes = batch.flat_sizes if batch.flat_sizes is not None and len(batch.flat_sizes) == n else [(None, 1)] * n
    return [
        ImageLayout(c, replace(placeless(c - 1, made), size=size), (*[PLACELESS] * (c - 1), SEPARATOR))
        for c, (size, _) in zip(counts, sizes, strict=True)
    ]


def _solved(
    batch: Batch, pixels: Tensor, local: Tensor | None, tiles: Sequence[int], shapes: Sequence[tuple[int, int] | None]
) -> _View | None:
    """The pixels along each side of a token that make the right number of tokens, with newlines or without."""
    side = patch_side(batch)
    laid = any(shape is not None for shape in shapes)  # how tiles lie is said where they are laid together
    if not side or may_query(batch.config):
        return None
    for step in (side * k for k in range(1, 17)):
        whole, tile = (_shape(one, step) for one in (pixels, local))
        if whole is None or tile is None:
            continue
        if not laid and sum(n * tile[0] * tile[1] + whole[0] * whole[1] for n in tiles) == batch.tokens:
            return _View(whole, tile, step, False)
        detail = [(r * tile[0], c * tile[1]) for r, c in (shape or (0, 0) for shape in shapes)]
        if sum(r * (c + 1) + whole[0] * (whole[1] + 1) + 1 for r, c in detail) == batch.tokens:
            return _View(whole, tile, step, True)
    return None


def _shape(pixels: Tensor | None, step: int) -> tuple[int, int] | None:
    """How many steps a tensor is high and wide, no steps where it is not there; None where they are no whole number."""
    high, wide = (0, 0) if pixels is None else pixels.shape[-2:]
    return None if high % step or wide % step else (high // step, wide // step)


def _places(
    batch: Batch, view: _View, tiles: Sequence[int], shapes: Sequence[tuple[int, int] | None]
) -> list[list[tuple[int, int] | None]]:
    """The row and column of each tile of every picture, as the inputs say them or the ids between tiles show them."""
    if view.newlines:
        return [[(r, c) for r in range(s[0]) for c in range(s[1])] if s else [] for s in shapes]
    runs = [run for row in batch.ids or () for run in image_runs(row, batch.image_id)]
    known = len(runs) == sum(tiles) + len(tiles)
    found: list[list[tuple[int, int] | None]] = []
    at = 0
    for n in tiles:
        found.append(tile_places(runs[at : at + n]) if known else [None] * n)
        at += n + 1
    return found


def _viewed(
    batch: Batch, view: _View, k: int, places: Sequence[tuple[int, int] | None], pixels: Tensor, local: Tensor | None
) -> ImageLayout:
    """The layout of the k-th picture."""
    size, parts, note = shown_of(batch, k, len(pixels))
    if parts is not None and len(parts) != len(places) + 1:
        note = f"its processor should make {len(parts)} tensors of it, but there are {len(places) + 1}"
        parts = None
    role = "thumbnail" if places else "whole"
    tensor, patches = (pixels.shape[-1], pixels.shape[-2]), patch_side(batch) or 1
    merge = view.step // patches
    whole = PatchGrid(*view.whole, merge=merge, role=role)
    whole = placed_grid(whole, parts[-1] if parts else None, size, note, tensor, view.step)
    grids = [whole]
    if local is not None and places:
        tensor = (local.shape[-1], local.shape[-2])
        cut = [PatchGrid(*view.tile, merge=merge, role="tile", place=place) for place in places]
        shown: Sequence[Shown | None] = parts[:-1] if parts is not None else [None] * len(cut)
        cut = [placed_grid(g, part, size, note, tensor, view.step) for g, part in zip(cut, shown, strict=True)]
        grids = [_laid_together(cut), whole] if view.newlines else [*cut, whole]
    order: list[int] = []
    start = 0
    for grid in grids:
        for row in range(grid.rows):
            order += [*range(start + row * grid.cols, start + (row + 1) * grid.cols), *[SEPARATOR] * view.newlines]
        start += len(grid)
    order += [SEPARATOR] * view.newlines
    return ImageLayout(len(order), joined_grids(grids), tuple(order))


def _laid_together(tiles: Sequence[PatchGrid]) -> PatchGrid:
    """Tiles as one grid, as large as they are."""
    last = tiles[-1].place or (0, 0)
    grid = replace(tiles[0], role="tiles", place=None)
    grid = replace(grid, rows=tiles[0].rows * (last[0] + 1), cols=tiles[0].cols * (last[1] + 1))
    first, end = tiles[0].covers, tiles[-1].covers
    return grid if first is None or end is None else replace(grid, covers=(*first[:2], *end[2:]))
