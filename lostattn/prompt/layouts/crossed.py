"""Pictures that are no tokens of the sequence but keys of cross-attention layers (Llama 3.2 Vision, Idefics)."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor

from lostattn.errors import InputError
from lostattn.pictures.crops import shown_parts
from lostattn.pictures.patch_grid import Grid, PatchGrid, UnknownGrid
from lostattn.pictures.shown import Shown
from lostattn.prompt.cross_keys import CrossKeys
from lostattn.prompt.layouts.base import SEPARATOR, Batch, ImageLayout, joined_grids, placed_grid
from lostattn.prompt.layouts.grids import patch_side


def crossed_layouts(batch: Batch) -> list[ImageLayout] | None:
    """Tiles of each picture, ``[item, image, tile, channel, height, width]``; one mark an image in the text."""
    pixels, ratios = batch.inputs.get("pixel_values"), batch.inputs.get("aspect_ratio_ids")
    side = patch_side(batch)
    if pixels is None or ratios is None or side is None or pixels.ndim != 6:
        return None
    known = [tuple(r) for r in getattr(batch.vision, "supported_aspect_ratios", None) or ()]
    each = batch.tokens // max(int((ratios > 0).sum()), 1)
    layouts = []
    for i, row in enumerate(ratios.tolist()):
        for k, number in enumerate(r for r in row if r > 0):
            tiles = _tiles(batch, i, k, known[number - 1] if number <= len(known) else (1, 1), pixels, side)
            layouts.append(ImageLayout(each, joined_grids(tiles), (SEPARATOR,) * each))
    return layouts


def _tiles(batch: Batch, item: int, image: int, ratio: tuple[int, ...], pixels: Tensor, side: int) -> list[PatchGrid]:
    high, wide = pixels.shape[-2:]
    places = [(r, c) for r in range(ratio[0]) for c in range(ratio[1])]
    size = None
    parts: Sequence[Shown | None] = [None] * len(places)
    note = None
    if batch.sizes is not None and image < len(batch.sizes[item]):
        size = batch.sizes[item][image]
        found = shown_parts(batch.processor, size)
        if isinstance(found, str) or len(found) != len(places):
            note = found if isinstance(found, str) else f"{len(places)} tiles where {len(found)} were expected"
        else:
            parts = found
    grid = PatchGrid(high // side, wide // side)
    roles = [replace(grid, role="tile", place=place) if len(places) > 1 else grid for place in places]
    return [placed_grid(g, p, size, note, (wide, high), side) for g, p in zip(roles, parts, strict=True)]


def layouts_beside_text(inputs: Mapping[str, Tensor], config: Any) -> list[list[ImageLayout]] | None:
    """The pictures of each item that has no token for them, ``[item, image, channel, height, width]`` (Idefics)."""
    pixels, seen = inputs.get("pixel_values"), inputs.get(_SEEN)
    if pixels is None or seen is None or pixels.ndim != 5:
        return None
    grid = _beside_grid(config, pixels)[0]
    return [[ImageLayout(0, grid, ())] * int(row.bool().any(0).sum()) for row in seen]


_SEEN = "image_attention_mask"


def _beside_grid(config: Any, pixels: Tensor) -> tuple[Grid, int]:
    """The grid of one such picture's keys, and how many keys that is."""
    if getattr(config, "use_resampler", False):
        n = int(config.perceiver_config.resampler_n_latents)
        why = f"its {n} keys are made of the whole picture by a resampler, so none of them has a place"
        return UnknownGrid(why, resampler="perceiver_config"), n
    side = int(config.vision_config.patch_size)
    grid = PatchGrid(pixels.shape[-2] // side, pixels.shape[-1] // side)
    return grid, len(grid) + 1  # a class token before


def cross_keys(inputs: Mapping[str, Tensor], grids: Sequence[Sequence[Grid]], config: Any) -> CrossKeys | None:
    """What the keys of the cross-attention layers are; None where the inputs hold no such pictures.

    Raises:
        InputError: a picture says that it has more tiles than there are.
    """
    pixels = inputs.get("pixel_values")
    if pixels is not None and pixels.ndim == 5 and _SEEN in inputs:
        return _beside_keys(pixels, grids, config)
    if pixels is None or pixels.ndim != 6 or "aspect_ratio_ids" not in inputs:
        return None
    n_images, n_tiles = pixels.shape[1:3]
    each = next((len(tile) for own in grids for grid in own for tile in grid.tiles), 0) + 1  # a class token before
    image = torch.full((len(grids), n_images, n_tiles, each), -1)
    patch = torch.full_like(image, -1)
    for i, own in enumerate(grids):
        for k, grid in enumerate(own):
            tiles = len(grid.tiles)
            if tiles > n_tiles:
                raise InputError(
                    f"image {k} of item {i} says that it has {tiles} tiles (aspect_ratio_ids), but pixel_values hold"
                    f" {n_tiles}: it was prepared for another number of tiles than this model's max_num_tiles."
                )
            image[i, k, :tiles] = k
            patch[i, k, :tiles, 1:] = torch.arange(tiles * (each - 1)).reshape(tiles, each - 1)
    return CrossKeys(image.flatten(1), patch.flatten(1))


def _beside_keys(pixels: Tensor, grids: Sequence[Sequence[Grid]], config: Any) -> CrossKeys:
    grid, each = _beside_grid(config, pixels)
    image = torch.full((len(pixels), pixels.shape[1], each), -1)
    patch = torch.full_like(image, -1)
    for i, own in enumerate(grids):
        for k in range(len(own)):
            image[i, k] = k
            if isinstance(grid, PatchGrid):
                patch[i, k, each - len(grid) :] = torch.arange(len(grid))
    return CrossKeys(image.flatten(1), patch.flatten(1))
