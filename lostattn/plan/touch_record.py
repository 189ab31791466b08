"""Where the edits of a pass acted: how many cells each one changed, by point, step and item."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

from lostattn.errors import InputError
from lostattn.points.names import split_block
from lostattn.points.reach import of_vision
from lostattn.saved.shape import COUNT, checked, fixed, whole

if TYPE_CHECKING:
    import pandas

Record = tuple[int, int, tuple[int, ...]]  # the number of an edit, a step, and what it changed in each item

_TOUCHED = {"edits": [fixed(str, str)], "records": [fixed(COUNT, whole(-1, 1 << 53), [COUNT])]}


def said_nowhere(parts: Sequence[str]) -> str:
    """That some parts of an intervention changed nothing."""
    return f"acted nowhere: {', '.join(parts)}"


@dataclass(frozen=True, repr=False)
class Touched:
    """What each part of an intervention changed in the passes that it ran in.

    A cell of scores or a pattern is one weight (item, head, query, key); elsewhere it is one row (item, position, and
    head where there is one). Counted is what an edit changed, not what it was allowed to: a factor of 1, a zero vector
    or a patch of equal values changes nothing.

    Attributes:
        edits: for each edit, the part of the intervention that it belongs to, as written, and the point it acts at.
        records: for each edit and step that changed anything, how many cells in each item (of the vision tower, in each
            row of the tower's own first axis).
    """

    edits: tuple[tuple[str, str], ...]
    records: tuple[Record, ...] = ()

    @classmethod
    def of(cls, edits: Iterable[Sequence[str]], noted: Mapping[str, Any] | None) -> Touched:
        """Of what a pass noted: numbers of edits, steps, and tensors of counts."""
        known = tuple((str(label), str(point)) for label, point in edits)
        if noted is None:
            return cls(known)
        counts = [tuple(int(n) for n in one.tolist()) for one in noted["counts"]]
        records = zip(noted["number"].tolist(), noted["step"].tolist(), counts, strict=True)
        return cls(known, tuple(record for record in records if any(record[2])))

    @property
    def by_edit(self) -> list[int]:
        """How many cells each edit changed, over all steps and items, in the order of the edits."""
        found = [0] * len(self.edits)
        for number, _, counts in self.records:
            found[number] += sum(counts)
        return found

    @property
    def cells(self) -> dict[str, int]:
        """How many cells each part changed, over all points, steps and items; 0 for one that acted nowhere."""
        found = {label: 0 for label, _ in self.edits}
        for (label, _), cells in zip(self.edits, self.by_edit, strict=True):
            found[label] += cells
        return found

    @property
    def nowhere(self) -> tuple[str, ...]:
        """The parts that changed nothing at all."""
        return tuple(label for label, cells in self.cells.items() if not cells)

    def by_item(self, n_items: int) -> dict[str, list[int]]:
        """How many cells each part changed in each of the items; what acts in the vision tower is left out."""
        found = {label: [0] * n_items for label, point in self.edits if not of_vision(point)}
        for number, _, counts in self.records:
            label, point = self.edits[number]
            if not of_vision(point):
                found[label] = [a + b for a, b in zip(found[label], counts, strict=True)]
        return found

    def at_point(self, point: str, n_items: int) -> list[int]:
        """How many cells were changed at a point of the decoder in each of the items, whichever part did it."""
        found = [0] * n_items
        for number, _, counts in self.records:
            if self.edits[number][1] == point:
                found = [a + b for a, b in zip(found, counts, strict=True)]
        return found

    def table(self) -> pandas.DataFrame:
        """One row an edit, step and item: ``edit, point, layer, step, item, cells``; one of 0 for an edit without any.

        ``item`` is -1 for points of the vision tower, whose rows are pictures or patches.
        """
        import pandas as pd

        rows = []
        for number, (label, point) in enumerate(self.edits):
            inside = split_block(point)
            place = {"edit": label, "point": point, "layer": -1 if inside is None else inside[1]}
            own = [(step, counts) for which, step, counts in self.records if which == number]
            for step, counts in own or [(-1, (0,))]:
                whole = of_vision(point) or not own
                for item, cells in [(-1, sum(counts))] if whole else list(enumerate(counts)):
                    rows.append({**place, "step": step, "item": item, "cells": cells})
        return pd.DataFrame(rows, columns=["edit", "point", "layer", "step", "item", "cells"])

    def part(self, start: int, end: int) -> Touched:
        """The same of some edits alone, those of the numbers ``start`` to ``end - 1``."""
        own = ((number - start, step, counts) for number, step, counts in self.records if start <= number < end)
        return Touched(self.edits[start:end], tuple(own))

    def items(self, chosen: Sequence[int]) -> Touched:
        """The same of some items alone."""
        own = (
            (number, step, counts if of_vision(self.edits[number][1]) else tuple(counts[i] for i in chosen))
            for number, step, counts in self.records
        )
        return replace(self, records=tuple(own))

    def to_dict(self) -> dict[str, Any]:
        """As JSON-ready data."""
        return {"edits": [list(edit) for edit in self.edits], "records": [[n, s, list(c)] for n, s, c in self.records]}

    @classmethod
    def from_dict(cls, data: Any) -> Touched:
        """What :meth:`to_dict` wrote.

        Raises:
            InputError: it is nothing of the kind.
        """
        held = checked(data, _TOUCHED, "this", "record of where edits acted")
        edits = tuple((label, point) for label, point in held["edits"])
        records = tuple((number, step, tuple(counts)) for number, step, counts in held["records"])
        if unknown := [number for number, _, _ in records if number >= len(edits)]:
            raise InputError(f"this tells of edit {unknown[0]} of {len(edits)}; expected what .to_dict() wrote.")
        return cls(edits, records)

    def __repr__(self) -> str:
        said = [f"{label}: {f'{cells} cells' if cells else 'nowhere'}" for label, cells in self.cells.items()]
        return "Touched: " + ("; ".join(said) or "no edit")
