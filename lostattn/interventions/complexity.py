"""Image complexity per patch: the paper's prior that looks at the picture alone."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from jaxtyping import Float
from PIL import Image
from torch import Tensor

from lostattn.errors import InputError
from lostattn.pictures.loading import load_picture
from lostattn.pictures.patch_grid import Grid
from lostattn.pictures.videos import Video
from lostattn.prompt.batch import Prompt


def patch_complexity(image: Image.Image, boxes: Float[Tensor, "patch 4"]) -> Float[Tensor, " patch"]:
    """Complexity of each pixel box of a picture, softmaxed over the boxes.

    ``mean |∂x| + mean |∂y| + variance`` of the grey picture (0 to 1) in the box, scaled to [0, 1] over the boxes.
    Edges are rounded to whole pixels; a box that holds none has complexity 0.
    """
    grey = np.asarray(load_picture(image).convert("L"), dtype=np.float64) / 255.0
    raw = []
    for x0, y0, x1, y1 in boxes.round().long().tolist():
        patch = grey[y0:y1, x0:x1]
        if patch.size == 0:  # what the processor padded, or less than a pixel
            raw.append(0.0)
            continue
        across = np.abs(np.diff(patch, axis=1)).mean() if patch.shape[1] > 1 else 0.0
        down = np.abs(np.diff(patch, axis=0)).mean() if patch.shape[0] > 1 else 0.0
        raw.append(across + down + patch.var())
    values = torch.tensor(raw, dtype=torch.float64)
    span = values.max() - values.min()
    scaled = (values - values.min()) / span if span > 0 else torch.zeros_like(values)
    return torch.softmax(scaled, 0).float()


def grid_complexity(image: Image.Image, grid: Grid) -> Float[Tensor, " patch"]:
    """Complexity of each patch of a picture's grid, one in all.

    The patches of tiles are compared with each other, those of the thumbnail, which cover more of the picture, among
    themselves. Both share the one by their number of patches.

    Raises:
        InputError: the place of a patch in the picture is not known.
    """
    boxes = grid.boxes()
    small = torch.cat([torch.full((len(tile),), tile.role == "thumbnail") for tile in grid.tiles])
    out = torch.zeros(len(boxes))
    for mine in (small, ~small):
        if mine.any():
            out[mine] = patch_complexity(image, boxes[mine]) * mine.float().mean()
    return out


def prompt_complexity(prompt: Prompt) -> Float[Tensor, "batch pos"]:
    """Complexity of every image token's place, laid onto the prompt's positions (0 elsewhere).

    In a model that reads pictures through cross-attention: onto the keys of its cross-attention layers.

    Raises:
        InputError: the prompt has image tokens but not the pictures, or no place is known for a token.
    """
    token_map = prompt.token_map
    where: Any = token_map if token_map.cross is None else token_map.cross
    is_image = token_map["image"] if token_map.cross is None else where.resolve()
    if not bool(is_image.any()):
        raise InputError("Complexity looks at the picture, and this prompt holds none. Give one with images=[...].")
    out = torch.zeros(is_image.shape)
    for b, grids in enumerate(token_map.grids):
        for k, grid in enumerate(grids):
            picture = prompt.source(b, k)
            if picture is None:
                raise InputError(
                    f"Complexity looks at the picture, and item {b} of this prompt came without its pictures; "
                    "give them with images=."
                )
            if isinstance(picture, Video):
                raise InputError(f"Complexity looks at a picture that stands still, and image {k} of item {b} moves.")
            mine = (where.image_index[b] == k) & is_image[b]
            values = grid_complexity(picture, grid)
            patch = where.patch_index[b, mine].cpu()  # -1: a class token, which has no place in the picture
            out[b, mine.cpu()] = torch.where(patch >= 0, values[patch], 0.0)
    return out
