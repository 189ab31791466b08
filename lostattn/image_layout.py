"""How the tokens of every image of a batch are laid out: their number, which patch each one is, the grid.

Everything is worked out from what the processor returned, from the ids, and from the attributes of processor and
config, never from a model's name. The layouts known are, in the order in which they are tried:

- *packed*: pictures of any size, their grid in the inputs (`image_grid_thw`, the Qwen families; here and below:
  `lostattn.packed_layouts`)
- *any resolution*: a thumbnail and a fitted picture with a newline after each row (`lostattn.tiled_layouts`)
- *framed*: tiles between marks of their own, an item's in a row of `pixel_values` (`lostattn.tiled_layouts`)
- *crossed*: pictures that are no tokens at all but keys of cross-attention layers (`lostattn.cross_layout`)
- *viewed*: all of a picture in one tensor, its tiles in another (`lostattn.viewed_layouts`)
- *gridded*: a small copy and a large one, the grids of both in the inputs (`lostattn.viewed_layouts`)
- *pieces*: a picture or its tiles, each of a shape of its own, the shapes in the inputs (`lostattn.viewed_layouts`)
- *positioned*: patches that say their own column and row
- *sized*: pictures of any size in one padded tensor, their sizes in the inputs
- *lined*: a row of pixel values for every token, rows of the picture told by newlines
- *whole*: tensors of one size, a row of `pixel_values` each, one or several a picture (here)
- *queries*: pixels in any other layout, read by queries that the config names (here)

What is not understood is an `UnknownGrid` that says why.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import groupby
from typing import Any

from torch import Tensor

from lostattn.crop_geometry import Shown, Size, shown_parts
from lostattn.patch_grid import Grid, PatchGrid, TiledGrid, UnknownGrid
from lostattn.token_grids import placeless, resampler, token_grid

__all__ = ["Batch", "ImageLayout", "PatchGrid", "TiledGrid", "UnknownGrid", "image_layouts"]

PLACELESS = -1
"""In `ImageLayout.order`: a token made of the picture that has no place in it (CLS, a resampler's)."""
SEPARATOR = -2
"""In `ImageLayout.order`: a token among the image's that nothing of the picture goes into (a newline)."""


@dataclass(frozen=True)
class ImageLayout:
    """One image in the tokens.

    Attributes:
        tokens: how many image tokens it has.
        grid: where they lie.
        order: for each of the tokens the patch that it is, `PLACELESS` or `SEPARATOR`; None: all placeless.
        rows: how many rows of `pixel_values` it takes up, where these go by tile.
    """

    tokens: int
    grid: Grid
    order: tuple[int, ...] | None = None
    rows: int = 1

    @property
    def patches(self) -> tuple[int, ...]:
        """`order`, written out."""
        return (PLACELESS,) * self.tokens if self.order is None else self.order


@dataclass(frozen=True)
class Batch:
    """What layouts are worked out from.

    Attributes:
        inputs: the processor's output.
        config, processor: the model's.
        ids: the real ids of each item; None where only their number is known.
        image_id: the id of an image token.
        sizes: (width, height) of the original pictures of each item; None where they are not known.
        tokens: the number of image tokens in the whole batch.
    """

    inputs: Mapping[str, Tensor]
    config: Any
    processor: Any
    ids: Sequence[Sequence[int]] | None
    image_id: int | None
    sizes: Sequence[Sequence[Size]] | None
    tokens: int

    @property
    def flat_sizes(self) -> list[tuple[Size, int]] | None:
        """Each picture's size, with the number of pictures in its item."""
        return None if self.sizes is None else [(size, len(own)) for own in self.sizes for size in own]

    def runs(self) -> list[int]:
        """The lengths of the unbroken runs of image tokens, item after item."""
        found = [groupby(row, lambda t: t == self.image_id) for row in self.ids or ()]
        return [sum(1 for _ in run) for groups in found for is_image, run in groups if is_image]

    def number(self, name: str, *holders: Any) -> int | None:
        """The first int of that name among the holders (default: processor, vision config, image processor, config)."""
        own = (self.processor, self.vision, getattr(self.processor, "image_processor", None), self.config)
        for holder in holders or own:
            value = getattr(holder, name, None)
            if isinstance(value, int) and not isinstance(value, bool):
                return value
        return None

    @property
    def vision(self) -> Any:
        """The config of the vision tower."""
        return getattr(self.config, "vision_config", None)


def image_layouts(batch: Batch) -> list[ImageLayout] | None:
    """The layout of every image of a batch, in order.

    Returns:
        None where the inputs do not even say how many tokens each image has.
    """
    from lostattn import cross_layout, tiled_layouts, viewed_layouts
    from lostattn import packed_layouts as own_size

    tiled = (tiled_layouts.any_resolution, tiled_layouts.framed, cross_layout.crossed)
    viewed = (viewed_layouts.viewed, viewed_layouts.gridded, viewed_layouts.pieces)
    for layout in (
        own_size.packed,
        *tiled,
        *viewed,
        own_size.positioned,
        own_size.sized,
        own_size.lined,
        _whole,
        _queries,
    ):
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
        grids = [placed(found.grid, part, size, note, tensor, found.step) for part in own]
        order = [p for k in range(len(own)) for p in (*[PLACELESS] * found.lead, *range(k * n, (k + 1) * n))]
        layouts.append(ImageLayout(len(order), together(grids), tuple(order), rows=len(own)))
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
    if sizes is None or not sizes:
        if batch.ids is None:
            return [(None, [None], None)] * n
        runs = batch.runs()
        if any(run % each for run in runs) or sum(runs) != n * each:
            return [(None, [None], None)] * n
        # Tensors whose tokens follow one another without a break are one picture's, unless there is no more than one
        # tensor to a placeholder, as in the families that do not cut pictures.
        several = cuts_pictures(batch.processor)
        counts = [run // each for run in runs] if several else [1] * n
        return [(None, [None] * count, None) for count in counts]
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


def cuts_pictures(processor: Any) -> bool:
    """Whether a processor's image processor can make several tensors of one picture."""
    images = getattr(processor, "image_processor", None)
    names = "crop_to_patches do_image_splitting image_grid_pinpoints do_pan_and_scan max_image_tiles slice_mode"
    return any(hasattr(images, name) for name in names.split())


def placed(
    grid: PatchGrid, part: Shown | None, size: Size | None, note: str | None, tensor: Size, step: int
) -> PatchGrid:
    """A grid where its tensor lies in the original picture.

    Args:
        grid: of the tensor's tokens.
        part: what the tensor shows; None where that is not known.
        size: of the original picture; None where it is not known.
        note: why the place is not known.
        tensor: (width, height) of the tensor.
        step: pixels of the tensor along each side of a token.
    """
    if part is None:
        return grid if size is None else replace(grid, size=size, note=note or grid.note)
    grid = replace(grid, size=size, role=part.role, place=part.place)
    if part.size not in (tensor, (0, 0)):  # the latter: as large as the inputs say
        return replace(grid, note=f"a picture of {size} should become one of {part.size}, but the tensor is {tensor}")
    left, top, right, bottom = part.covers
    # The last pixels of a tensor that are no whole patch belong to no token.
    across, down = grid.cols * step / tensor[0], grid.rows * step / tensor[1]
    return replace(grid, covers=(left, top, left + across * (right - left), top + down * (bottom - top)))


def together(grids: Sequence[PatchGrid]) -> PatchGrid | TiledGrid:
    """One grid as it is, several as the tiles of a picture."""
    return grids[0] if len(grids) == 1 else TiledGrid(tuple(grids))
