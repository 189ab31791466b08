"""Which part of an original picture a processed tensor shows: resize, then centre crop."""

from __future__ import annotations

import math
from typing import Any

Size = tuple[int, int]
"""(width, height), as in Pillow."""
Box = tuple[float, float, float, float]
"""(left, top, right, bottom) in pixels."""


def covered_box(images: Any, size: Size, tensor: Size, grid: Size) -> Box | str:
    """The box of the original picture under the grid's pixels, or why it cannot be said.

    Follows transformers' common pipeline, resize then centre crop; a class with a pipeline of its own is not
    second-guessed, and the sizes worked out must be those of the tensor.
    """
    for method in ("_preprocess", "resize", "center_crop"):
        if getattr(getattr(type(images), method, None), "__module__", "") != "transformers.image_processing_backends":
            return f"{type(images).__name__} prepares pictures in its own way ({method})"
    if getattr(images, "do_pad", None):
        return f"{type(images).__name__} pads pictures"
    resized = _resized(images, size) if images.do_resize else size
    cropped = (images.crop_size.width, images.crop_size.height) if images.do_center_crop else resized
    if cropped != tensor:
        return f"a picture of {size} should become one of {cropped}, but the tensor is {tensor}"
    box = []
    for axis in (0, 1):
        spare = resized[axis] - cropped[axis]
        # Where the crop is larger than the picture, the odd pixel of padding goes to one side: Pillow's to the
        # left and top, torchvision's to the right and bottom.
        rounded_up = spare < 0 and getattr(images, "backend", "pil") == "torchvision"
        start = math.ceil(spare / 2) if rounded_up else math.floor(spare / 2)
        scale = size[axis] / resized[axis]
        box.append((start * scale, (start + grid[axis]) * scale))
    (left, right), (top, bottom) = box
    return (left, top, right, bottom)


def _resized(images: Any, size: Size) -> Size:
    from transformers import image_transforms

    target, (width, height) = images.size, size
    if target.shortest_edge and target.longest_edge:
        high, wide = image_transforms.get_size_with_aspect_ratio(
            (height, width), target.shortest_edge, target.longest_edge
        )
    elif target.shortest_edge:
        short, long = sorted(size)
        longer = int(target.shortest_edge * long / short)
        high, wide = (longer, target.shortest_edge) if width <= height else (target.shortest_edge, longer)
    elif target.height and target.width:
        high, wide = target.height, target.width
    else:  # The caller compares with the tensor, and says that they differ.
        high, wide = height, width
    return int(wide), int(high)
