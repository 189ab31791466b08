"""How the tokens of every image of a batch are laid out: their number, which patch each one is, the grid.

Everything is worked out from what the processor returned, from the ids, and from the attributes of processor and
config, never from a model's name. The layouts known are, in the order in which they are tried:

- *packed*: pictures of any size, their grid in the inputs (`image_grid_thw`, the Qwen families; here and below:
  `lostattn.prompt.layouts.packed`)
- *any resolution*: a thumbnail and a fitted picture with a newline after each row (`lostattn.prompt.layouts.tiled`)
- *framed*: tiles between marks of their own, an item's in a row of `pixel_values` (`lostattn.prompt.layouts.tiled`)
- *crossed*: pictures that are no tokens at all but keys of cross-attention layers (`lostattn.prompt.layouts.crossed`)
- *viewed*: all of a picture in one tensor, its tiles in another (`lostattn.prompt.layouts.viewed`)
- *gridded*: a small copy and a large one, the grids of both in the inputs (`lostattn.prompt.layouts.viewed`)
- *pieces*: a picture or its tiles, each of a shape of its own, the shapes in the inputs
  (`lostattn.prompt.layouts.viewed`)
- *positioned*: patches that say their own column and row
- *sized*: pictures of any size in one padded tensor, their sizes in the inputs
- *lined*: a row of pixel values for every token, rows of the picture told by newlines
- *whole*: tensors of one size, a row of `pixel_values` each, one or several a picture (here)
- *queries*: pixels in any other layout, read by queries that the config names (here)

What is not understood is an `UnknownGrid` that says why.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

from lostattn.pictures.crops import shown_parts
from lostattn.pictures.patch_grid import UnknownGrid
from lostattn.pictures.shown import Shown, Size
from lostattn.prompt.layouts.base import PLACELESS, Batch, ImageLayout, cuts_pictures, joined_grids, placed_grid
from lostattn.prompt.layouts.crossed import crossed_layouts
from lostattn.prompt.layouts.grids import placeless, resampler, token_grid
from lostattn.prompt.layouts.packed import lined_layouts, packed_layouts, positioned_layouts, sized_layouts
from lostattn.prompt.layouts.tiled import any_resolution, framed_tiles
from lostattn.prompt.layouts.viewed import gridded_views, pieces, viewed_layouts


def image_layouts(batch: Batch) -> list[ImageLayout] | None:
    """The layout of every image of a batch, in order.

    Returns:
        None where the inputs do not even say how many tokens each image has.
    """
    for layout in _LAYOUTS:
        found = layout(batch)
        if found is not None:
            return found
    return None


def _whole(batch: Batch) -> list[ImageLayout] | None:
    """Tensors of one size, a row of `pixel_values` each: a picture is one of them, or several where it is cut."""
    pixels = batch.inputs.get("pixel_values")
    if pixels is None or pixels.ndim != 4 or not len(pixels) or batch.tokens % len(pixels):
        return None
    each = batch.tokens // len(pixels)
    found = token_grid(batch, pixels.shape[-2], pixels.shape[-1], each)
    parts = _parts_by_image(batch, len(pixels), each)
    if parts is None:
        return None
    layouts = []
    for size, own, note in parts:
        if isinstance(found, UnknownGrid):
            layouts.append(ImageLayout(each * len(own), replace(found, size=size), rows=len(own)))
            continue
        n, tensor = len(found.grid), (pixels.shape[-1], pixels.shape[-2])
        grids = [placed_grid(found.grid, part, size, note, tensor, found.step) for part in own]
        order = [p for k in range(len(own)) for p in (*[PLACELESS] * found.lead, *range(k * n, (k + 1) * n))]
        layouts.append(ImageLayout(len(order), joined_grids(grids), tuple(order), rows=len(own)))
    return layouts


def _queries(batch: Batch) -> list[ImageLayout] | None:
    """A run of queries a picture, whatever the layout of the pixels that they read."""
    made, runs, sizes = resampler(batch.config), batch.runs(), batch.flat_sizes
    if made is None or not runs or (sizes is not None and len(sizes) != len(runs)):
        return None
    known = [size for size, _ in sizes] if sizes is not None else [None] * len(runs)
    return [ImageLayout(n, replace(placeless(n, made), size=size)) for n, size in zip(runs, known, strict=True)]


def _parts_by_image(
    batch: Batch, n: int, each: int
) -> list[tuple[Size | None, Sequence[Shown | None], str | None]] | None:
    """For every image: its size, what each of its tensors shows (None: not known), and why that is not known."""
    sizes = batch.flat_sizes
    if not sizes:
        return [(None, [None] * count, None) for count in _counts_by_runs(batch, n, each)]
    for cut in (None, True, False):
        found = [shown_parts(batch.processor, size, n_own, cut) for size, n_own in sizes]
        if any(isinstance(one, str) for one in found):
            break
        if sum(len(one) for one in found) == n:
            return [(size, list(one), None) for (size, _), one in zip(sizes, found, strict=True)]  # type: ignore[arg-type]
    if len(sizes) != n:
        return None
    whole = [shown_parts(batch.processor, size, n_own) for size, n_own in sizes]
    notes = [one if isinstance(one, str) else "the processor's own sizes do not fit its tensors" for one in whole]
    return [(size, [None], note) for (size, _), note in zip(sizes, notes, strict=True)]


def _counts_by_runs(batch: Batch, n: int, each: int) -> list[int]:
    """How many of `n` tensors each image has, by the runs of its tokens: one, where these do not say.

    Tensors whose tokens follow one another without a break are one picture's, unless there is no more than one tensor
    to a placeholder, as in the families that do not cut pictures.
    """
    runs = batch.runs() if batch.ids is not None and cuts_pictures(batch.processor) else []
    if any(run % each for run in runs) or sum(runs) != n * each:
        return [1] * n
    return [run // each for run in runs]


_LAYOUTS = (
    packed_layouts,
    any_resolution,
    framed_tiles,
    crossed_layouts,
    viewed_layouts,
    gridded_views,
    pieces,
    positioned_layouts,
    sized_layouts,
    lined_layouts,
    _whole,
    _queries,
)
"""In the order in which they are tried."""
