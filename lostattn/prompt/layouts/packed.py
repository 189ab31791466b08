"""Layouts of pictures that keep a size of their own: their patches packed or padded, their grids in the inputs."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import groupby

from lostattn.pictures.crops import shown_parts
from lostattn.pictures.patch_grid import PatchGrid, UnknownGrid
from lostattn.pictures.shown import Shown, Size
from lostattn.prompt.layouts.base import SEPARATOR, Batch, ImageLayout, placed_grid
from lostattn.prompt.layouts.grids import patch_side


def packed_layouts(batch: Batch) -> list[ImageLayout] | None:
    """Pictures resized to whole tokens, each with its own number of them; the grid is in the inputs."""
    thw = next((batch.inputs[name] for name in _GRIDS if name in batch.inputs), None)
    if thw is None:
        return None
    shapes = [(1, *row) if len(row) == 2 else tuple(row) for row in thw.tolist()]
    patches = sum(frames * high * wide for frames, high, wide in shapes)
    merge = packed_merge(batch, patches)
    framed = (
        not merge and sum(_with_newlines(shape, m) for shape in shapes for m in [_said_merge(batch)]) == batch.tokens
    )
    merge = merge or _said_merge(batch)
    sizes = batch.flat_sizes
    known = sizes if sizes is not None and len(sizes) == len(shapes) else [(None, 1)] * len(shapes)
    layouts = []
    for (frames, high, wide), (size, _) in zip(shapes, known, strict=True):
        # The picture is resized to exactly these patches, so the grid covers all of it.
        covers = None if size is None else (0.0, 0.0, float(size[0]), float(size[1]))
        grid = PatchGrid(high // merge, wide // merge, frames, size, merge, covers)
        order = tuple(range(len(grid)))
        if framed:  # a token before, a newline after each row, a token behind
            lines = [(*order[r * grid.cols : (r + 1) * grid.cols], SEPARATOR) for r in range(frames * grid.rows)]
            order = (SEPARATOR, *(one for line in lines for one in line), SEPARATOR)
        layouts.append(ImageLayout(len(order), grid, order, rows=frames * high * wide))
    return layouts


_GRIDS = ("image_grid_thw", "grid_thws", "image_grid_hw")


def _said_merge(batch: Batch) -> int:
    """Patches along each side of a token, as the processor and the config of a packing family say it."""
    images = getattr(batch.processor, "image_processor", None)
    return batch.number("merge_size", images) or batch.number("spatial_merge_size", batch.vision, batch.config) or 1


def packed_merge(batch: Batch, patches: int) -> int | None:
    """What is said, if it makes the right number of tokens; else the merge that does; None where none does."""
    if patches == batch.tokens * (said := _said_merge(batch)) ** 2:
        return said
    ratio = round((patches / batch.tokens) ** 0.5) if batch.tokens else 0
    return ratio if ratio and patches == batch.tokens * ratio**2 else None


def _with_newlines(shape: tuple[int, ...], merge: int) -> int:
    """The tokens of a grid with one before it, one after each row, and one behind it."""
    frames, high, wide = shape
    return frames * (high // merge) * (wide // merge + 1) + 2


def sized_layouts(batch: Batch) -> list[ImageLayout] | None:
    """Pictures of their own size in pixels, padded to one tensor; the inputs say each size (Pixtral and its kin).

    Some end each row of tokens with a newline among the image's tokens (Emu 3).
    """
    sizes, pixels, side = batch.inputs.get("image_sizes"), batch.inputs.get("pixel_values"), patch_side(batch)
    if sizes is None or pixels is None or side is None or sizes.shape != (len(pixels), 2):
        return None
    merge = batch.number("spatial_merge_size", batch.config, batch.vision) or 1
    step = side * merge
    shapes = [(high // step, wide // step) for high, wide in sizes.tolist()]
    newline = next((n for n in (0, 1) if sum(rows * (cols + n) for rows, cols in shapes) == batch.tokens), None)
    if newline is None:
        return None
    layouts = []
    for k, (rows, cols) in enumerate(shapes):
        size, parts, note = shown_of(batch, k, len(shapes))
        tensor = (int(sizes[k][1]), int(sizes[k][0]))
        grid = placed_grid(PatchGrid(rows, cols, merge=merge), parts[0] if parts else None, size, note, tensor, step)
        order = [p for r in range(rows) for p in (*range(r * cols, (r + 1) * cols), *[SEPARATOR] * newline)]
        layouts.append(ImageLayout(len(order), grid, tuple(order)))
    return layouts


def shown_of(batch: Batch, k: int, n: int) -> tuple[Size | None, list[Shown] | None, str | None]:
    """Of the k-th of `n` pictures: its size, what its tensors show, or why that is not known."""
    known = batch.flat_sizes
    if known is None or len(known) != n:
        return None, None, None
    size, together = known[k]
    shown = shown_parts(batch.processor, size, together)
    return (size, None, shown) if isinstance(shown, str) else (size, shown, None)


def positioned_layouts(batch: Batch) -> list[ImageLayout] | None:
    """Patches that say their own column and row; -1 where there is none.

    They are either the tower's, pooled in squares into tokens (Gemma 4), or tokens already.
    """
    places, pool = batch.inputs.get("image_position_ids"), batch.number("pooling_kernel_size", batch.vision)
    if places is None or places.ndim != 3 or not pool:
        return None
    for merge in (pool, 1):
        shapes = [(int(y) // merge, int(x) // merge) for x, y in (places.amax(1) + 1).tolist()]
        if sum(rows * cols for rows, cols in shapes) == batch.tokens:
            break
    else:
        return None
    layouts = []
    for k, (rows, cols) in enumerate(shapes):
        size, _, _ = shown_of(batch, k, len(shapes))
        covers = None if size is None else (0.0, 0.0, float(size[0]), float(size[1]))
        grid = PatchGrid(rows, cols, size=size, merge=merge, covers=covers)
        layouts.append(ImageLayout(len(grid), grid, tuple(range(len(grid)))))
    return layouts


def lined_layouts(batch: Batch) -> list[ImageLayout] | None:
    """A row of pixel values for every token, with no grid in the inputs.

    How many make a row of the picture is said by the one token that stands after each row in the ids (Fuyu), or follows
    from the picture's size and its processor.
    """
    pixels = batch.inputs.get("image_patches", batch.inputs.get("pixel_values"))
    if pixels is None or pixels.ndim not in (2, 5) or len(pixels) != batch.tokens or batch.ids is None:
        return None
    sizes = batch.flat_sizes
    rows = [row for ids in batch.ids for row in _lines(ids, batch.image_id, newline_id(batch))]
    n = len(rows) if sizes is None else len(sizes)
    if len(rows) != n:
        rows = [[sum(map(sum, rows))]] if n == 1 else []
    layouts = []
    for k, runs in enumerate(rows):
        size, parts, note = shown_of(batch, k, n)
        layouts.append(_lined(batch, runs, size, parts[0] if parts else None, note))
    return layouts or None


def newline_id(batch: Batch) -> int | None:
    """The id of what ends a row of a picture in the ids, where the processor names it."""
    return batch.number("image_newline_id", batch.processor)


def _lines(ids: Sequence[int], image_id: int | None, newline: int | None) -> list[list[int]]:
    """The lengths of the rows of every picture: runs of image tokens with one newline between them."""
    runs = [(image, len(list(run))) for image, run in groupby(ids, lambda token: token == image_id)]
    pictures: list[list[int]] = []
    at, end, before = 0, -1, None
    for image, length in runs:
        if image:
            gap = list(ids[end:at]) if end >= 0 else []
            more = len(gap) == 1 and (gap[0] == newline if newline is not None else before in (None, gap[0]))
            if pictures and more:
                pictures[-1].append(length)
                before = gap[0]
            else:
                pictures.append([length])
                before = None
            end = at + length
        at += length
    return pictures


def _lined(batch: Batch, runs: list[int], size: Size | None, part: Shown | None, note: str | None) -> ImageLayout:
    """The layout of one picture of the rows that the ids show."""
    tokens, side = sum(runs), patch_side(batch)
    shape = (len(runs), runs[0]) if len(runs) > 1 and len(set(runs)) == 1 else None
    if part is not None and side and (of_size := (part.size[1] // side, part.size[0] // side)):
        shape = of_size if of_size[0] * of_size[1] == tokens else shape
    if shape is None:
        reason = (
            "each of its tokens is a row of its pixel values, and nothing in the inputs says how many make a row of the"
            " picture; give the picture with images="
        )
        return ImageLayout(tokens, UnknownGrid(reason, size))
    grid = PatchGrid(*shape)
    if side:
        grid = placed_grid(grid, part, size, note, (shape[1] * side, shape[0] * side), side)
    return ImageLayout(tokens, grid, tuple(range(tokens)))
