"""Pictures spoilt on purpose: the other half of a clean and a corrupted prompt.

All read a picture as a prompt does (:func:`lostattn.pictures.load_picture`): upright, and as RGB.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Callable, Iterable, Sequence
from typing import Annotated, Any

import numpy as np
from PIL import Image, ImageDraw, ImageFilter

from lostattn.arguments import checked_call
from lostattn.arguments.kinds import Rule, Seed
from lostattn.data.question import Question
from lostattn.errors import InputError, nearest
from lostattn.pictures.loading import load_picture
from lostattn.pictures.patch_grid import PatchGrid

Radius = Annotated[float | int, Rule(lambda v: 0 <= v <= 10_000, "from 0 to 10000")]
Colour = tuple[int, int, int]


@checked_call
def blank(picture: Image.Image, colour: Colour | None = None) -> Image.Image:
    """A picture of one colour; of the picture's own mean colour where none is given."""
    picture = load_picture(picture)
    return Image.new("RGB", picture.size, colour or _mean(picture))


@checked_call
def noise(picture: Image.Image, strength: float | int = 64.0, seed: Seed = 0) -> Image.Image:
    """Gaussian noise of a standard deviation of ``strength`` (of 255) added to every pixel, cut to what can be shown.

    Raises:
        InputError: ``strength`` is not above 0.
    """
    _above_zero("strength", strength)
    pixels = np.asarray(load_picture(picture), dtype=np.float64)
    drawn = np.random.default_rng(seed).normal(0.0, strength, pixels.shape)
    return Image.fromarray(np.clip(np.rint(pixels + drawn), 0, 255).astype(np.uint8))


@checked_call
def blur(picture: Image.Image, radius: Radius = 4.0) -> Image.Image:
    """A Gaussian blur of ``radius`` pixels.

    Raises:
        InputError: ``radius`` is not above 0.
    """
    _above_zero("radius", radius)
    return load_picture(picture).filter(ImageFilter.GaussianBlur(radius))


@checked_call
def mask_patches(
    picture: Image.Image, grid: PatchGrid, patches: Iterable[int], colour: Colour | None = None
) -> Image.Image:
    """The picture with the pixels of some patches painted over (in its mean colour where none is given).

    Args:
        picture: the picture as the prompt holds it.
        grid: its patch grid: ``prompt.token_map.grids[item][image]``.
        patches: which patches, counted row by row.
        colour: to paint with.

    Raises:
        InputError: a patch that the grid does not have, or a grid whose place in the picture is not known.
    """
    boxes = grid.boxes().tolist()
    chosen = list(patches)
    bad = [p for p in chosen if not 0 <= p < len(boxes)]
    if bad:
        raise InputError(f"patch {bad[0]} is out of range: the grid has {len(boxes)} patches, 0 to {len(boxes) - 1}.")
    picture = load_picture(picture)
    out = picture.copy()
    draw = ImageDraw.Draw(out)
    for x0, y0, x1, y1 in (boxes[p] for p in chosen):
        if x1 > x0 and y1 > y0:
            draw.rectangle((round(x0), round(y0), round(x1) - 1, round(y1) - 1), fill=colour or _mean(picture))
    return out


@checked_call
def cover(
    picture: Image.Image, box: Sequence[float | int], colour: Colour | None = None, border: int = 4
) -> Image.Image:
    """The picture with a box painted over, so that what stood there is gone.

    Args:
        picture: the picture.
        box: ``(x0, y0, x1, y1)`` in its pixels, the last ones not included; fractions take the pixels that they touch.
        colour: to paint with. None takes the mean of what surrounds the box, so that as little as possible is new.
        border: how many pixels around the box count as its surroundings.

    When it is weak: a box on a rough background leaves a smooth patch behind, and a shadow or a reflection outside it.

    Raises:
        InputError: a box that is none, that lies outside the picture or covers all of it, or a ``border`` below 1.
    """
    out = np.array(load_picture(picture))
    height, width = out.shape[:2]
    if len(box) != 4 or not (0 <= box[0] < box[2] <= width and 0 <= box[1] < box[3] <= height):
        raise InputError(
            f"box is {tuple(box)}; expected (x0, y0, x1, y1) with x0 < x1 and y0 < y1, in a picture of {width} x "
            f"{height}."
        )
    left, top, right, bottom = math.floor(box[0]), math.floor(box[1]), math.ceil(box[2]), math.ceil(box[3])
    if not isinstance(border, int) or border < 1:
        raise InputError(f"border is {border!r}; expected a number of pixels, at least 1.")
    around = np.zeros((height, width), dtype=bool)
    around[max(top - border, 0) : bottom + border, max(left - border, 0) : right + border] = True
    around[top:bottom, left:right] = False
    if colour is None and not around.any():
        raise InputError(f"box is {tuple(box)}, all of the picture: nothing surrounds it. Give colour=, or use blank.")
    out[top:bottom, left:right] = out[around].mean(0).round() if colour is None else colour
    return Image.fromarray(out)


@checked_call
def another_scene(question: Question, data: Sequence[Question], seed: Seed = 0) -> Question:
    """The same question about the pictures of another one, of the same number and sizes, drawn by ``seed``.

    Its pictures come of a question with another answer where there is one of the same kind, so that something should
    change.

    Raises:
        InputError: the data set has no other scene with such pictures.
    """
    sizes = [p.size for p in question.images]
    fit = [q for q in data if q.group != question.group and [p.size for p in q.images] == sizes]
    better = [q for q in fit if q.kind == question.kind and q.answer != question.answer]
    pool = better or fit
    if not pool:
        raise InputError(f"no other scene of {len(data)} questions has pictures of the sizes {sizes}; load more.")
    other = pool[int(np.random.default_rng(seed).integers(len(pool)))]
    return dataclasses.replace(question, images=other.images, id=f"{question.id}/scene-of-{other.id}")


@checked_call
def corrupt(
    question: Question,
    how: str | Callable[..., Image.Image] = "blank",
    images: Iterable[int] | None = None,
    **keywords: Any,
) -> Question:
    """The same question with its pictures spoilt; text and layout stay as they are.

    Args:
        question: a question with pictures.
        how: ``"blank"``, ``"noise"``, ``"blur"``, ``"cover"`` (a box), or a function ``picture -> picture``.
        images: which of its pictures (None: all).
        keywords: passed on: ``radius=``, ``strength=``, ``seed=``, ``colour=``, ``box=``.

    Returns:
        A question with an id of its own, so that nothing random is shared with the clean one by accident.

    Raises:
        InputError: an unknown corruption, an image that is not there, or a function that changes a picture's size.
    """
    known: dict[str, Callable[..., Image.Image]] = {"blank": blank, "noise": noise, "blur": blur, "cover": cover}
    if isinstance(how, str) and how not in known:
        raise InputError(f"no corruption is called {how!r}; there are {', '.join(known)}.{nearest(how, known)}")
    function = known[how] if isinstance(how, str) else how
    n = len(question.images)
    chosen = list(range(n)) if images is None else list(images)
    if not chosen or any(not 0 <= k < n for k in chosen):
        raise InputError(f"images is {chosen}; question {question.id!r} holds {n} pictures.")
    out = list(question.images)
    for k in chosen:
        out[k] = load_picture(function(question.images[k], **keywords), f"what {how!r} makes of image {k}")
        if out[k].size != question.images[k].size:
            raise InputError(
                f"the corruption made a picture of {out[k].size} out of one of {question.images[k].size}; keep the "
                "size, so that the two prompts keep one layout."
            )
    name = how if isinstance(how, str) else getattr(how, "__name__", "changed")
    return dataclasses.replace(question, images=tuple(out), id=f"{question.id}/{name}")


def _mean(picture: Image.Image) -> Colour:
    red, green, blue = np.asarray(picture, dtype=np.float64).mean((0, 1)).round().astype(int).tolist()
    return red, green, blue


def _above_zero(name: str, value: float | int) -> None:
    if not value > 0:
        raise InputError(f"{name} is {value!r}; expected a number above 0.")
