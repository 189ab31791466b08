"""Where the patches of each picture lie in the vision tower, layout by layout (see `lostattn.tower.tokens`)."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from lostattn.pictures.patch_grid import Grid, PatchGrid
from lostattn.prompt.batch import Prompt
from lostattn.prompt.layouts.tiled import unpadded_area

BY_ROWS = ("paddleocr_vl", "hunyuan_vl", "kimi_k25", "muse_glimmer", "muse_spark")
"""Families that pack pictures, with a grid in the inputs, row by row; the others lay what makes one token side by side.

Neither config nor inputs say which of the two it is: it is how their image processors write patches.
"""
CROSS_PADDING = 8  # Llama 3.2 Vision fills each tile's places up to a multiple of this


@dataclass(frozen=True, eq=False)
class Picture:
    """The places of one picture's patches.

    Attributes:
        index: those of each token of its grid, counted through the tower's sequences.
        weights: the share of each in the token, where the model interpolates.
        leading: the places of its tokens without a patch (class tokens), tile after tile.
    """

    index: Int[Tensor, "patch part"]
    weights: Float[Tensor, "patch part"] | None = None
    leading: tuple[int, ...] = ()


@dataclass(frozen=True, eq=False)
class Order:
    """All pictures of a batch, the number and length of the sequences, and the places that stand for something."""

    pictures: list[Picture]
    shape: tuple[int, int]
    queries: Bool[Tensor, "sequence place"] | None = None


@dataclass(frozen=True)
class Given:
    """What layouts are read from.

    Attributes:
        config: the model's.
        prompt: the prompt.
        lead, behind: places of a sequence before its patches, and after them.
        pixels: whether places are counted as the squares of the pixel tensor lie, not as the tower's keys do.
    """

    config: Any
    prompt: Prompt
    lead: int
    behind: int
    pixels: bool

    @property
    def grids(self) -> list[Grid]:
        """Of every picture of the batch."""
        return [grid for own in self.prompt.token_map.grids for grid in own]

    @property
    def tiles(self) -> list[PatchGrid]:
        """Of every picture of the batch."""
        return [tile for grid in self.grids for tile in grid.tiles]

    @property
    def values(self) -> Tensor:
        """The pixel values."""
        return self.prompt.inputs["pixel_values"]

    @property
    def side(self) -> int | None:
        """The pixels along a patch, where that is said."""
        vision = getattr(self.config, "vision_config", None)
        side = getattr(vision, "patch_size", None) or getattr(self.config, "patch_size", None)
        side = side[0] if isinstance(side, list | tuple) else side
        return side if isinstance(side, int) else None

    @property
    def cells(self) -> tuple[int, int]:
        """Rows and columns of patches of a tensor of pixels."""
        if self.side is not None:
            return self.values.shape[-2] // self.side, self.values.shape[-1] // self.side
        tile = self.tiles[0]
        return tile.rows * tile.merge, tile.cols * tile.merge

    def fits(self, tile: PatchGrid) -> bool:
        """Whether a tensor of pixels has the patches that a grid is made of."""
        return tile.rows * tile.merge <= self.cells[0] and tile.cols * tile.merge <= self.cells[1]

    @property
    def length(self) -> int:
        """Places of the sequence of one tensor of pixels."""
        return self.lead + self.cells[0] * self.cells[1] + self.behind


def order_of(given: Given) -> Order | None:
    """The order of the first layout that the inputs are in; None where none is known."""
    if given.prompt.token_map.cross is not None:
        return _crossed(given)
    layouts = (_packed, _sized, _positioned, _any_resolution, _tiles_in_rows)
    return next((order for layout in layouts if (order := layout(given)) is not None), None)


def squares(rows: int, cols: int, merge: int, wide: int) -> Int[Tensor, "token part"]:
    """The patches of each token of a grid, where ``merge`` x ``merge`` make one and a row of patches holds ``wide``."""
    down = torch.arange(rows * merge).view(rows, 1, merge, 1)
    across = torch.arange(cols * merge).view(1, cols, 1, merge)
    return (down * wide + across).reshape(rows * cols, merge**2)


def _packed(given: Given) -> Order | None:
    """Patches of all pictures behind one another, the grid in the inputs (Qwen and its kin)."""
    names = [name for name in ("image_grid_thw", "grid_thws") if name in given.prompt.inputs]
    if not names or given.lead or given.behind:
        return None
    thw = given.prompt.inputs[names[0]].cpu()
    if [len(t) * t.merge**2 for t in given.tiles] != thw.prod(-1).tolist():
        return None
    total = int(thw.prod(-1).sum())
    if given.config.model_type in BY_ROWS:
        return Order([Picture(index) for index in _by_rows(given.tiles)], (1, total))
    parts = [t.merge**2 for t in given.tiles]
    starts = thw.prod(-1).cumsum(0).tolist()
    indices = [
        torch.arange(end - len(t) * n, end).view(-1, n) for t, n, end in zip(given.tiles, parts, starts, strict=True)
    ]
    vision = given.config.vision_config
    if getattr(vision, "window_size", None) and not given.pixels:
        indices = _windowed(indices, thw, vision)
    return Order([Picture(index) for index in indices], (1, total))


def _by_rows(tiles: list[PatchGrid]) -> Iterator[Tensor]:
    start = 0
    for tile in tiles:
        one = squares(tile.rows, tile.cols, tile.merge, tile.cols * tile.merge)
        frame = tile.rows * tile.cols * tile.merge**2
        yield torch.cat([start + f * frame + one for f in range(tile.frames)])
        start += tile.frames * frame


def _windowed(indices: list[Tensor], thw: Tensor, vision: Any) -> list[Tensor]:
    """The same where the tower goes window by window, in whole tokens."""
    from transformers.vision_utils import get_vision_window_index

    index, _ = get_vision_window_index(
        thw, spatial_merge_size=vision.spatial_merge_size, window_size=vision.window_size, patch_size=vision.patch_size
    )
    place = torch.argsort(index)
    part = indices[0].shape[1]
    moved = place[:, None] * part + torch.arange(part)
    return list(moved.split([len(one) for one in indices]))


def _sized(given: Given) -> Order | None:
    """Pictures of their own size, padded to one tensor (Pixtral: one sequence; LFM2: a sequence each)."""
    inputs, pixels = given.prompt.inputs, given.values
    if len(given.tiles) != len(pixels) or given.lead or given.behind:
        return None
    if "spatial_shapes" in inputs and pixels.ndim == 3:
        shapes, length = inputs["spatial_shapes"].tolist(), pixels.shape[1]
        starts = [k * length for k in range(len(shapes))]
        real = torch.tensor([h * w for h, w in shapes])[:, None] > torch.arange(length)
        order = (len(shapes), length)
    elif "image_sizes" in inputs and pixels.ndim == 4 and given.side is not None:
        shapes = [(h // given.side, w // given.side) for h, w in inputs["image_sizes"].tolist()]
        real = None
        if given.pixels:
            high, wide = given.cells
            indices = [squares(t.rows, t.cols, t.merge, wide) + k * high * wide for k, t in enumerate(given.tiles)]
            return Order([Picture(index) for index in indices], (len(shapes), high * wide))
        ends = torch.tensor([h * w for h, w in shapes]).cumsum(0).tolist()
        starts, order = [0, *ends[:-1]], (1, ends[-1])
    else:
        return None
    indices = [
        squares(t.rows, t.cols, t.merge, wide) + start
        for t, (_, wide), start in zip(given.tiles, shapes, starts, strict=True)
    ]
    return Order([Picture(index) for index in indices], order, real)


def _positioned(given: Given) -> Order | None:
    """Patches that say their own column and row; -1 where there is none (Gemma 4)."""
    places = given.prompt.inputs.get("image_position_ids")
    if places is None or places.ndim != 3 or len(places) != len(given.tiles) or given.lead or given.behind:
        return None
    pictures, length = [], places.shape[1]
    real = (places >= 0).all(-1).cpu()
    for k, tile in enumerate(given.tiles):
        x, y = (places[k].cpu() // tile.merge).unbind(-1)
        token = torch.where(real[k], y * tile.cols + x, len(tile))
        index = token.argsort(stable=True)[: int(real[k].sum())]
        if len(index) != len(tile) * tile.merge**2:
            return None
        pictures.append(Picture(index.view(len(tile), -1) + k * length))
    return Order(pictures, (len(places), length), real)


def _crossed(given: Given) -> Order | None:
    """All tiles of a picture in one sequence, each with a class token before it and filled up behind (Llama 3.2)."""
    if given.values.ndim != 6:
        return None
    batch, images, tiles = given.values.shape[:3]
    patches = given.cells[0] * given.cells[1]
    lead = 0 if given.pixels else 1
    step = patches if given.pixels else -(-(patches + 1) // CROSS_PADDING) * CROSS_PADDING
    real = torch.zeros(batch * images, tiles, step, dtype=torch.bool)
    pictures = []
    for i, own in enumerate(given.prompt.token_map.grids):
        for k, grid in enumerate(own):
            starts = [((i * images + k) * tiles + t) * step for t in range(len(grid.tiles))]
            index = torch.cat([torch.arange(start + lead, start + lead + patches) for start in starts])
            pictures.append(Picture(index[:, None], leading=tuple(starts) if lead else ()))
            real[i * images + k, : len(starts), : lead + patches] = True
    if given.pixels:
        return Order(pictures, (batch * images * tiles, step))
    return Order(pictures, (batch * images, tiles * step), real.flatten(1))


def _any_resolution(given: Given) -> Order | None:
    """A thumbnail and tiles, a sequence each, whose patches are laid together and cut to the picture (LLaVA-NeXT)."""
    pixels, sizes = given.values, given.prompt.inputs.get("image_sizes")
    pins = getattr(given.config, "image_grid_pinpoints", None)
    if pixels.ndim != 5 or sizes is None or not pins or len(sizes) != len(given.grids):
        return None
    if not all(given.fits(grid.tiles[0]) for grid in given.grids):
        return None
    pictures, first = [], 0
    for k, (grid, (high, wide)) in enumerate(zip(given.grids, sizes.tolist(), strict=True)):
        start = k * pixels.shape[1] if given.pixels else first
        thumbnail, detail = grid.tiles[0], grid.tiles[1] if len(grid.tiles) > 1 else None
        own = squares(thumbnail.rows, thumbnail.cols, thumbnail.merge, given.cells[1])
        leading = tuple(start * given.length + j for j in range(given.lead))
        whole = Picture(own + start * given.length + given.lead, leading=leading)
        first += 1
        if detail is not None:
            canvas = _canvas(pins, (high, wide), pixels.shape[-1])
            whole = _with_detail(given, whole, start + 1, own, thumbnail, detail, canvas, (wide, high))
            first += canvas[0] * canvas[1]
        pictures.append(whole)
    total = pixels.shape[0] * pixels.shape[1] if given.pixels else first
    return Order(pictures, (total, given.length))


def _canvas(pins: Any, size: tuple[int, int], side: int) -> tuple[int, int]:
    """Rows and columns of tiles of the canvas that is best for a picture of ``size`` (height, width)."""
    from transformers.image_processing_utils import select_best_resolution

    high, wide = select_best_resolution(size, [tuple(pin) for pin in pins])
    return high // side, wide // side


def _with_detail(
    given: Given,
    whole: Picture,
    first: int,
    own: Int[Tensor, "token part"],
    tile: PatchGrid,
    detail: PatchGrid,
    canvas: tuple[int, int],
    seen: tuple[int, int],
) -> Picture:
    """The thumbnail's tokens, then those of the canvas without its padding; interpolated where there are too many."""
    starts = (torch.arange(first, first + canvas[0] * canvas[1]) * given.length + given.lead).view(canvas)
    inner = own.view(tile.rows, tile.cols, -1)
    laid = starts[:, None, :, None, None] + inner[None, :, None]
    laid = laid.reshape(canvas[0] * tile.rows, canvas[1] * tile.cols, -1)
    (top, left), (rows, cols) = unpadded_area((laid.shape[0], laid.shape[1]), seen)
    laid = laid[top : top + rows, left : left + cols]
    if (rows, cols) == (detail.rows, detail.cols):
        index = torch.cat([whole.index, laid.flatten(0, 1)])
        return Picture(index, leading=whole.leading)
    (r, down), (c, across) = _between(rows, detail.rows), _between(cols, detail.cols)
    mixed = laid[r[:, None, :, None], c[None, :, None, :], 0].flatten(2).flatten(0, 1)
    shares = (down[:, None, :, None] * across[None, :, None, :]).flatten(2).flatten(0, 1)
    n = mixed.shape[1]
    alone = torch.nn.functional.pad(whole.index, (0, n - 1), value=-1)
    weights = torch.zeros(len(alone) + len(mixed), n)
    weights[: len(alone), 0], weights[len(alone) :] = 1.0, shares
    return Picture(torch.cat([alone, mixed]), weights, whole.leading)


def _between(n: int, kept: int) -> tuple[Int[Tensor, "kept part"], Float[Tensor, "kept part"]]:
    """Which of ``n`` rows each of ``kept`` is interpolated from, and with which weights (PyTorch's own, linear)."""
    shares = torch.nn.functional.interpolate(torch.eye(n)[None], size=kept, mode="linear")[0].T
    weights, rows = shares.topk(min(2, n), dim=-1)
    return rows, weights


def _tiles_in_rows(given: Given) -> Order | None:
    """Pictures or tiles of one size, a sequence each: LLaVA, InternVL, Gemma 3; an item's in a row (Idefics 3)."""
    pixels = given.values
    if pixels.ndim not in (4, 5) or not all(map(given.fits, given.tiles)):
        return None
    pictures, first = [], 0
    for i, own in enumerate(given.prompt.token_map.grids):
        if given.pixels and pixels.ndim == 5:
            first = i * pixels.shape[1]
        for grid in own:
            places: list[Tensor] = []
            leading: list[int] = []
            for tile in grid.tiles:
                start = first * given.length
                places.append(squares(tile.rows, tile.cols, tile.merge, given.cells[1]) + start + given.lead)
                leading += range(start, start + given.lead)
                first += 1
            pictures.append(Picture(torch.cat(places), leading=tuple(leading)))
    rows = len(given.tiles) if pixels.ndim == 5 else len(pixels)
    if given.pixels and pixels.ndim == 5:
        rows = pixels.shape[0] * pixels.shape[1]
    elif rows != first:
        return None
    return Order(pictures, (rows, given.length))
