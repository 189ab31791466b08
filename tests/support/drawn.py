"""Inputs made of drawn pictures for families whose image tokens lie in ways of their own.

Each maker does what the family's processor does after resizing: it takes tensors of pixels (a picture, or its small
copy and tiles) and lays them out, with the ids. Sides are unequal where the family can take it.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from lostattn.prompt.token_ids import image_token_id

Views = list[Tensor]  # each [3, height, width]
START, END, OTHER, BREAK = 20, 21, 22, 23  # ids of marks


@dataclass(frozen=True)
class Drawn:
    """How a family is drawn.

    Attributes:
        sides: (height, width) of every view.
        step: pixels along each side of a token.
        make: the inputs, of the views and the id of an image token.
        grids: what the token map must say, a text for each picture.
        where: of a view and the (row, column) of a token in it: its picture, its tile, and its (row, column) there.
    """

    sides: tuple[tuple[int, int], ...]
    step: int
    make: Callable[[Views, int], dict[str, Any]]
    grids: tuple[str, ...]
    where: Callable[[int, int, int], tuple[int, int, int, int]] = lambda view, row, col: (view, 0, row, col)

    def inputs(self, model: Any, views: Views) -> dict[str, Any]:
        """The inputs of some views, with masks."""
        image = image_token_id(None, model.config)
        found = self.make(views, image)
        ids = torch.tensor([[1, 5, *found.pop("ids"), 8, 9]])
        found |= {"input_ids": ids, "attention_mask": torch.ones_like(ids)}
        typed = "mm_token_type_ids" in inspect.signature(model.forward).parameters
        return {**found, "mm_token_type_ids": (ids == image).int()} if typed else found


def patches(view: Tensor, side: int) -> Tensor:
    """Row by row: ``[patch, side * side * 3]``."""
    _, high, wide = view.shape
    cut = view.reshape(3, high // side, side, wide // side, side).permute(1, 3, 2, 4, 0)
    return cut.reshape(-1, side * side * 3)


def tokens(image: int, *counts: int, between: int = OTHER) -> list[int]:
    """Runs of image tokens with a mark between them."""
    return [one for n in counts for one in (*[image] * n, between)][:-1]


def padded(views: Views) -> Tensor:
    """One tensor of the largest size."""
    out = torch.zeros(len(views), 3, *(max(v.shape[axis] for v in views) for axis in (1, 2)))
    for one, view in zip(out, views, strict=True):
        one[:, : view.shape[1], : view.shape[2]] = view
    return out


def whole(n: int, **more: Any) -> Callable[[Views, int], dict[str, Any]]:
    """Tensors of one size; `n` tokens each."""
    return lambda views, image: {"pixel_values": torch.stack(views), "ids": tokens(image, *[n] * len(views)), **more}


def sized(*counts: int) -> Callable[[Views, int], dict[str, Any]]:
    """Tensors of their own size, padded to one."""

    def make(views: Views, image: int) -> dict[str, Any]:
        sizes = torch.tensor([v.shape[1:] for v in views])
        return {"pixel_values": padded(views), "image_sizes": sizes, "ids": tokens(image, *counts)}

    return make


def fuyu(views: Views, image: int) -> dict[str, Any]:
    """A newline after each of three rows of five."""
    line = [*[image] * 5, BREAK]
    return {"pixel_values": patches(views[0], 8), "ids": [*line * 3, END]}


def gemma4(views: Views, image: int) -> dict[str, Any]:
    """Patches that say column and row, padded with what says -1."""
    places = torch.tensor([[x, y] for y in range(4) for x in range(6)] + [[-1, -1]] * 8)
    pixels = torch.cat([patches(views[0], 8), torch.zeros(8, 192)])
    return {"pixel_values": pixels[None], "image_position_ids": places[None], "ids": [image] * 6}


def gemma4_unified(views: Views, image: int) -> dict[str, Any]:
    """The same of tokens: three rows of four, and a padded one."""
    places = torch.tensor([[x, y] for y in range(3) for x in range(4)] + [[-1, -1]])
    pixels = torch.cat([patches(views[0], 24), torch.zeros(1, 1728)])
    return {"pixel_values": pixels[None], "image_position_ids": places[None], "ids": [image] * 12}


def minicpm(*counts: int) -> Callable[[Views, int], dict[str, Any]]:
    """A picture in two slices beside each other and two below, then one that is not cut; patches along one strip."""

    def make(views: Views, image: int) -> dict[str, Any]:
        strips = [v.reshape(3, v.shape[1] // 8, 8, v.shape[2]).transpose(1, 2).reshape(3, 8, -1) for v in views]
        runs = [[*mark, *[image] * n, end] for mark, n, end in zip(MARKS, counts, ENDS, strict=True)]
        return {
            "pixel_values": torch.cat(strips, -1)[None],
            "target_sizes": torch.tensor([[v.shape[1] // 8, v.shape[2] // 8] for v in views]),
            "ids": [one for run in runs for one in run],
        }

    return make


MARKS = ([START], [OTHER], [OTHER], [BREAK, OTHER], [OTHER], [START])
ENDS = (END, 24, 24, 24, 24, END)


def in_slices(view: int, row: int, col: int) -> tuple[int, int, int, int]:
    """The first picture's small copy and slices; the second picture."""
    return (0, view, row, col) if view < 5 else (1, 0, row, col)


def molmo2(views: Views, image: int) -> dict[str, Any]:
    """A small copy, and two crops that share three columns of patches: 13 columns, so the last token has one."""
    small, large = views
    crops = [small, large[:, :, :64], large[:, :, 40:]]
    first, second = 64 + torch.arange(64).reshape(8, 8), 128 + torch.arange(64).reshape(8, 8)
    high = torch.cat([first, second[:, 3:], torch.full((8, 1), -1)], 1)
    pooled = [torch.arange(64).reshape(8, 8), high]
    pooled = [p.reshape(4, 2, -1, 2).transpose(1, 2).reshape(-1, 4) for p in pooled]
    rows = [*[image] * 4, BREAK] * 4 + [END, START] + [*[image] * 7, BREAK] * 4
    return {
        "pixel_values": torch.stack([patches(c, 8) for c in crops]),
        "image_token_pooling": torch.cat(pooled),
        "image_grids": torch.tensor([[4, 4, 4, 7]]),
        "image_num_crops": torch.tensor([3]),
        "ids": rows,
    }


def lfm2_vl(views: Views, image: int) -> dict[str, Any]:
    """Patches of each picture, padded to one number."""
    most = max(v.shape[1] * v.shape[2] // 64 for v in views)
    pixels, mask = torch.zeros(len(views), most, 192), torch.zeros(len(views), most, dtype=torch.long)
    for k, view in enumerate(views):
        cut = patches(view, 8)
        pixels[k, : len(cut)], mask[k, : len(cut)] = cut, 1
    shapes = torch.tensor([[v.shape[1] // 8, v.shape[2] // 8] for v in views])
    ids = tokens(image, *(shapes.prod(-1) // 4).tolist())
    return {"pixel_values": pixels, "pixel_attention_mask": mask, "spatial_shapes": shapes, "ids": ids}


def step3p7(views: Views, image: int) -> dict[str, Any]:
    """Three tiles below one another, each between marks, then all of the picture."""
    tile = [START, *[image] * 2, END]
    return {
        "pixel_values": views[3][None],
        "pixel_values_local": torch.stack(views[:3]),
        "num_local_patches": [3],
        "ids": [*tile, BREAK, *tile, BREAK, *tile, OTHER, *[image] * 6, END],
    }


def unlimited_ocr(views: Views, image: int) -> dict[str, Any]:
    """Two rows of three tiles as one grid with newlines, then all of the picture with newlines, and a separator."""
    return {
        "pixel_values": views[6][None],
        "pixel_values_local": torch.stack(views[:6]),
        "num_local_patches": [6],
        "patches_grid": [[3, 2]],
        "ids": [image] * (4 * 7 + 4 * 5 + 1),
    }


def laid_together(view: int, row: int, col: int) -> tuple[int, int, int, int]:
    """Tiles of 2 x 2 tokens, three in a row, as one grid; then the whole."""
    return (0, 0, view // 3 * 2 + row, view % 3 * 2 + col) if view < 6 else (0, 1, row, col)


SLICES = ((32, 64), (64, 32), (64, 32), (64, 32), (64, 32), (32, 32))
CUT = ("1 x 2 + 4 of 2 x 1", "1 x 1")
DRAWN: dict[str, Drawn] = {
    "chameleon": Drawn(((32, 64),), 16, whole(8), ("2 x 4",)),
    "emu3": Drawn(((32, 64), (64, 24)), 8, sized(4 * 9, 8 * 4), ("4 x 8", "8 x 3")),
    "mistral3": Drawn(((32, 64), (64, 48)), 16, sized(8, 12), ("2 x 4", "4 x 3")),
    "got_ocr2": Drawn(((64, 64), (64, 64)), 32, whole(4), ("2 x 2", "2 x 2")),
    "pp_chart2table": Drawn(((64, 64), (64, 64)), 32, whole(4), ("2 x 2", "2 x 2")),
    "fuyu": Drawn(((24, 40),), 8, fuyu, ("3 x 5",)),
    "gemma4": Drawn(((32, 48),), 16, gemma4, ("2 x 3",)),
    "gemma4_unified": Drawn(((72, 96),), 24, gemma4_unified, ("3 x 4",)),
    "minicpm_ocr": Drawn(SLICES, 16, minicpm(8, 8, 8, 8, 8, 4), ("2 x 4 + 4 of 4 x 2", "2 x 2"), in_slices),
    "minicpmv4_6": Drawn(SLICES, 32, minicpm(2, 2, 2, 2, 2, 1), CUT, in_slices),
    "minicpmv4_7": Drawn(SLICES, 32, minicpm(2, 2, 2, 2, 2, 1), CUT, in_slices),
    "molmo2": Drawn(((64, 64), (64, 104)), 16, molmo2, ("4 x 4 + 4 x 7",), lambda v, r, c: (0, v, r, c)),
    "lfm2_vl": Drawn(((32, 48), (48, 16)), 16, lfm2_vl, ("2 x 3", "3 x 1")),
    "step3p7": Drawn(((32, 64),) * 3 + ((64, 96),), 32, step3p7, ("3 of 1 x 2 + 2 x 3",), lambda v, r, c: (0, v, r, c)),
    "unlimited_ocr": Drawn(((64, 64),) * 6 + ((128, 128),), 32, unlimited_ocr, ("4 x 6 + 4 x 4",), laid_together),
}
