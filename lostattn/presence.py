"""Which hook points a prompt reaches: without a picture the vision tower does not run."""

from __future__ import annotations

from collections.abc import Iterable
from typing import TYPE_CHECKING

from lostattn.errors import InputError

if TYPE_CHECKING:
    from lostattn.prompt import Prompt

PICTURES = ("pixel_values", "flattened_patches", "image_patches")  # what the inputs that hold pictures begin with


def has_picture(prompt: Prompt) -> bool:
    """Whether the vision tower runs on this prompt."""
    return any(name.startswith(PICTURES) for name in prompt.inputs)


def of_vision(name: str) -> bool:
    """Whether a canonical name lies in the vision tower or the projector."""
    return name.startswith(("vision_encoder.", "vision_projector."))


def reached(prompt: Prompt, names: Iterable[str]) -> tuple[str, ...]:
    """Those of the names that a pass on this prompt comes by."""
    return tuple(names) if has_picture(prompt) else tuple(name for name in names if not of_vision(name))


def check_reached(prompt: Prompt, names: Iterable[str]) -> None:
    """Refuse names that were asked for one by one and that this prompt does not reach.

    Raises:
        InputError: a point of the vision tower or the projector, and a prompt without a picture.
    """
    if has_picture(prompt):
        return
    missing = next(filter(of_vision, names), None)
    if missing is not None:
        raise InputError(
            f"{missing!r} lies where pictures are seen, but the prompt holds none, so it is not reached. "
            "Give a picture, for example model.prompt(text, images=[picture])."
        )
