"""A value that was received, in a few words for a message: short, in one line, whatever stands in it."""

from __future__ import annotations

import reprlib
from pathlib import PurePath
from typing import Any

import numpy as np
import torch
from torch import Tensor

LONGEST = 80

_short = reprlib.Repr()
_short.maxstring = _short.maxother = LONGEST
_short.maxlong = 40


def described(value: Any) -> str:
    """A value as messages show it: plain ones as they are written, others by their type, arrays by their shape."""
    if isinstance(value, Tensor):
        where = "" if value.device.type == "cpu" else f" on {value.device}"
        return f"a tensor of {str(value.dtype).removeprefix('torch.')} and shape {tuple(value.shape)}{where}"
    if isinstance(value, np.ndarray):
        return f"a numpy array of {value.dtype} and shape {value.shape}"
    if isinstance(value, type):
        return f"the class {value.__name__}"
    if isinstance(value, int) and not isinstance(value, bool) and value.bit_length() > 200:
        return f"an int of {value.bit_length()} bits"
    if isinstance(value, str | bytes | int | float | bool | None | np.generic):
        return _short.repr(value)
    if isinstance(value, list | tuple | set | frozenset | dict | slice | range) and plain(value):
        return _short.repr(value)
    if isinstance(value, torch.dtype | torch.device):
        return str(value)
    if isinstance(value, PurePath):
        return f"the path {_short.repr(str(value))}"
    name = getattr(value, "__name__", None)
    return f"the function {name}" if callable(value) and isinstance(name, str) else f"a {type(value).__name__}"


def plain(value: Any, depth: int = 3) -> bool:
    """Whether a container holds nothing but plain values, so that it can be written out."""
    if isinstance(value, list | tuple | set | frozenset | dict):
        parts = [*value, *value.values()] if isinstance(value, dict) else list(value)
        return depth > 0 and len(parts) <= 64 and all(plain(part, depth - 1) for part in parts)
    if isinstance(value, slice | range):
        return all(plain(part) for part in (value.start, value.stop, value.step))
    if isinstance(value, int):
        return value.bit_length() <= 200
    return isinstance(value, str | bytes | float | None)
