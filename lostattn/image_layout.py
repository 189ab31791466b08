"""Where an image's tokens lie in the picture: the patch grid, and its geometry in original pixels.

Everything is worked out from what the processor returned and from the attributes of processor and config,
never from a model's name. Two layouts are known: *packed* patches of pictures of any size (`image_grid_thw`,
the Qwen families) and *whole* pictures of one size (`pixel_values[image, channel, height, width]`, LLaVA and
its kin). What is not understood is an `UnknownGrid` that says why. A new layout is one more function that
returns a list of `ImageLayout`, tried in `image_layouts`.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor

from lostattn.crop_geometry import Box, Size, covered_box
from lostattn.errors import InputError


@dataclass(frozen=True)
class PatchGrid:
    """The grid of one picture's tokens as the decoder sees them, row by row from the top left corner.

    Attributes:
        rows, cols: the grid, in decoder tokens.
        frames: time steps, for a moving picture; 1 otherwise.
        size: (width, height) of the original picture in pixels; None where only its tensor is known.
        merge: patches of the vision encoder along each side of a token (1: one patch is one token).
        covers: the box of the original picture that the whole grid covers, in its pixels. It is smaller than the
            picture where the processor crops, and larger where it pads. None where it is not known.
        note: why `covers` is not known.
    """

    rows: int
    cols: int
    frames: int = 1
    size: Size | None = None
    merge: int = 1
    covers: Box | None = None
    note: str = field(default="the original picture is not known; give it with images=", repr=False)

    def __len__(self) -> int:
        return self.frames * self.rows * self.cols

    def boxes(self) -> Float[Tensor, "patch 4"]:
        """The box (x0, y0, x1, y1) of each token in pixels of the original picture, clipped to it.

        A token that lies wholly in what the processor padded has a box without area.

        Raises:
            InputError: where the place of the grid in the picture is not known.
        """
        if self.covers is None or self.size is None:
            raise InputError(f"The patches of this image have no known place in a picture: {self.note}.")
        left, top, right, bottom = self.covers
        x = torch.linspace(left, right, self.cols + 1, dtype=torch.float64).clamp(0, self.size[0])
        y = torch.linspace(top, bottom, self.rows + 1, dtype=torch.float64).clamp(0, self.size[1])
        row, col = torch.arange(self.rows), torch.arange(self.cols)
        row, col = row.repeat_interleave(self.cols), col.repeat(self.rows)
        return torch.stack([x[col], y[row], x[col + 1], y[row + 1]], -1).float().repeat(self.frames, 1)

    def touching(self, box: Sequence[float | int]) -> list[int]:
        """The tokens that see any of a box ``(x0, y0, x1, y1)`` in pixels of the original picture.

        Raises:
            InputError: a box without area, or a grid whose place in the picture is not known.
        """
        if len(box) != 4 or not (box[0] < box[2] and box[1] < box[3]):
            raise InputError(f"box is {tuple(box)}; expected (x0, y0, x1, y1) with x0 < x1 and y0 < y1.")
        left, top, right, bottom = self.boxes().unbind(-1)
        inside = (left < box[2]) & (right > box[0]) & (top < box[3]) & (bottom > box[1])
        return (inside & (right > left) & (bottom > top)).nonzero().flatten().tolist()

    def to_map(self, values: Float[Tensor, "patch"]) -> Float[Tensor, "*frame row col"]:
        """One value per token, laid out as the grid: ``[row, col]``; ``[frame, row, col]`` where it moves.

        Raises:
            InputError: where the number of values is not the number of tokens.
        """
        if len(values) != len(self):
            raise InputError(
                f"{len(values)} values for a grid of {self.rows} x {self.cols}"
                f"{f' x {self.frames} frames' if self.frames > 1 else ''}, which has {len(self)} patches."
            )
        shape = (self.rows, self.cols) if self.frames == 1 else (self.frames, self.rows, self.cols)
        return values.reshape(shape)


@dataclass(frozen=True)
class UnknownGrid:
    """Stands for a grid that could not be worked out; false in a condition, and says why when asked."""

    reason: str
    size: Size | None = None

    def __bool__(self) -> bool:
        return False

    def boxes(self) -> Float[Tensor, "patch 4"]:
        """Raises `InputError` with the reason."""
        raise InputError(f"The patch grid of this image is not known: {self.reason}.")

    def touching(self, box: Sequence[float | int]) -> list[int]:
        """Raises `InputError` with the reason."""
        raise InputError(f"The patch grid of this image is not known: {self.reason}.")

    def to_map(self, values: Float[Tensor, "patch"]) -> Float[Tensor, "*frame row col"]:
        """Raises `InputError` with the reason."""
        raise InputError(f"The patch grid of this image is not known: {self.reason}.")


@dataclass(frozen=True)
class ImageLayout:
    """One image in the tokens: how many there are, how many come before the grid (CLS), the grid."""

    tokens: int
    lead: int
    grid: PatchGrid | UnknownGrid


def image_layouts(
    inputs: Mapping[str, Tensor],
    config: Any,
    processor: Any,
    sizes: Sequence[Size | None] | None,
    tokens: int,
) -> list[ImageLayout] | None:
    """The layout of every image of a batch, in order.

    Args:
        inputs: the processor's output.
        config: the model's config.
        processor: the model's processor.
        sizes: (width, height) of every original picture, or None where they are not known.
        tokens: the number of image tokens in the whole batch.

    Returns:
        None where the inputs do not even say how many tokens each image has.
    """
    pixels, thw = inputs.get("pixel_values"), inputs.get("image_grid_thw")
    if thw is not None:
        return _packed(thw, config, processor, _aligned(sizes, len(thw)))
    if pixels is not None and pixels.ndim == 4 and len(pixels) and tokens % len(pixels) == 0:
        if sizes is None or len(sizes) == len(pixels):
            return _whole(pixels, config, processor, _aligned(sizes, len(pixels)), tokens // len(pixels))
    return None


def _aligned(sizes: Sequence[Size | None] | None, n: int) -> Sequence[Size | None]:
    return [None] * n if sizes is None or len(sizes) != n else sizes


def _packed(thw: Tensor, config: Any, processor: Any, sizes: Sequence[Size | None]) -> list[ImageLayout]:
    """Pictures resized to whole tokens, each with its own number of them; the grid is in the inputs."""
    merge = _first_int("merge_size", _images(processor)) or _first_int("spatial_merge_size", config.vision_config) or 1
    layouts = []
    for (frames, high, wide), size in zip(thw.tolist(), sizes, strict=True):
        # The picture is resized to exactly these patches, so the grid covers all of it.
        covers = None if size is None else (0.0, 0.0, float(size[0]), float(size[1]))
        grid = PatchGrid(high // merge, wide // merge, frames, size, merge, covers)
        layouts.append(ImageLayout(len(grid), 0, grid))
    return layouts


def _whole(pixels: Tensor, config: Any, processor: Any, sizes: Sequence[Size | None], tokens: int) -> list[ImageLayout]:
    """Pictures of one size, a row of `pixel_values` each: a token a patch, perhaps a CLS token before."""
    side = _first_int("patch_size", processor, _vision(config), _images(processor))
    strategy = getattr(processor, "vision_feature_select_strategy", None) or getattr(
        config, "vision_feature_select_strategy", None
    )
    height, width = pixels.shape[-2:]
    if side is None:
        return [ImageLayout(tokens, 0, UnknownGrid("neither processor nor config has a patch_size", s)) for s in sizes]
    rows, cols = height // side, width // side
    lead = tokens - rows * cols
    extra = _first_int("num_additional_image_tokens", processor) or 0
    if lead and not (strategy == "full" and lead == extra):
        reason = f"{tokens} tokens for a tensor of {rows} x {cols} patches"
        return [ImageLayout(tokens, 0, UnknownGrid(reason, size)) for size in sizes]
    layouts = []
    for size in sizes:
        grid = PatchGrid(rows, cols, size=size)
        if size is not None:
            covers = covered_box(_images(processor), size, (width, height), (cols * side, rows * side))
            grid = (
                PatchGrid(rows, cols, size=size, note=covers)
                if isinstance(covers, str)
                else PatchGrid(rows, cols, size=size, covers=covers)
            )
        layouts.append(ImageLayout(tokens, lead, grid))
    return layouts


def _first_int(name: str, *holders: Any) -> int | None:
    for holder in holders:
        value = getattr(holder, name, None)
        if isinstance(value, int):
            return value
    return None


def _images(processor: Any) -> Any:
    return getattr(processor, "image_processor", None)


def _vision(config: Any) -> Any:
    return getattr(config, "vision_config", None)
