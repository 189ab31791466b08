"""A kernel that not every part of a model supports: asked for where it runs, with eager attention for the rest."""

from __future__ import annotations

import copy
import warnings
from collections.abc import Callable
from typing import Any

import torch

from lostattn.errors import InputError

Choice = str | dict[str, str]  # one kernel for all, or one for each part of the config ("" is the whole itself)


def with_kernel(make: Callable[[Choice], Any], kind: Any, config: Any, wanted: str) -> Any:
    """What ``make`` makes with the kernel that is wanted, or with as much of it as the model's parts support.

    Where a part of the model (a vision tower, usually) has no such kernel and the decoder has, that part gets eager
    attention, with a warning.

    Args:
        make: takes a kernel, or one for each part, and makes the model; what transformers raises passes through.
        kind: the model's class; ``None`` where it is not known.
        config: its config, which is not changed.
        wanted: the kernel.

    Raises:
        InputError: the decoder itself has no such kernel.
    """
    try:
        return make(wanted)
    except ValueError as error:
        if kind is None or wanted == "eager" or "does not support" not in str(error):
            raise
        parts = by_part(kind, config, wanted)
        if parts[_decoder_part(config)] != wanted:
            said = str(error).split(" yet.")[0].split(". ")[0]
            raise InputError(
                f"transformers runs no decoder of {kind.__name__} with attn_implementation={wanted!r} ({said}). Load "
                "it with attn_implementation='eager'."
            ) from error
    having = [name or "the model itself" for name, kernel in parts.items() if kernel == wanted]
    warnings.warn(
        f"{kind.__name__} supports {wanted!r} in {' and '.join(having)} alone; its other parts run eager attention.",
        stacklevel=2,
    )
    return make(parts)


def by_part(kind: Any, config: Any, wanted: str) -> dict[str, str]:
    """The kernel of each part of a config: the one that is wanted where transformers takes it, else ``"eager"``."""
    parts = dict.fromkeys(["", *config.sub_configs], "eager")
    for name in parts:
        if _takes(kind, config, {**parts, name: wanted}):
            parts[name] = wanted
    return parts


def other_parts(config: Any) -> dict[str, str]:
    """The parts of a loaded model's config whose kernel is not the decoder's, and which they have."""
    kernel = config.get_text_config(decoder=True)._attn_implementation
    found = {name: getattr(getattr(config, name, None), "_attn_implementation", None) for name in config.sub_configs}
    return {name: other for name, other in found.items() if other not in (None, kernel)}


def _takes(kind: Any, config: Any, choice: Choice) -> bool:
    """Whether transformers builds the modules, without weights, with these kernels."""
    try:
        with torch.device("meta"):
            kind._from_config(copy.deepcopy(config), attn_implementation=choice)
    except ValueError:
        return False
    return True


def _decoder_part(config: Any) -> str:
    text = config.get_text_config(decoder=True)
    return next((name for name in config.sub_configs if getattr(config, name, None) is text), "")
