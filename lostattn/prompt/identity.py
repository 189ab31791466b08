"""Whose a prompt is: the identity of each of its items, and the processor that made it."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from typing import Any

import torch
from PIL import Image

from lostattn.errors import InputError
from lostattn.pictures.videos import Video
from lostattn.prompt.batch import Prompt


def maker_of(processor: Any, config: Any) -> str:
    """What a prompt remembers of the model that it was made for; empty for one without a processor.

    Not its weights: models that share processor, vocabulary and size of pictures share prompts.
    """
    tokenizer = getattr(processor, "tokenizer", None)
    if tokenizer is None or not hasattr(tokenizer, "__len__"):
        return ""
    vision = getattr(config, "vision_config", None)
    side, patch = (getattr(vision, name, None) for name in ("image_size", "patch_size"))
    pictures = f", pictures of {side} pixels" * (side is not None) + f", patches of {patch}" * (patch is not None)
    return f"{type(processor).__name__}, {len(tokenizer)} tokens{pictures}"


def content_id(text: str, pictures: Sequence[Image.Image], videos: Sequence[Video] = ()) -> str:
    """The identity of an item that has no id of its own: a hash of its text and its pixels."""
    stills = [part for p in pictures for part in (str(p.size), p.tobytes())]
    return digest([text, *stills, *(part for v in videos for part in (repr(v), v.array().tobytes()))])


def digest(parts: Sequence[str | bytes]) -> str:
    """A short hash of several texts or bytes."""
    made = hashlib.sha256()
    for part in parts:
        raw = part.encode() if isinstance(part, str) else part
        made.update(f"{len(raw)}:".encode() + raw)
    return made.hexdigest()[:16]


def inputs_id(prompt: Prompt, i: int) -> str:
    """A hash of an item's real ids and of its rows of the pixel inputs."""
    ids = prompt.inputs["input_ids"][i][prompt.token_map.real[i]]
    try:
        own = prompt[i].inputs
    except InputError:  # Which rows are its own is not known: those of all, and its place among them.
        own = {**prompt.inputs, "place": torch.tensor(i)}
    pixels = [v for k, v in sorted(own.items()) if k.startswith(("pixel", "image", "place"))]
    return digest([str(ids.tolist()), *(v.cpu().float().numpy().tobytes() for v in pixels)])


def check_maker(prompt: Prompt, processor: Any, config: Any, name: str) -> None:
    """Refuse a prompt that another model's processor made: its ids and pixels mean something else here.

    Raises:
        InputError: the prompt's processor and the model's are of another class or vocabulary, or their towers take
            pictures of another size or in other patches.
    """
    own = maker_of(processor, config) if prompt.maker and processor is not None else ""
    if own and own != prompt.maker:
        raise InputError(
            f"this prompt was made by another model's processor ({prompt.maker}), but that of {name!r} is {own}: its "
            "token ids and pixels would mean something else here. Make it again with this model's own model.prompt(…)."
        )
