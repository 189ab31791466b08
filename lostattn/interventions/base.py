"""What every intervention is: a value that says where it acts and how, composes with ``+``, and goes to JSON."""

from __future__ import annotations

import base64
import dataclasses
import json
from collections.abc import Iterable
from typing import TYPE_CHECKING, Any, ClassVar

import torch
from torch import Tensor

from lostattn.errors import InputError, UnknownName, nearest

if TYPE_CHECKING:
    from lostattn.interventions.setting import Setting
    from lostattn.plan import Edit

Layers = Iterable[int] | int | None
Span = tuple[int, int | None]
Steps = str | Span


class Serializable:
    """A frozen dataclass that writes itself as JSON, and compares by value even where it holds tensors."""

    _known: ClassVar[dict[str, type[Serializable]]] = {}

    def __init_subclass__(cls, **kwargs: Any) -> None:
        super().__init_subclass__(**kwargs)
        Serializable._known[cls.__name__] = cls

    def to_dict(self) -> dict[str, Any]:
        """The value as JSON-ready data: its class under ``"type"``, then its fields."""
        fields = dataclasses.fields(self)  # type: ignore[arg-type]
        return {
            "type": type(self).__name__,
            **{f.name: _encode(getattr(self, f.name)) for f in fields if f.init},
        }

    def to_json(self) -> str:
        """The value as one line of JSON."""
        return json.dumps(self.to_dict(), sort_keys=True)

    @staticmethod
    def from_json(text: str) -> Any:
        """The value that :meth:`to_json` wrote.

        Raises:
            InputError: the text is no JSON, or not of an intervention.
        """
        try:
            data = json.loads(text)
        except json.JSONDecodeError as error:
            raise InputError(f"not JSON: {error}. Expected what .to_json() wrote.") from error
        if not isinstance(data, dict) or "type" not in data:
            raise InputError('expected a JSON object with a "type", as .to_json() writes it.')
        return _decode(data)

    def __eq__(self, other: object) -> bool:
        return type(other) is type(self) and self.to_json() == other.to_json()

    def __hash__(self) -> int:
        return hash(self.to_json())


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

    def __add__(self, other: object) -> Intervention:
        if not isinstance(other, Intervention):
            return NotImplemented
        parts = (*_parts(self), *_parts(other))
        return parts[0] if len(parts) == 1 else Composition(parts)

    def __radd__(self, other: object) -> Intervention:
        # sum([...]) begins with 0.
        return self if other == 0 else NotImplemented


@dataclasses.dataclass(frozen=True, eq=False)
class Composition(Intervention):
    """Several interventions, run in order. Made by ``+``; ``Composition(())`` is none at all."""

    parts: tuple[Intervention, ...] = ()

    def compile(self, setting: Setting) -> list[Edit]:
        """The edits of every part, in order."""
        return [edit for i, part in enumerate(self.parts) for edit in part.compile(setting.numbered(i))]

    def __repr__(self) -> str:
        return " + ".join(repr(part) for part in self.parts) or "Composition(())"


def _parts(intervention: Intervention) -> tuple[Intervention, ...]:
    return intervention.parts if isinstance(intervention, Composition) else (intervention,)


def checked_layers(layers: Layers) -> tuple[int, ...] | None:
    """Layers (or heads) as a tuple of ints; ``None`` stays for all."""
    if layers is None:
        return None
    given = (layers,) if isinstance(layers, int) else tuple(layers)
    if not given or not all(isinstance(i, int) and not isinstance(i, bool) for i in given):
        raise InputError(f"got {given!r}; expected one or more ints (or None for all).")
    return given


def checked_steps(steps: Steps) -> tuple[int, int | None]:
    """Steps of a generation as ``(first, end)``: 0 is the prefill, decoding begins at 1, ``None`` is no end."""
    named: dict[str, tuple[int, int | None]] = {"all": (0, None), "prefill": (0, 1), "decode": (1, None)}
    if isinstance(steps, str):
        if steps not in named:
            raise InputError(f"steps is {steps!r}; expected 'all', 'prefill', 'decode' or (first, end).")
        return named[steps]
    first, end = steps
    if first < 0 or (end is not None and end <= first):
        raise InputError(f"steps is {steps!r}; expected (first, end) with 0 <= first < end, or end None.")
    return (first, end)


def choice(name: str, value: Any, allowed: tuple[Any, ...]) -> None:
    """Refuse a value that is not among the allowed ones."""
    if value not in allowed:
        raise InputError(f"{name} is {value!r}; expected one of {', '.join(map(repr, allowed))}.")


def finite(name: str, values: Tensor) -> Tensor:
    """Refuse NaN and infinities in values that a user hands over."""
    if not torch.isfinite(values).all():
        bad = int((~torch.isfinite(values)).sum())
        raise InputError(f"{name} holds {bad} values that are NaN or infinite, of {values.numel()}; expected numbers.")
    return values


def _encode(value: Any) -> Any:
    if isinstance(value, Serializable):
        return value.to_dict()
    if isinstance(value, Tensor):
        from safetensors.torch import save

        stored = save({"value": value.detach().cpu().contiguous()})
        return {"tensor": base64.b64encode(stored).decode("ascii")}
    if isinstance(value, slice):
        return {"slice": [value.start, value.stop, value.step]}
    if isinstance(value, tuple):
        return {"tuple": [_encode(v) for v in value]}
    if isinstance(value, dict):
        return {"dict": [[_encode(k), _encode(v)] for k, v in sorted(value.items())]}
    if value is None or isinstance(value, bool | int | float | str):
        return value
    raise InputError(f"{type(value).__name__} {value!r} does not go to JSON; use numbers, names or tensors.")


def _decode(data: Any) -> Any:
    if not isinstance(data, dict):
        return data
    if "tensor" in data:
        from safetensors.torch import load

        return load(base64.b64decode(data["tensor"]))["value"]
    if "slice" in data:
        return slice(*data["slice"])
    if "tuple" in data:
        return tuple(_decode(v) for v in data["tuple"])
    if "dict" in data:
        return {_decode(k): _decode(v) for k, v in data["dict"]}
    kind = Serializable._known.get(data["type"])
    if kind is None:
        raise UnknownName(f"no intervention is called {data['type']!r}.{nearest(data['type'], Serializable._known)}")
    return kind(**{k: _decode(v) for k, v in data.items() if k != "type"})
