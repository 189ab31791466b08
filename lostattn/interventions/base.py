"""What every intervention is: a value that says where it acts and how, composes with ``+``, and goes to JSON."""

from __future__ import annotations

import dataclasses
import json
import math
from collections.abc import Iterable
from typing import TYPE_CHECKING, Any, ClassVar, SupportsIndex

import numpy as np
import torch
from torch import Tensor

from lostattn.errors import InputError
from lostattn.interventions.encoding import decode, encode, holds_tensors, summary

if TYPE_CHECKING:
    from lostattn.interventions.setting import Setting
    from lostattn.plan import Edit

Layers = Iterable[SupportsIndex] | SupportsIndex | None
Span = tuple[int, int | None]
Steps = str | Span | slice


class Serializable:
    """A frozen dataclass that writes itself as JSON, and compares by value even where it holds tensors."""

    _known: ClassVar[dict[str, type[Serializable]]] = {}

    def __init_subclass__(cls, **kwargs: Any) -> None:
        super().__init_subclass__(**kwargs)
        Serializable._known[cls.__name__] = cls

    def to_dict(self) -> dict[str, Any]:
        """The value as JSON-ready data: its class under ``"type"``, then its fields."""
        fields = dataclasses.fields(self)  # type: ignore[arg-type]
        return {"type": type(self).__name__, **{f.name: encode(getattr(self, f.name)) for f in fields}}

    def to_json(self) -> str:
        """The value as one line of JSON; masks and other tensors go in whole.

        Raises:
            InputError: a field holds something that has no place in JSON.
        """
        return json.dumps(self.to_dict(), sort_keys=True)

    @classmethod
    def from_json(cls, text: str) -> Any:
        """The value that :meth:`to_json` wrote.

        Raises:
            InputError: the text is no JSON, not what :meth:`to_json` writes, or of another class than this one.
            UnknownName: its ``"type"`` is no intervention or source that is defined here.
        """
        try:
            data = json.loads(text)
        except (TypeError, ValueError) as error:
            raise InputError(f"not JSON: {error}. Expected what .to_json() wrote.") from error
        if not isinstance(data, dict) or "type" not in data:
            raise InputError('expected a JSON object with a "type", as .to_json() writes it.')
        known = {name: kind for name, kind in Serializable._known.items() if dataclasses.is_dataclass(kind)}
        value = decode(data, known)
        if not isinstance(value, cls):
            raise InputError(f"the JSON holds a {type(value).__name__}; expected {cls.__name__}.")
        return value

    def __eq__(self, other: object) -> bool:
        return type(other) is type(self) and self.to_json() == other.to_json()

    def __hash__(self) -> int:
        return hash(self.to_json())

    def __repr__(self) -> str:
        # Only what differs from the default, and of a tensor its shape: a pattern fills pages.
        shown = []
        for field in dataclasses.fields(self):  # type: ignore[arg-type]
            value: Any = getattr(self, field.name)
            default: Any = field.default
            own = checked_steps(default) if field.name == "steps" else default
            if holds_tensors(value) or encode(value) != encode(own):  # tensors are never written out to be compared
                shown.append(f"{field.name}={summary(value)}")
        return f"{type(self).__name__}({', '.join(shown)})"


class Intervention(Serializable):
    """An intervention: ``a + b`` runs both, in that order at every point that they share.

    Subclasses are frozen dataclasses, one technique each. They do nothing by themselves: passed as
    ``interventions=`` they are compiled against the model and the prompt into plain edits.
    """

    def compile(self, setting: Setting) -> list[Edit]:
        """The edits that this intervention means on this model and prompt.

        Raises:
            InputError: it cannot be meant here (a layer that does not exist, a prompt without an image, …).
        """
        raise NotImplementedError

    def with_seed(self, seed: int) -> Intervention:
        """The same intervention with every seed in it shifted by ``seed``; equal to itself if nothing is random."""
        return _reseeded(self, seed)

    def __add__(self, other: object) -> Intervention:
        if not isinstance(other, Intervention):
            return NotImplemented
        parts = (*_parts(self), *_parts(other))
        return parts[0] if len(parts) == 1 else Composition(parts)

    def __radd__(self, other: object) -> Intervention:
        # sum([...]) begins with 0.
        return self if other == 0 else NotImplemented


@dataclasses.dataclass(frozen=True, eq=False, repr=False)
class Composition(Intervention):
    """Several interventions, run in order. Made by ``+``; ``Composition(())`` is none at all.

    Compositions inside it are opened: ``(a + b) + c`` and ``a + (b + c)`` are equal.
    """

    parts: tuple[Intervention, ...] = ()

    def __post_init__(self) -> None:
        given = self.parts if isinstance(self.parts, tuple | list) else (self.parts,)
        for part in given:
            if not isinstance(part, Intervention):
                raise InputError(f"a composition holds {part!r}; expected interventions, such as KnockOut(…).")
        normalise(self, parts=tuple(inner for part in given for inner in _parts(part)))

    def compile(self, setting: Setting) -> list[Edit]:
        """The edits of every part, in order."""
        return [edit for i, part in enumerate(self.parts) for edit in part.compile(setting.numbered(i))]

    def __repr__(self) -> str:
        return " + ".join(repr(part) for part in self.parts) or "Composition(())"


def _reseeded(value: Any, shift: int) -> Any:
    """A value with every ``seed`` field in it, however deep, moved on by ``shift``."""
    if isinstance(value, tuple):
        return tuple(_reseeded(v, shift) for v in value)
    if not isinstance(value, Serializable):
        return value
    changes = {}
    for field in dataclasses.fields(value):  # type: ignore[arg-type]
        old = getattr(value, field.name)
        changes[field.name] = old + shift if field.name == "seed" else _reseeded(old, shift)
    return dataclasses.replace(value, **changes)  # type: ignore[type-var]


def _parts(intervention: Intervention) -> tuple[Intervention, ...]:
    return intervention.parts if isinstance(intervention, Composition) else (intervention,)


def checked_layers(value: Layers, name: str = "layers") -> tuple[int, ...] | None:
    """Layers or heads as a tuple of ints; ``None`` stays for all."""
    if value is None:
        return None
    asked: Any = value
    given = tuple(asked) if isinstance(asked, Iterable) and not isinstance(asked, str) else (asked,)
    if not given or not all(isinstance(i, int | np.integer) and not isinstance(i, bool) for i in given):
        raise InputError(f"{name} is {value!r}; expected an int, or one or more of them, or None for all.")
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
        f"steps is {steps!r}; expected 'all', 'prefill', 'decode', or (first, end) with 0 <= first < end "
        "or end None, or such a slice; step 0 is the prefill."
    )


def checked_seed(seed: Any) -> int:
    """A seed as a plain int, so that equal seeds of other integer types draw the same."""
    if not isinstance(seed, int | np.integer) or isinstance(seed, bool):
        raise InputError(f"seed is {seed!r}; expected an int.")
    return int(seed)


def checked_number(name: str, value: Any, low: float, high: float, meaning: str) -> float:
    """A finite number from ``low`` to ``high`` as a plain float."""
    real = isinstance(value, int | float | np.integer | np.floating) and not isinstance(value, bool)
    if not real or not low <= value <= high or math.isinf(value):
        raise InputError(f"{name} is {value!r}; expected {meaning}.")
    return float(value)


def normalise(value: Any, **checked: Any) -> None:
    """Put checked values into the fields of a frozen dataclass, from its ``__post_init__``."""
    for name, new in checked.items():
        object.__setattr__(value, name, new)


def choice(name: str, value: Any, allowed: tuple[str, ...]) -> None:
    """Refuse a value that is not among the allowed ones."""
    if not isinstance(value, str) or value not in allowed:
        raise InputError(f"{name} is {value!r}; expected one of {', '.join(map(repr, allowed))}.")


def finite(name: str, values: Any) -> Tensor:
    """Values that a user hands over, as a floating-point tensor without NaN or infinities."""
    try:
        values = torch.as_tensor(values)
    except (TypeError, ValueError, RuntimeError) as error:
        raise InputError(f"{name} is {type(values).__name__}; expected a tensor of numbers.") from error
    if values.is_complex() or values.numel() == 0:
        raise InputError(f"{name} is of {values.dtype} and shape {tuple(values.shape)}; expected some real numbers.")
    values = values if values.is_floating_point() else values.float()
    if not torch.isfinite(values).all():
        bad = int((~torch.isfinite(values)).sum())
        raise InputError(f"{name} holds {bad} values that are NaN or infinite, of {values.numel()}; expected numbers.")
    return values
