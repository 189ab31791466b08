"""The world of `shapes`: a 3 x 3 grid with two to four objects, its picture, and the split it belongs to."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from functools import lru_cache

import numpy as np
from numpy.typing import NDArray
from PIL import Image

SHAPES = ("circle", "square", "triangle", "cross")
COLOURS = ("red", "green", "blue", "yellow")
PLURALS = {"circle": "circles", "square": "squares", "triangle": "triangles", "cross": "crosses"}
GRID = 3
MAX_OBJECTS = 4
SIZES = ((48, 48), (60, 60), (72, 72))
"""Width and height, in pixels, of the pictures of the plain data set; all square."""
WIDE_SIZES = ((48, 60), (60, 48), (72, 48), (48, 72), (72, 60), (60, 72))
"""Width and height of the pictures of the rectangular variant."""
SPLITS = ("train", "val", "test")

_RGB = {"red": (220, 40, 40), "green": (40, 170, 60), "blue": (45, 80, 225), "yellow": (240, 200, 30)}
_BACKGROUND = (245, 245, 245)
_SUPERSAMPLE = 8

Box = tuple[int, int, int, int]


@dataclass(frozen=True, order=True)
class Object:
    """One object of a scene: its cell (row and column from the top left) and its looks."""

    row: int
    column: int
    shape: str
    colour: str

    @property
    def looks(self) -> tuple[str, str]:
        """The colour and the shape; no two objects of a scene share both."""
        return self.colour, self.shape


@dataclass(frozen=True)
class Scene:
    """Objects in distinct cells, sorted by cell, no two alike."""

    objects: tuple[Object, ...]

    @property
    def key(self) -> str:
        """The scene written out; equal for equal scenes, and what decides the split."""
        return ";".join(f"{o.row}{o.column}{o.colour}-{o.shape}" for o in self.objects)

    @property
    def id(self) -> str:
        """A short hash of the key."""
        return hashlib.sha256(self.key.encode()).hexdigest()[:12]

    @property
    def split(self) -> str:
        """`"test"` for a tenth of all scenes, `"val"` for another tenth, `"train"` for the rest."""
        bucket = int(hashlib.sha256(b"split:" + self.key.encode()).hexdigest(), 16) % 10
        return {0: "test", 1: "val"}.get(bucket, "train")

    def where(self, *, colour: str | None = None, shape: str | None = None) -> list[Object]:
        """The objects of that colour, that shape, or both."""
        return [
            o for o in self.objects if (colour is None or o.colour == colour) and (shape is None or o.shape == shape)
        ]


def make_scene(objects: Iterable[Object]) -> Scene:
    """The scene of these objects in canonical order.

    Raises:
        ValueError: two objects share a cell or look the same.
    """
    ordered = tuple(sorted(objects))
    if len({(o.row, o.column) for o in ordered}) < len(ordered) or len({o.looks for o in ordered}) < len(ordered):
        raise ValueError("two objects of a scene share a cell, or a colour and a shape")
    return Scene(ordered)


def draw_scene(rng: np.random.Generator, split: str) -> Scene:
    """A random scene of that split.

    Each object after the first repeats, now and then, a colour or a shape that is already there: so there are
    things to count, and combinations that could be there but are not.
    """
    while True:
        n = int(rng.integers(2, MAX_OBJECTS + 1))
        cells = rng.choice(GRID * GRID, size=n, replace=False)
        looks: list[tuple[str, str]] = []
        while len(looks) < n:
            colour, shape = COLOURS[rng.integers(len(COLOURS))], SHAPES[rng.integers(len(SHAPES))]
            if looks and (luck := rng.random()) < 0.4:
                model = looks[rng.integers(len(looks))]
                colour, shape = (model[0], shape) if luck < 0.2 else (colour, model[1])
            if (colour, shape) not in looks:
                looks.append((colour, shape))
        scene = make_scene(
            Object(int(cell) // GRID, int(cell) % GRID, shape, colour)
            for cell, (colour, shape) in zip(cells, looks, strict=True)
        )
        if scene.split == split:
            return scene


@lru_cache(maxsize=512)
def _coverage(shape: str, width: int, height: int) -> NDArray[np.float32]:
    """How much of each pixel of a box the shape covers, in [0, 1]; antialiased by supersampling."""
    ys, xs = np.mgrid[0 : height * _SUPERSAMPLE, 0 : width * _SUPERSAMPLE] + 0.5
    x, y = xs / (width * _SUPERSAMPLE) * 2 - 1, ys / (height * _SUPERSAMPLE) * 2 - 1
    if shape == "circle":
        inside = x * x + y * y <= 1
    elif shape == "square":
        inside = np.maximum(abs(x), abs(y)) <= 0.88
    elif shape == "triangle":
        inside = abs(x) <= (y + 1) / 2
    else:
        inside = np.minimum(abs(x), abs(y)) <= 0.3
    blocks = inside.reshape(height, _SUPERSAMPLE, width, _SUPERSAMPLE)
    return blocks.mean((1, 3), dtype=np.float32)


def draw_jitter(rng: np.random.Generator, scene: Scene) -> tuple[tuple[float, float], ...]:
    """For each object, how far it stands from the middle of its cell, in [-1, 1] of the room that it has."""
    return tuple((float(dx), float(dy)) for dx, dy in rng.uniform(-1, 1, size=(len(scene.objects), 2)))


def paint(
    scene: Scene, size: tuple[int, int], jitter: Sequence[tuple[float, float]] | None = None
) -> NDArray[np.uint8]:
    """The scene as pixels, `[height, width, 3]`.

    Args:
        scene: what is to be seen.
        size: width and height in pixels.
        jitter: one pair an object, from `draw_jitter`; None puts every object in the middle of its cell.
    """
    width, height = size
    canvas = np.empty((height, width, 3), np.float32)
    canvas[:] = _BACKGROUND
    for i, o in enumerate(scene.objects):
        left, top, right, bottom = object_box(o, size, (0.0, 0.0) if jitter is None else jitter[i])
        cover = _coverage(o.shape, right - left, bottom - top)[..., None]
        box = canvas[top:bottom, left:right]
        box[:] = box * (1 - cover) + cover * np.asarray(_RGB[o.colour], np.float32)
    return np.rint(canvas).astype(np.uint8)


def object_box(o: Object, size: tuple[int, int], jitter: tuple[float, float] = (0.0, 0.0)) -> Box:
    """The pixels of an object in a picture of that size: ``(x0, y0, x1, y1)``, the last ones not included."""
    width, height = size
    left, right = o.column * width // GRID, (o.column + 1) * width // GRID
    top, bottom = o.row * height // GRID, (o.row + 1) * height // GRID
    w, h = round((right - left) * 0.75), round((bottom - top) * 0.75)
    x = left + round((right - left - w) * (0.5 + 0.5 * jitter[0]))
    y = top + round((bottom - top - h) * (0.5 + 0.5 * jitter[1]))
    return x, y, x + w, y + h


def render(scene: Scene, size: tuple[int, int], jitter: Sequence[tuple[float, float]] | None = None) -> Image.Image:
    """`paint` as a picture."""
    return Image.fromarray(paint(scene, size, jitter), mode="RGB")


@dataclass(frozen=True)
class Drawn:
    """A scene as one picture shows it.

    Attributes:
        scene: what is to be seen.
        size: width and height in pixels.
        jitter: where each object stands in its cell, from `draw_jitter`.
    """

    scene: Scene
    size: tuple[int, int]
    jitter: tuple[tuple[float, float], ...]

    def render(self) -> Image.Image:
        """The picture."""
        return render(self.scene, self.size, self.jitter)

    def box(self, o: Object) -> Box:
        """The pixels of one of its objects."""
        return object_box(o, self.size, self.jitter[self.scene.objects.index(o)])

    def without(self, o: Object) -> Drawn:
        """The same picture with an object taken out; every other pixel stays as it is."""
        i = self.scene.objects.index(o)
        rest = self.scene.objects[:i] + self.scene.objects[i + 1 :]
        return Drawn(make_scene(rest), self.size, self.jitter[:i] + self.jitter[i + 1 :])

    def recoloured(self, o: Object, colour: str) -> Drawn:
        """The same picture with an object in another colour; every pixel outside its box stays as it is.

        Raises:
            ValueError: another object looks like that already.
        """
        objects = (replace(other, colour=colour) if other == o else other for other in self.scene.objects)
        return Drawn(make_scene(objects), self.size, self.jitter)  # cells are distinct, so the order stays
