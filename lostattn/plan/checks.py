"""What the fields of interventions may be: layers, steps, seeds, numbers, tensors; each checked where it is given."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping
from typing import Annotated, Any, SupportsIndex

import numpy as np
import torch
from torch import Tensor

from lostattn.arguments.described import described
from lostattn.arguments.kinds import Told
from lostattn.errors import InputError

Layers = Annotated[
    Iterable[SupportsIndex] | SupportsIndex | None, Told("an int, or one or more of them, or None for all")
]
Span = tuple[int, int | None]
Steps = Annotated[
    str | Span | slice,
    Told("'all', 'prefill', 'decode', or (first, end) with 0 <= first < end or end None, or such a slice"),
]


def checked_layers(value: Layers, name: str = "layers") -> tuple[int, ...] | None:
    """Layers or heads as a tuple of ints; ``None`` stays for all."""
    if value is None:
        return None
    asked: Any = value
    if isinstance(asked, Mapping):
        raise InputError(
            f"{name} is {described(value)}; expected an int, or one or more of them, or None for all (heads by layer "
            "are given as heads={1: [0], 3: [2]})."
        )
    given = tuple(asked) if isinstance(asked, Iterable) and not isinstance(asked, str) else (asked,)
    if not given or not all(isinstance(i, int | np.integer) and not isinstance(i, bool) for i in given):
        raise InputError(f"{name} is {described(value)}; expected an int, or one or more of them, or None for all.")
    return tuple(map(int, given))


def checked_steps(steps: Steps) -> tuple[int, int | None]:
    """Steps of a generation as ``(first, end)``: 0 is the prefill, decoding begins at 1, ``None`` is no end."""
    named: dict[str, tuple[int, int | None]] = {"all": (0, None), "prefill": (0, 1), "decode": (1, None)}
    if isinstance(steps, str) and steps in named:
        return named[steps]
    span = (steps.start or 0, steps.stop) if isinstance(steps, slice) and steps.step in (None, 1) else steps
    if isinstance(span, tuple | list) and len(span) == 2 and type(span[0]) is int and span[0] >= 0:
        first, end = span
        if end is None or (type(end) is int and end > first):
            return (first, end)
    raise InputError(
        f"steps is {described(steps)}; expected 'all', 'prefill', 'decode', or (first, end) with 0 <= first < end "
        "or end None, or such a slice; step 0 is the prefill."
    )


def checked_seed(seed: Any) -> int:
    """A seed as a plain int, so that equal seeds of other integer types draw the same."""
    if not isinstance(seed, int | np.integer) or isinstance(seed, bool):
        raise InputError(f"seed is {described(seed)}; expected an int.")
    return int(seed)


def checked_number(name: str, value: Any, low: float, high: float, meaning: str) -> float:
    """A finite number from ``low`` to ``high`` as a plain float."""
    real = isinstance(value, int | float | np.integer | np.floating) and not isinstance(value, bool)
    if not real or not low <= value <= high or math.isinf(value):
        raise InputError(f"{name} is {described(value)}; expected {meaning}.")
    return float(value)


def normalise(value: Any, **checked: Any) -> None:
    """Put checked values into the fields of a frozen dataclass, from its ``__post_init__``."""
    for name, new in checked.items():
        object.__setattr__(value, name, new)


def choice(name: str, value: Any, allowed: tuple[str, ...]) -> None:
    """Refuse a value that is not among the allowed ones."""
    if not isinstance(value, str) or value not in allowed:
        raise InputError(f"{name} is {described(value)}; expected one of {', '.join(map(repr, allowed))}.")


def finite(name: str, values: Any) -> Tensor:
    """Values that a user hands over, as a floating-point tensor without NaN or infinities."""
    try:
        values = torch.as_tensor(values)
    except (TypeError, ValueError, RuntimeError) as error:
        raise InputError(f"{name} is {type(values).__name__}; expected a tensor of numbers.") from error
    if values.is_complex() or values.is_meta or values.numel() == 0:
        raise InputError(f"{name} is of {values.dtype} and shape {tuple(values.shape)}; expected some real numbers.")
    values = values if values.is_floating_point() else values.float()
    if not torch.isfinite(values).all():
        bad = int((~torch.isfinite(values)).sum())
        raise InputError(f"{name} holds {bad} values that are NaN or infinite, of {values.numel()}; expected numbers.")
    return values
