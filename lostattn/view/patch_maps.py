"""Maps of patches over a picture: which boxes of pixels have which values, and how they are drawn."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from PIL import Image

from lostattn.errors import InputError
from lostattn.pictures.loading import load_picture
from lostattn.pictures.videos import Video
from lostattn.view.panels import colour_map

if TYPE_CHECKING:
    import matplotlib.axes

Box = Sequence[float | int]

_COLOURS = "inferno"  # dark to light in even steps, readable in grey and for every kind of colour vision
_DIVERGING = "PuOr"  # of differences: two colours that every kind of colour vision tells apart, white at 0
_MOST_LINED = 144  # patches with lines between them


def boxes_of(image: Any, values: Any, grid: Any) -> tuple[np.ndarray, np.ndarray]:
    """The pixel boxes [patch, 4] and values [patch] to draw."""
    numbers = np.asarray(torch.as_tensor(values).detach().float().cpu(), dtype=float)
    if not np.isfinite(numbers).all():
        raise InputError("values holds NaN or infinity, which has no colour. Pass numbers for every patch.")
    if grid is not None:
        boxes = np.asarray(grid.boxes())
        _check_size(image, grid)
        moving = (grid.frames,) if grid.is_video else ()
        shapes = [(*moving, tile.rows, tile.cols) for tile in grid.tiles] if len(grid.tiles) == 1 else []
        if numbers.shape not in (*shapes, (len(boxes),)):
            raise InputError(
                f"values has the shape {numbers.shape}, but the grid has {grid} patches. "
                f"Pass one value for each, {' or '.join(map(str, (*shapes, (len(boxes),))))}."
            )
        return boxes, numbers.reshape(-1)
    if numbers.ndim != 2:
        raise InputError(f"values has the shape {numbers.shape}. Pass [row, col], or a grid= with [patch].")
    height, width = np.asarray(image).shape[:2]
    rows, cols = numbers.shape
    row, col = np.divmod(np.arange(rows * cols), cols)
    edges = [col * width / cols, row * height / rows, (col + 1) * width / cols, (row + 1) * height / rows]
    return np.stack(edges, axis=1), numbers.reshape(-1)


def _check_size(image: Any, grid: Any) -> None:
    """Refuse a picture of another size than the one that the grid lies on: its patches would show other places.

    Raises:
        InputError: as said.
    """
    shown = np.asarray(still(image, 0)).shape[:2]
    size = getattr(grid, "size", None)
    if size is not None and tuple(size) != (shown[1], shown[0]):
        raise InputError(
            f"the picture is {shown[1]} x {shown[0]} pixels, and the grid lies on one of {size[0]} x {size[1]}: they "
            "are not of the same picture. Pass prompt.source(item, image), which the grid is of."
        )


def sheets_of(grid: Any, n: int) -> list[tuple[str, np.ndarray, int]]:
    """Patches that can be drawn on one picture without lying over one another: a name, which they are, its frame."""
    tiles = () if grid is None else grid.tiles
    if grid is not None and grid.is_video:
        steps = np.arange(n).reshape(grid.frames, -1)
        return [(_frames(shown), own, shown[0]) for shown, own in zip(grid.shown_frames, steps, strict=True)]
    if len(tiles) < 2:
        return [("", np.arange(n), 0)]
    ends = np.cumsum([len(tile) for tile in tiles])
    found: dict[str, list[int]] = {"tiles": [], "thumbnail": []}
    for tile, end in zip(tiles, ends, strict=True):
        found["thumbnail" if tile.role == "thumbnail" else "tiles"] += range(end - len(tile), end)
    return [(name, np.array(own), 0) for name, own in found.items() if own]


def _frames(shown: Sequence[int]) -> str:
    """What the frames of a time step are called."""
    return f"frame {shown[0]}" if len(shown) == 1 else f"frames {shown[0]} to {shown[-1]}"


def upright(image: Any) -> Any:
    """A picture of Pillow's as a prompt holds it, turned as its orientation tag says; others as they are."""
    return load_picture(image, "image") if isinstance(image, Image.Image) else image


def still(image: Any, frame: int) -> Any:
    """A picture as it is, or a frame of a video."""
    return image.frames[frame] if isinstance(image, Video) else image


def limits_of(numbers: np.ndarray) -> tuple[float, float]:
    """From 0 to the largest; where some are negative, the same distance on both sides of 0."""
    low, high = min(0.0, float(numbers.min())), float(numbers.max())
    if low < 0:
        most = max(-low, high)
        return (-most, most)
    return (low, high) if high > low else (low, low + 1)


def draw_picture(axes: matplotlib.axes.Axes, image: Any) -> None:
    """A picture (of a video its first frame) by itself, its pixels where boxes of pixels say they are."""
    image = still(image, 0)
    height, width = np.asarray(image).shape[:2]
    # Pixel i spans [i, i + 1], as it does in the boxes.
    axes.imshow(np.asarray(image), extent=(0, width, height, 0), interpolation="nearest", cmap="gray")
    axes.set(xticks=[], yticks=[], xlim=(0, width), ylim=(height, 0))
    axes.grid(False)


@dataclass(frozen=True)
class Look:
    """How maps are drawn: the values of the darkest and lightest colour, how opaque, in which colours, with lines."""

    limits: tuple[float, float]
    opacity: float
    cmap: Any = None
    lines: bool | None = None

    def draw(self, axes: matplotlib.axes.Axes, image: Any, boxes: np.ndarray, numbers: np.ndarray) -> Any:
        """Colours over the picture, the more transparent the nearer to 0: what has no weight is seen as it is.

        Lines between patches are drawn up to 12 x 12 of them, unless they are asked for; of more they hide the picture.
        """
        from matplotlib.collections import PolyCollection

        draw_picture(axes, image)
        left, top, right, bottom = boxes.T
        corners = np.stack([left, top, right, top, right, bottom, left, bottom], axis=1).reshape(-1, 4, 2)
        lined = len(boxes) <= _MOST_LINED if self.lines is None else self.lines
        most = max(*map(abs, self.limits), 1e-30)
        patches = PolyCollection(
            list(corners),
            array=numbers,
            cmap=colour_map(self.cmap, _DIVERGING if self.limits[0] < 0 else _COLOURS),
            clim=self.limits,
            alpha=self.opacity * np.clip(np.abs(numbers) / most, 0.0, 1.0),
            edgecolors="white" if lined else "none",
            linewidths=0.3,
            antialiaseds=lined,
        )
        axes.add_collection(patches, autolim=False)
        return patches


def draw_marks(panels: Sequence[matplotlib.axes.Axes], marks: Sequence[Box]) -> None:
    """A frame around each box, in two colours so that it stands out on any ground."""
    from matplotlib.patches import Rectangle

    for axes in panels:
        for x0, y0, x1, y1 in marks:
            for colour, width in (("black", 2.6), ("white", 1.2)):
                axes.add_patch(Rectangle((x0, y0), x1 - x0, y1 - y0, fill=False, edgecolor=colour, linewidth=width))
