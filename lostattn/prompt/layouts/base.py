"""What a layout is, and what it is worked out from: the ground that every known layout stands on."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import groupby
from typing import Any

from torch import Tensor

from lostattn.pictures.patch_grid import Grid, PatchGrid, TiledGrid
from lostattn.pictures.shown import Shown, Size

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


def cuts_pictures(processor: Any) -> bool:
    """Whether a processor's image processor can make several tensors of one picture."""
    images = getattr(processor, "image_processor", None)
    names = "crop_to_patches do_image_splitting image_grid_pinpoints do_pan_and_scan max_image_tiles slice_mode"
    return any(hasattr(images, name) for name in names.split())


def placed_grid(
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


def joined_grids(grids: Sequence[PatchGrid]) -> PatchGrid | TiledGrid:
    """One grid as it is, several as the tiles of a picture."""
    return grids[0] if len(grids) == 1 else TiledGrid(tuple(grids))
