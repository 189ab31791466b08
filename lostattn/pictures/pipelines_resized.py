"""Pipelines of image processors that bring a picture to a size of their own: resized, cropped, padded, cut into tiles.

Each is one function of the kind `lostattn.pictures.shown.Pipeline`; `lostattn.pictures.crops` says how they are chosen.
"""

from __future__ import annotations

import math
from typing import Any

import numpy as np

from lostattn.pictures.shown import Box, Shown, Size


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
    return resized_and_cropped(images, size, tensor, grid)


def resized_and_cropped(images: Any, size: Size, tensor: Size, grid: Size) -> Box | str:
    """`covered_box` of a processor that is known to resize and then crop at the centre, and nothing else."""
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


def resize_and_crop(
    images: Any, settings: dict[str, Any], size: Size, together: int, cut: bool | None
) -> list[Shown] | str:
    """Resize, then centre crop."""
    resized = _resized(images, size) if images.do_resize else size
    tensor = (images.crop_size.width, images.crop_size.height) if images.do_center_crop else resized
    box = covered_box(images, size, tensor, tensor)
    return box if isinstance(box, str) else [Shown(box, tensor)]


def padded_square(
    images: Any, settings: dict[str, Any], size: Size, together: int, cut: bool | None
) -> list[Shown] | str:
    """LLaVA's own: the common pipeline, on a picture that is padded to a square where `do_pad` says so."""
    padded, start = _square(size) if images.do_pad else (size, (0, 0))
    resized = _resized(images, padded) if images.do_resize else padded
    tensor = (images.crop_size.width, images.crop_size.height) if images.do_center_crop else resized
    box = resized_and_cropped(images, padded, tensor, tensor)
    if isinstance(box, str):
        return box
    left, top, right, bottom = box
    return [Shown((left - start[0], top - start[1], right - start[0], bottom - start[1]), tensor)]


def _square(size: Size) -> tuple[Size, Size]:
    """The square that a picture is padded to, and where the picture begins in it."""
    side = max(size)
    return (side, side), ((side - size[0]) // 2, (side - size[1]) // 2)


def any_resolution(
    images: Any, settings: dict[str, Any], size: Size, together: int, cut: bool | None
) -> list[Shown] | str:
    """A squashed thumbnail, and the picture fitted into the best of some canvases, cut into tiles (LLaVA-NeXT)."""
    from transformers.image_processing_utils import get_patch_output_size, select_best_resolution
    from transformers.image_utils import ChannelDimension

    width, height = size
    target = images.size
    small = (target.width or target.shortest_edge, target.height or target.shortest_edge)
    crop = getattr(images, "crop_size", None)
    side = (crop.height if crop and crop.height else 0) or small[1]
    if small != (side, side):
        return f"tiles of {side} pixels are resized once more, to {small}"
    whole = (0.0, 0.0, float(width), float(height))
    if together > 1 and hasattr(images, "pad_to_square"):  # Several pictures in a prompt are not cut up.
        (wide, high), (left, top) = _square(size)
        return [Shown((-float(left), -float(top), float(wide - left), float(high - top)), small)]
    canvas = select_best_resolution((height, width), images.image_grid_pinpoints)
    like = np.broadcast_to(np.uint8(0), (1, height, width))
    high, wide = get_patch_output_size(like, canvas, input_data_format=ChannelDimension.FIRST)
    top, left = (canvas[0] - high) // 2, (canvas[1] - wide) // 2
    tiles = _cut((canvas[1], canvas[0]), side, (left, top), (width / wide, height / high))
    return [Shown(whole, small, "thumbnail"), *tiles]


def _cut(canvas: Size, side: int, start: Size, scale: tuple[float, float]) -> list[Shown]:
    """The tiles of a canvas, row by row, that holds a picture at `start`, `scale` original pixels to a pixel."""
    tiles = []
    for row in range(canvas[1] // side):
        for col in range(canvas[0] // side):
            x, y = col * side - start[0], row * side - start[1]
            box = (x * scale[0], y * scale[1], (x + side) * scale[0], (y + side) * scale[1])
            tiles.append(Shown(box, (side, side), "tile", (row, col)))
    return tiles


def best_ratio(images: Any, settings: dict[str, Any], size: Size, together: int, cut: bool | None) -> list[Shown]:
    """The picture stretched onto the grid of tiles of the nearest shape, then a thumbnail (InternVL)."""
    from transformers.models.got_ocr2.image_processing_pil_got_ocr2 import get_optimal_tiled_canvas

    width, height = size
    side = (images.size.width, images.size.height)
    whole = (0.0, 0.0, float(width), float(height))
    cuts = settings.get("crop_to_patches", images.crop_to_patches) if cut is None else cut
    if not cuts or images.max_patches <= 1:
        return [Shown(whole, side if images.do_resize else size)]
    cols, rows = get_optimal_tiled_canvas((height, width), side[::-1], images.min_patches, images.max_patches)
    if rows * cols == 1:
        return [Shown(whole, side)]
    tiles = []
    for place in np.ndindex(rows, cols):
        row, col = place
        box = (col * width / cols, row * height / rows, (col + 1) * width / cols, (row + 1) * height / rows)
        tiles.append(Shown(box, side, "tile", (row, col)))
    return [*tiles, Shown(whole, side, "thumbnail")]


def enlarged_tiles(images: Any, settings: dict[str, Any], size: Size, together: int, cut: bool | None) -> list[Shown]:
    """The picture stretched to whole tiles of its enlarged size, then a thumbnail (Idefics3, SmolVLM)."""
    width, height = size
    whole = (0.0, 0.0, float(width), float(height))
    held = images.max_image_size
    side = int(held["longest_edge"] if isinstance(held, dict) else held.longest_edge)
    cuts = images.do_image_splitting if cut is None else cut
    if not cuts:
        return [Shown(whole, (side, side))]
    wide, high = _longest(width, height, images.size.longest_edge) if images.do_resize else size
    # What the processor does with the smaller side rounds down before it rounds up to whole tiles.
    if wide >= high:
        cols = math.ceil(wide / side)
        rows = math.ceil(int(cols * side / (wide / high)) / side)
    else:
        rows = math.ceil(high / side)
        cols = math.ceil(int(rows * side * (wide / high)) / side)
    if rows * cols == 1:
        return [Shown(whole, (side, side))]
    tiles = _cut((cols * side, rows * side), side, (0, 0), (width / (cols * side), height / (rows * side)))
    return [*tiles, Shown(whole, (side, side), "thumbnail")]


def _longest(width: int, height: int, longest: int) -> Size:
    """The size with its longer side at `longest`, the other rounded to an even number."""
    ratio = width / height
    if width >= height:
        wide, high = longest, int(longest / ratio)
        high += high % 2
    else:
        high, wide = longest, int(longest * ratio)
        wide += wide % 2
    return max(wide, 1), max(high, 1)


def pan_and_scan(images: Any, settings: dict[str, Any], size: Size, together: int, cut: bool | None) -> list[Shown]:
    """The whole picture squashed, then, if asked for, crops along its longer side (Gemma 3's pan and scan)."""
    width, height = size
    side = (images.size.width, images.size.height) if images.do_resize else size
    whole = Shown((0.0, 0.0, float(width), float(height)), side)

    def setting(name: str) -> Any:
        own = settings.get(name)
        return getattr(images, name) if own is None else own

    if not (setting("do_pan_and_scan") if cut is None else cut):
        return [whole]
    short, long = sorted(size)
    least = setting("pan_and_scan_min_crop_size")
    if long / short < setting("pan_and_scan_min_ratio_to_activate"):
        return [whole]
    n = min(math.floor(long / least), math.floor(long / short + 0.5))
    n = min(setting("pan_and_scan_max_num_crops"), max(2, n))
    step = math.ceil(long / n)
    if min(step, short) < least:
        return [whole]
    crops = []
    for i in range(n):
        start, end = float(i * step), float(min((i + 1) * step, long))
        lies = width >= height
        box = (start, 0.0, end, float(height)) if lies else (0.0, start, float(width), end)
        crops.append(Shown(box, side, "tile", (0, i) if lies else (i, 0)))
    return [Shown(whole.covers, side, "thumbnail"), *crops]


def best_canvas(images: Any, settings: dict[str, Any], size: Size, together: int, cut: bool | None) -> list[Shown]:
    """The picture at the top left of the best canvas of tiles (Llama 3.2 Vision)."""
    from transformers.models.mllama import image_processing_pil_mllama as mllama

    width, height = size
    side = images.size.height
    high, wide = mllama.get_optimal_tiled_canvas(height, width, images.max_image_tiles, side)
    fitted = mllama.get_image_size_fit_to_canvas(height, width, int(high), int(wide), side)
    tiles = _cut((int(wide), int(high)), side, (0, 0), (width / float(fitted[1]), height / float(fitted[0])))
    return tiles if len(tiles) > 1 else [Shown(tiles[0].covers, tiles[0].size)]


def whole_patches(images: Any, settings: dict[str, Any], size: Size, together: int, cut: bool | None) -> list[Shown]:
    """The picture stretched to whole patches of its own number (Qwen): the grid says how many."""
    return [Shown((0.0, 0.0, float(size[0]), float(size[1])), (0, 0))]
