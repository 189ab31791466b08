"""What one processed tensor shows of an original picture, and the kind of function that works it out."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

Size = tuple[int, int]
"""(width, height), as in Pillow."""
Box = tuple[float, float, float, float]
"""(left, top, right, bottom) in pixels."""


@dataclass(frozen=True)
class Shown:
    """What one processed tensor shows.

    Attributes:
        covers: the box of the original picture under the whole tensor, in original pixels; it reaches over the
            picture's edge where the processor pads.
        size: (width, height) of the tensor.
        role, place: as in `lostattn.pictures.patch_grid.PatchGrid`.
    """

    covers: Box
    size: Size
    role: str = "whole"
    place: tuple[int, int] | None = None


Pipeline = Callable[[Any, dict[str, Any], Size, int, bool | None], list[Shown] | str]
"""What the tensors of a picture show: of an image processor, the settings of its prompt, the picture's size, how many
pictures its item holds, and whether it is to be cut (None: as the processor is set)."""
