"""Arguments that are known by what they offer rather than by their class, and numbers within limits."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Annotated, Any

import numpy as np
import torch
from PIL import Image

from lostattn.arguments.kinds import Rule, is_device, is_sane, is_whole


def _offers(*names: str) -> Any:
    def offered(value: Any) -> bool:
        return not isinstance(value, type) and all(hasattr(value, name) for name in names)

    return offered


def _is_picture(value: Any) -> bool:
    if isinstance(value, np.ndarray):
        return value.ndim in (2, 3) and value.size > 0 and value.dtype.kind in "uif"
    return isinstance(value, Image.Image) or _offers("frames", "fps")(value)


def _are_numbers(value: Any) -> bool:
    """Real numbers in an array, a tensor, or lists of one shape."""
    if isinstance(value, np.ndarray):
        return value.dtype.kind in "uifb" and value.size > 0
    if isinstance(value, torch.Tensor):
        return is_sane(value) and value.numel() > 0
    if not isinstance(value, list | tuple) or not value:
        return False
    try:
        plain = [one.detach().cpu().numpy() if isinstance(one, torch.Tensor) else one for one in value]
        kind = np.asarray(plain).dtype.kind
    except (ValueError, TypeError, RuntimeError):
        return False
    return kind in "uif"


def _is_slice(value: Any) -> bool:
    """What TransformerLens' slices are made of: one index, several, ``(start, stop[, step])``, or a slice."""
    if value is None or isinstance(value, slice | str):
        return True
    if isinstance(value, np.ndarray | torch.Tensor):
        numbers = value.dtype.kind in "iub" if isinstance(value, np.ndarray) else not _is_float(value)
        return numbers and value.ndim <= 2
    if isinstance(value, list | tuple):
        return bool(value) and all(one is None or is_whole(one) for one in value)
    return is_whole(value) or hasattr(value, "slice")


def _is_float(value: torch.Tensor) -> bool:
    return value.is_floating_point() or value.is_complex()


def _is_any_device(value: Any) -> bool:
    return is_device(value) or (isinstance(value, str | torch.device) and str(value) == "meta")


def _at_least_one(value: Any) -> bool:
    return not hasattr(value, "__len__") or len(value) > 0


PromptLike = Annotated[
    Any, Rule(_offers("token_map", "str_tokens", "inputs"), "a prompt, such as model.prompt(…) gives")
]
CacheLike = Annotated[
    Any, Rule(lambda v: isinstance(v, Mapping) and len(v) > 0, "a cache, such as model.run_with_cache(…) gives")
]
QuestionLike = Annotated[
    Any,
    Rule(_offers("text", "choices"), "a question with text and choices, such as la.data.load gives"),
]
GridLike = Annotated[
    Any,
    Rule(
        lambda v: v is None or isinstance(v, bool) or _offers("boxes")(v),
        "a grid of patches, such as prompt.token_map.grids[0][0], None to divide the picture evenly, or True or False "
        "for lines between the patches",
    ),
]
PictureLike = Annotated[Any, Rule(_is_picture, "a PIL image, an array [height, width, channel], or a lostattn.Video")]
Numbers = Annotated[Any, Rule(_are_numbers, "real numbers: an array, a tensor, or a list of them")]
AnyDevice = Annotated[Any, Rule(_is_any_device, "a device of this machine, such as 'cpu', or 'meta'")]
ItemsTaken = Annotated[
    Any, Rule(lambda v: _is_slice(v) and not isinstance(v, str), "an index, several, a slice, or None for all")
]
TakenOut = Annotated[Any, Rule(_is_slice, "an index, several, a slice, or None for all")]
FileName = Annotated[
    str,
    Rule(
        lambda v: bool(v) and len(v.encode("utf-8", "replace")) <= 200 and not set("/\\\0") & set(v),
        "that can name a file: at most 200 bytes, without slashes and null bytes",
    ),
]
Share = Annotated[float | int, Rule(lambda v: 0 <= v <= 1, "from 0 to 1")]
AtLeastOne = Rule(_at_least_one, "of at least one")
