"""Which hook points of a model a prompt reaches."""

from __future__ import annotations

from collections.abc import Iterable

from lostattn.errors import InputError
from lostattn.prompt.batch import Prompt
from lostattn.prompt.picture_inputs import has_picture, runs_once


def of_vision(name: str) -> bool:
    """Whether a canonical name lies in the vision tower or the projector."""
    return name.startswith(("vision_encoder.", "vision_projector."))


def reached_points(prompt: Prompt, names: Iterable[str]) -> tuple[str, ...]:
    """Those of the names that a pass on this prompt comes by."""
    seen = has_picture(prompt) and runs_once(prompt)
    return tuple(names) if seen else tuple(name for name in names if not of_vision(name))


def check_reached(prompt: Prompt, names: Iterable[str]) -> None:
    """Refuse names that were asked for one by one and that this prompt does not reach.

    Raises:
        InputError: a point of the vision tower or the projector, and a prompt without a picture, or with images and
            videos, where one name would stand for two passes through the tower.
    """
    missing = next(filter(of_vision, names), None)
    if missing is not None and has_picture(prompt) and not runs_once(prompt):
        raise InputError(
            f"{missing!r} is met twice on this prompt, which holds images and videos: the tower runs for the one and"
            " then for the other. Ask for it on a prompt of images or of videos alone."
        )
    if missing is not None and not has_picture(prompt):
        raise InputError(
            f"{missing!r} lies where pictures are seen, but the prompt holds none, so it is not reached. "
            "Give a picture, for example model.prompt(text, images=[picture])."
        )
