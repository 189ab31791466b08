"""The patch grid of a picture, tile by tile where it is cut into tiles, and its geometry in original pixels."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

import torch
from jaxtyping import Float
from torch import Tensor

from lostattn.errors import InputError
from lostattn.pictures.shown import Box, Size

Edges = tuple[tuple[float, float], ...]


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
        role: ``"whole"`` for a picture that is not cut up; of one that is, ``"tile"`` for a piece of it,
            ``"thumbnail"`` for all of it at once, and ``"tiles"`` for all pieces laid together as one grid;
            ``"video"`` for a moving picture, even of a single time step.
        place: (row, column) of a tile among the tiles; None for other roles, and where it is not known.
        shown_frames: for each time step of a moving picture the frames that it is made of, counted over those that the
            processor was given; empty for a still picture.
        x_edges, y_edges: where columns and rows do not divide `covers` evenly (a tower that leaves the last pixels of
            each tile out), the start and end of each; empty otherwise.
    """

    rows: int
    cols: int
    frames: int = 1
    size: Size | None = None
    merge: int = 1
    covers: Box | None = None
    note: str = field(default="the original picture is not known; give it with images=", repr=False)
    role: str = "whole"
    place: tuple[int, int] | None = None
    shown_frames: tuple[tuple[int, ...], ...] = field(default=(), repr=False)
    x_edges: Edges = field(default=(), repr=False)
    y_edges: Edges = field(default=(), repr=False)

    def __len__(self) -> int:
        return self.frames * self.rows * self.cols

    @property
    def tiles(self) -> tuple[PatchGrid, ...]:
        """The grids that the picture's tokens form one after another: here the one."""
        return (self,)

    @property
    def is_video(self) -> bool:
        """Whether it is a moving picture's."""
        return self.role == "video"

    def steps_of(self, frame: int) -> list[int]:
        """The time steps that show a frame of a moving picture; none of a still one."""
        return [step for step, shown in enumerate(self.shown_frames) if frame in shown]

    def where(self, patch: int) -> tuple[int, int, int]:
        """The time step, row and column of a patch."""
        frame, rest = divmod(patch, self.rows * self.cols)
        return (frame, *divmod(rest, self.cols))

    def boxes(self) -> Float[Tensor, "patch 4"]:
        """The box (x0, y0, x1, y1) of each token in pixels of the original picture, clipped to it.

        A token that lies wholly in what the processor padded has a box without area.

        Raises:
            InputError: where the place of the grid in the picture is not known.
        """
        if self.covers is None or self.size is None:
            raise InputError(f"The patches of this image have no known place in a picture: {self.note}.")
        left, top, right, bottom = self.covers
        x = _spans(self.x_edges, left, right, self.cols).clamp(0, self.size[0])
        y = _spans(self.y_edges, top, bottom, self.rows).clamp(0, self.size[1])
        row, col = torch.arange(self.rows), torch.arange(self.cols)
        row, col = row.repeat_interleave(self.cols), col.repeat(self.rows)
        return torch.stack([x[col, 0], y[row, 0], x[col, 1], y[row, 1]], -1).float().repeat(self.frames, 1)

    def touching(self, box: Sequence[float | int]) -> list[int]:
        """The tokens that see any of a box ``(x0, y0, x1, y1)`` in pixels of the original picture.

        Raises:
            InputError: a box without area, or a grid whose place in the picture is not known.
        """
        return _touching(self.boxes(), box)

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

    def to_maps(self, values: Float[Tensor, "patch"]) -> tuple[Float[Tensor, "*frame row col"], ...]:
        """`to_map` of each grid in `tiles`.

        Raises:
            InputError: where the number of values is not the number of tokens.
        """
        return (self.to_map(values),)

    def name(self, patch: int) -> str:
        """What a patch is called: ``"row,col"``, with the time step before it where the picture moves."""
        frame, row, col = self.where(patch)
        return f"{frame}:{row},{col}" if self.frames > 1 else f"{row},{col}"

    def __str__(self) -> str:
        moving = f"{self.frames} x " if self.frames > 1 else ""
        return f"{moving}{self.rows} x {self.cols}"


@dataclass(frozen=True)
class TiledGrid:
    """The grids of a picture that the processor cuts into tiles, in the order of their tokens.

    A patch is counted through all tiles; one place of the picture has a patch in its tile and, where there is a
    thumbnail, a larger one there.

    Attributes:
        tiles: a `PatchGrid` each; their `role` and `place` say what each one shows.
    """

    tiles: tuple[PatchGrid, ...]

    is_video = False

    def __len__(self) -> int:
        return sum(len(tile) for tile in self.tiles)

    @property
    def size(self) -> Size | None:
        """(width, height) of the original picture in pixels; None where it is not known."""
        return self.tiles[0].size

    @property
    def merge(self) -> int:
        """Patches of the vision encoder along each side of a token."""
        return self.tiles[0].merge

    def boxes(self) -> Float[Tensor, "patch 4"]:
        """The box of each token of each tile, as `PatchGrid.boxes` has them.

        Raises:
            InputError: where the place of the tiles in the picture is not known.
        """
        return torch.cat([tile.boxes() for tile in self.tiles])

    def touching(self, box: Sequence[float | int]) -> list[int]:
        """The tokens of every tile that see any of a box ``(x0, y0, x1, y1)`` in pixels of the original picture.

        Raises:
            InputError: a box without area, or a grid whose place in the picture is not known.
        """
        return _touching(self.boxes(), box)

    def to_map(self, values: Float[Tensor, "patch"]) -> Float[Tensor, "*frame row col"]:
        """Raises `InputError`: tiles are no one grid; `to_maps` gives one map a tile."""
        raise InputError(f"This picture is cut into {len(self.tiles)} grids ({self}); use to_maps for one map of each.")

    def to_maps(self, values: Float[Tensor, "patch"]) -> tuple[Float[Tensor, "*frame row col"], ...]:
        """The values of each tile, laid out as its grid.

        Raises:
            InputError: where the number of values is not the number of tokens.
        """
        if len(values) != len(self):
            raise InputError(
                f"{len(values)} values for {len(self.tiles)} grids ({self}) of {len(self)} patches in all."
            )
        parts = values.split([len(tile) for tile in self.tiles])
        return tuple(tile.to_map(part) for tile, part in zip(self.tiles, parts, strict=True))

    def name(self, patch: int) -> str:
        """What a patch is called: ``"tile 0,1 row,col"``, ``"thumbnail row,col"``."""
        for k, tile in enumerate(self.tiles):
            if patch < len(tile):
                return f"{_tile_name(tile, k)} {tile.name(patch)}"
            patch -= len(tile)
        raise InputError(f"patch is out of range: the picture has {len(self)} patches.")

    def __str__(self) -> str:
        shapes: dict[str, int] = {}
        for tile in self.tiles:
            shapes[str(tile)] = shapes.get(str(tile), 0) + 1
        return " + ".join(f"{n} of {shape}" if n > 1 else shape for shape, n in shapes.items())


def _tile_name(tile: PatchGrid, k: int) -> str:
    if tile.role != "tile":
        return tile.role
    return f"tile {tile.place[0]},{tile.place[1]}" if tile.place else f"tile {k}"


@dataclass(frozen=True)
class UnknownGrid:
    """Stands for a grid that could not be worked out, or that there is none; false in a condition, and says why.

    Attributes:
        reason: why there is no grid.
        size: (width, height) of the original picture in pixels; None where only its tensor is known.
        resampler: what makes each token of the whole picture, so that none has a place in it; None where tokens may
            have one that is not known.
    """

    reason: str
    size: Size | None = None
    resampler: str | None = None
    is_video: bool = False

    def __bool__(self) -> bool:
        return False

    def __len__(self) -> int:
        return 0

    def __str__(self) -> str:
        return f"no place in the picture: resampled by {self.resampler}" if self.resampler else "grid not known"

    @property
    def why(self) -> str:
        """The reason as a sentence."""
        if self.resampler:
            return f"The tokens of this image have no place in the picture: {self.reason}."
        return f"The patch grid of this image is not known: {self.reason}."

    @property
    def tiles(self) -> tuple[PatchGrid, ...]:
        """None are known."""
        return ()

    def boxes(self) -> Float[Tensor, "patch 4"]:
        """Raises `InputError` with the reason."""
        raise InputError(self.why)

    def touching(self, box: Sequence[float | int]) -> list[int]:
        """Raises `InputError` with the reason."""
        raise InputError(self.why)

    def to_map(self, values: Float[Tensor, "patch"]) -> Float[Tensor, "*frame row col"]:
        """Raises `InputError` with the reason."""
        raise InputError(self.why)

    def to_maps(self, values: Float[Tensor, "patch"]) -> tuple[Float[Tensor, "*frame row col"], ...]:
        """Raises `InputError` with the reason."""
        raise InputError(self.why)


Grid = PatchGrid | TiledGrid | UnknownGrid


def _touching(boxes: Float[Tensor, "patch 4"], box: Sequence[float | int]) -> list[int]:
    """The boxes with an area that share any with another box."""
    if len(box) != 4 or not (box[0] < box[2] and box[1] < box[3]):
        raise InputError(f"box is {tuple(box)}; expected (x0, y0, x1, y1) with x0 < x1 and y0 < y1.")
    left, top, right, bottom = boxes.unbind(-1)
    inside = (left < box[2]) & (right > box[0]) & (top < box[3]) & (bottom > box[1])
    return (inside & (right > left) & (bottom > top)).nonzero().flatten().tolist()


def _spans(edges: Edges | Sequence[Sequence[float]], start: float, end: float, n: int) -> Float[Tensor, "n 2"]:
    """The start and end of each column (or row)."""
    if edges:
        return torch.tensor(edges, dtype=torch.float64)
    cuts = torch.linspace(start, end, n + 1, dtype=torch.float64)
    return torch.stack([cuts[:-1], cuts[1:]], -1)
