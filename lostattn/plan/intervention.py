"""What every intervention is: a value that says where it acts and how, composes with ``+``, and goes to JSON."""

from __future__ import annotations

import dataclasses
import json
from typing import Any, ClassVar

from lostattn.arguments import checked_call
from lostattn.errors import InputError
from lostattn.plan.checks import checked_steps, normalise
from lostattn.plan.encoding import decode, encode, holds_tensors, summary
from lostattn.plan.program import Edit
from lostattn.plan.setting import Setting
from lostattn.saved.reading import parsed_json


@checked_call
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
        data = parsed_json(text, "the text of an intervention", loose=True)
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


@checked_call
class Intervention(Serializable):
    """An intervention: ``a + b`` runs both, in that order at every point that they share.

    Subclasses are frozen dataclasses, one technique each. They do nothing by themselves: passed as
    ``interventions=`` they are compiled against the model and the prompt into plain edits.
    """

    EXPECTED: ClassVar[str] = "an intervention such as la.KnockOut('last', 'image'), or several joined with +"

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


@checked_call
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
                raise InputError(
                    f"a composition holds {repr(part)[:200]}; expected interventions, such as KnockOut(…)."
                )
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
