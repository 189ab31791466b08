"""More pipelines of image processors, those that keep a picture's own size or see it whole and in tiles at once.

Each is one function of the kind `lostattn.pictures.shown.Pipeline`; `lostattn.pictures.crops` says how they are
chosen. Sizes are asked of the processor's own methods where it has them. A tensor of size (0, 0) is as large as the
inputs say.
"""

from __future__ import annotations

import math
from typing import Any

from lostattn.pictures.shown import Shown, Size

Settings = dict[str, Any]


def _all(size: Size) -> tuple[float, float, float, float]:
    """The whole picture."""
    return (0.0, 0.0, float(size[0]), float(size[1]))


def _shares(size: Size, rows: int, cols: int, tensor: Size) -> list[Shown]:
    """The tiles of a picture that is stretched onto a grid of them."""
    high, wide = size[1] / rows, size[0] / cols
    return [
        Shown((c * wide, r * high, (c + 1) * wide, (r + 1) * high), tensor, "tile", (r, c))
        for r in range(rows)
        for c in range(cols)
    ]


def own_size(images: Any, settings: Settings, size: Size, together: int, cut: bool | None) -> list[Shown] | str:
    """The picture stretched to whole tokens of its own number, then padded to others' size (Pixtral, Emu 3)."""
    if getattr(images, "do_center_crop", None):
        return f"{type(images).__name__} crops pictures after it fitted them to whole tokens"
    return [Shown(_all(size), (0, 0))]


def padded_lines(images: Any, settings: Settings, size: Size, together: int, cut: bool | None) -> list[Shown]:
    """Shrunk to fit if larger, then padded at the right and below to whole patches (Fuyu)."""
    held, patch = images.size, images.patch_size
    step = {axis: int(getattr(patch, axis, None) or patch[axis]) for axis in ("width", "height")}
    most = (int(held.width), int(held.height))
    scale = min(most[0] / size[0], most[1] / size[1])
    fits = not images.do_resize or (size[0] <= most[0] and size[1] <= most[1])
    resized = size if fits else (int(size[0] * scale), int(size[1] * scale))
    tensor: list[int] = []
    ends: list[float] = []
    for axis, name in enumerate(("width", "height")):
        side = max(most[axis], resized[axis]) if images.do_pad else resized[axis]
        tensor.append(min(side, math.ceil(resized[axis] / step[name]) * step[name]))
        ends.append(tensor[axis] * size[axis] / resized[axis])
    return [Shown((0.0, 0.0, ends[0], ends[1]), (tensor[0], tensor[1]))]


def beyond_patches(images: Any, settings: Settings, size: Size, together: int, cut: bool | None) -> list[Shown]:
    """Cut into patches from the top left, the last of each row and column padded (Inkling).

    There is a patch more in a row than the picture needs where its width is a whole number of them.
    """
    side, (width, height) = int(images.size.height), size
    wide, high = size
    if images.rescale_image_frac is not None:
        longest = max(size)
        target = longest * images.rescale_image_frac
        if images.rescale_image_max_upscaled_long_edge is not None:
            target = min(target, max(images.rescale_image_max_upscaled_long_edge, longest))
        wide, high = (math.floor(one * target / longest + 0.5) for one in size)
    tensor = ((wide // side + 1) * side, (high + side - 1) // side * side)
    return [Shown((0.0, 0.0, tensor[0] * width / wide, tensor[1] * height / high), tensor)]


def enlarged_slices(images: Any, settings: Settings, size: Size, together: int, cut: bool | None) -> list[Shown] | str:
    """The picture fitted to whole tokens, then, of a large one, slices of it, enlarged (MiniCPM-V)."""
    if getattr(images, "small_image_upsize", "always") != "always":
        return f"{type(images).__name__} looks at what is in a picture before it chooses its size (small_image_upsize)"
    seen = (size[1], size[0])
    slices = images.slice_mode if cut is None else cut
    grid = images.get_sliced_grid(seen, images.max_slice_nums, images.scale_resolution) if slices else None
    mode = {"downsample_mode": images.downsample_mode}
    high, wide = images.find_best_resize(
        seen, images.scale_resolution, images.patch_size, allow_upscale=grid is None, **mode
    )
    if grid is None:
        return [Shown(_all(size), (wide, high))]
    rows, cols = grid
    whole = Shown(_all(size), (wide, high), "thumbnail")
    high, wide = images.get_refine_size(
        seen, grid, images.scale_resolution, images.patch_size, allow_upscale=True, **mode
    )
    return [whole, *_shares(size, rows, cols, (wide // cols, high // rows))]


def large_in_tiles(images: Any, settings: Settings, size: Size, together: int, cut: bool | None) -> list[Shown]:
    """The picture fitted to whole tokens; of a large one, tiles that it is stretched onto, before it (LFM2-VL)."""
    width, height = size
    names = ("max_image_tokens", "encoder_patch_size", "downsample_factor")
    held = {name: getattr(images, name) for name in names}
    wide, high = images.smart_resize(height=height, width=width, min_image_tokens=images.min_image_tokens, **held)
    large = images._is_image_too_large(
        height=height, width=width, max_pixels_tolerance=images.max_pixels_tolerance, **held
    )
    splits = images.do_image_splitting and not images.min_tiles == images.max_tiles == 1
    if not large or not (splits if cut is None else cut):
        return [Shown(_all(size), (wide, high))]
    side = images.tile_size
    cols, rows, *_ = images._get_grid_layout(height, width, images.min_tiles, images.max_tiles, side)
    tiles = _shares(size, rows, cols, (side, side))
    if len(tiles) == 1:
        return [Shown(_all(size), (side, side))]
    return [*tiles, *[Shown(_all(size), (wide, high), "thumbnail")] * bool(images.use_thumbnail)]


def sliding_windows(images: Any, settings: Settings, size: Size, together: int, cut: bool | None) -> list[Shown]:
    """Square windows over the picture, snapped to whole ones, then all of it squared (Step 3.7)."""
    side, tile = int(images.size.height), int(images.patch_size)
    _, crop, window, cols, rows, padded = images._plan_patches(size[0], size[1], side, tile)
    full = (max(size), max(size)) if padded else size  # a very thin picture lies at the top left of a square
    if not window:
        return [Shown(_all(full), (side, side))]
    across, down = full[0] / crop[0], full[1] / crop[1]
    tiles = []
    for r in range(rows):
        for c in range(cols):
            end = (min((c + 1) * window, crop[0]), min((r + 1) * window, crop[1]))
            box = (c * window * across, r * window * down, end[0] * across, end[1] * down)
            tiles.append(Shown(box, (tile, tile), "tile", (r, c)))
    return [*tiles, Shown(_all(full), (side, side), "thumbnail")]


def square_canvas(images: Any, settings: Settings, size: Size, together: int, cut: bool | None) -> list[Shown]:
    """A large picture stretched onto a grid of tiles, then all of it in a padded square (Unlimited-OCR)."""
    from transformers.models.deepseek_ocr2.image_processing_pil_deepseek_ocr2 import get_optimal_tiled_canvas

    tile, side = int(images.tile_size), max(int(images.size.height), int(images.size.width))
    cuts = images.crop_to_patches if cut is None else cut
    tiles = []
    if cuts and max(size) > tile:
        seen = (size[1], size[0])
        cols, rows = get_optimal_tiled_canvas(seen, (tile, tile), images.min_patches, images.max_patches)
        tiles = _shares(size, rows, cols, (tile, tile))
    role = "thumbnail" if tiles else "whole"
    if not cuts and side <= images.maximum_pad_value:
        return [Shown(_all(size), (side, side), role)]
    box: list[float] = []
    for one in size:
        resized = round(one * side / max(size))
        start, scale = (side - resized) // 2, one / resized
        box += [-start * scale, (side - start) * scale]
    return [*tiles, Shown((box[0], box[2], box[1], box[3]), (side, side), role)]


def overlapping_crops(images: Any, settings: Settings, size: Size, together: int, cut: bool | None) -> list[Shown]:
    """The picture squashed, and stretched onto a canvas that overlapping crops are taken from (Molmo 2)."""
    return [Shown(_all(size), (0, 0), "thumbnail"), Shown(_all(size), (0, 0), "tiles")]
