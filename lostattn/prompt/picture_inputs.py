"""Which inputs hold pictures: of a prompt, and of what a model's ``forward`` takes."""

from __future__ import annotations

import inspect
from collections.abc import Iterable
from typing import Any

from lostattn.prompt.batch import Prompt

PICTURES = ("pixel_values", "flattened_patches", "image_patches")  # what the inputs that hold pictures begin with


def has_picture(prompt: Prompt) -> bool:
    """Whether the vision tower runs on this prompt."""
    return holds_picture(prompt.inputs)


def holds_picture(names: Iterable[str]) -> bool:
    """Whether one of these inputs, or of the names that a ``forward`` takes, is of pictures."""
    return any(name.startswith(PICTURES) for name in names)


def takes_pictures(model: Any) -> bool:
    """Whether a model reads pictures at all: some that are listed with those that do read proteins, or text alone."""
    known = inspect.signature(model.forward).parameters
    return holds_picture(known) or getattr(model.config, "vision_config", None) is not None


def runs_once(prompt: Prompt) -> bool:
    """Whether the vision tower runs once on this prompt: with images and videos it runs for the one and the other."""
    return not {"pixel_values", "pixel_values_videos"} <= prompt.inputs.keys()
