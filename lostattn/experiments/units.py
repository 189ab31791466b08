"""Long work in units known beforehand: which are done, what each gave, and what becomes of a question that fails.

A unit is one batch of questions under one condition. Batches are made of all questions whatever is done, so that a run
that goes on makes the same numbers as one that was never broken off.
"""

from __future__ import annotations

import hashlib
import json
import logging
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from typing import Any

from lostattn.data.question import Question
from lostattn.errors import ChangedModel, InputError, NoRoom
from lostattn.files import Journal, PathLike
from lostattn.files.disk import check_room
from lostattn.model.lvlm import LVLM
from lostattn.pictures.stored import StoredPictures
from lostattn.plan.touch_record import Touched, said_nowhere
from lostattn.remote.failures import ConnectionLost
from lostattn.weights.digest import digest_of

log = logging.getLogger("lostattn")
Row = dict[str, Any]
Counts = dict[str, dict[str, int]]
"""Of each edit, how many cells it changed and in how many questions it acted."""
Given = tuple[str, list[Row], Touched | None]
"""What a unit gave: its name, its rows, and where its edits acted."""

OK, NO_MEMORY, BAD_PICTURE, FAILED = "ok", "out of memory", "bad picture", "failed"
ON_ERROR = ("raise", "row")
_ENOUGH = 16  # questions; where so many have failed and none has not, it is not the questions
_FIELDS = ("id", "text", "answer", "choices", "kind", "group", "answers", "options", "trouble")  # of a question
_ROW = 600  # bytes of a row in a journal and its tables, on the large side


@dataclass(frozen=True)
class Work:
    """What an experiment asks.

    Attributes:
        units: their names within a batch.
        ask: asks some questions of one batch under some units, one unit after another.
        without: the rows of a question under a unit, without what a pass would have given.
        condition: what a unit is called where it is told which edits acted.
    """

    units: Sequence[str]
    ask: Callable[[list[Question], list[str]], Iterator[Given]]
    without: Callable[[Question, str], list[Row]]
    condition: Callable[[str], str] = str


@dataclass(frozen=True)
class Keeping:
    """Where rows are kept as they come, and what becomes of questions that fail."""

    journal: PathLike | None = None
    resume: bool = False
    on_error: str = "raise"

    def __post_init__(self) -> None:
        if self.on_error not in ON_ERROR:
            raise InputError(f"on_error is {self.on_error!r}; expected 'raise' or 'row'.")
        if self.resume and self.journal is None:
            raise InputError("resume goes on with the rows of a journal; name its folder: journal='runs/first.rows'.")


@dataclass
class Done:
    """All rows in order, and what each edit did."""

    rows: list[Row]
    touched: dict[str, Counts]

    def meta(self) -> dict[str, Any]:
        """For a table's metadata: what each edit changed and in how many questions, and which acted nowhere.

        Those that acted nowhere are told in the log, too.
        """
        nowhere = {name: [part for part, n in own.items() if not n["cells"]] for name, own in self.touched.items()}
        nowhere = {name: parts for name, parts in nowhere.items() if parts}
        for name, parts in nowhere.items():
            log.warning("%s: %s", name, said_nowhere(parts))
        return {"touched": self.touched, "acted_nowhere": nowhere}


def carry_out(
    work: Work, parts: Sequence[list[Question]], keeping: Keeping, settings: Mapping[str, Any], passes: Any
) -> Done:
    """Ask what is not done yet, and put all rows together.

    Args:
        work: what to ask.
        parts: the questions in batches, always the same ones.
        keeping: where rows are kept.
        settings: what the rows depend on.
        passes: a bar; units that are done already are counted at once.

    Raises:
        NoRoom: the disk is full; what is done is kept.
    """
    with _journal(keeping, settings) as journal:
        held: dict[str, Any] = {} if journal is None else journal.done
        if journal is not None:
            size = _ROW * len(work.units) * sum(map(len, parts))
            check_room(journal.folder, size, f"the rows of {sum(map(len, parts))} questions")
        watch = _Watch(sum(map(len, parts)))
        for b, batch in enumerate(parts):
            left = [unit for unit in work.units if f"{b}/{unit}" not in held]
            passes.update(len(work.units) - len(left))
            for unit, rows, counts in _asked(work, batch, left, keeping.on_error):
                content = {"rows": rows, "touched": counts}
                held[f"{b}/{unit}"] = content if journal is None else journal.add(f"{b}/{unit}", content)
            watch.look(rows for unit in work.units for rows in held[f"{b}/{unit}"]["rows"])
        return _together(work, len(parts), held)


def _journal(keeping: Keeping, settings: Mapping[str, Any]) -> AbstractContextManager[Journal | None]:
    if keeping.journal is None:
        return nullcontext()
    return Journal(keeping.journal, {**settings, "on_error": keeping.on_error}, keeping.resume)


def _together(work: Work, n_parts: int, held: Mapping[str, Any]) -> Done:
    done = Done([], {})
    for b in range(n_parts):
        for unit in work.units:
            content = held[f"{b}/{unit}"]
            done.rows += content["rows"]
            if content["touched"] is not None:
                _add(done.touched.setdefault(work.condition(unit), {}), content["touched"])
    return done


def _asked(
    work: Work, batch: list[Question], units: list[str], on_error: str
) -> Iterator[tuple[str, list[Row], Counts | None]]:
    """What each unit gives for a batch; where that fails, each question is asked by itself."""
    if on_error == "raise":
        bad = next((q for q in batch if q.trouble), None)
        if bad is not None:
            raise InputError(bad.trouble)
        for unit, rows, touched in work.ask(batch, units) if units else ():
            yield unit, rows, _counts(touched, len(batch))
        return
    asked = [question for question in batch if not question.trouble]
    lost = {unit: _lost(work, batch, unit) for unit in units}
    left = list(units)
    try:
        for unit, rows, touched in work.ask(asked, units) if asked and units else ():
            yield unit, _ok(rows) + lost[unit], _counts(touched, len(asked))
            left.remove(unit)
        if asked:
            return
    except Exception as error:
        _raise_unless_own(error)
    found: dict[str, tuple[list[Row], Counts]] = {unit: ([], {}) for unit in left}
    for question in asked:
        _alone(work, question, left, found)
    for unit, (rows, counts) in found.items():
        yield unit, rows + lost[unit], counts or None


def _alone(work: Work, question: Question, units: list[str], found: dict[str, tuple[list[Row], Counts]]) -> None:
    """Ask one question by itself; the units that it does not come to hold its error in place of an answer."""
    left = list(units)
    try:
        for unit, rows, touched in work.ask([question], units):
            found[unit][0].extend(_ok(rows))
            _add(found[unit][1], _counts(touched, 1) or {})
            left.remove(unit)
    except Exception as error:
        _raise_unless_own(error)
        status = NO_MEMORY if _is_memory(error) else FAILED if _can_be_seen(question) else BAD_PICTURE
        told = f"{type(error).__name__}: {' '.join(str(error).split())}"[:500]
        log.warning("question %r: %s", question.id, told)
        for unit in left:
            found[unit][0].extend({**row, "status": status, "error": told} for row in work.without(question, unit))


def _can_be_seen(question: Question) -> bool:
    """Whether the pictures can be read, of a question whose pictures stay files until they are looked at."""
    try:
        list(question.images)
    except InputError:
        return False
    return True


def _ok(rows: list[Row]) -> list[Row]:
    return [{**row, "status": OK, "error": ""} for row in rows]


def _lost(work: Work, batch: list[Question], unit: str) -> list[Row]:
    return [
        {**row, "status": BAD_PICTURE, "error": question.trouble}
        for question in batch
        if question.trouble
        for row in work.without(question, unit)
    ]


def _raise_unless_own(error: Exception) -> None:
    """Raise an error that is not a question's own: the next question would meet it too."""
    if isinstance(error, NoRoom | ChangedModel | ConnectionLost):
        raise error


def _is_memory(error: Exception) -> bool:
    told = str(error).lower()
    return isinstance(error, MemoryError) or "out of memory" in told or "can't allocate memory" in told


class _Watch:
    """Ends a run in which nothing succeeds: then it is not the questions that are at fault."""

    def __init__(self, n: int) -> None:
        self._enough = min(n, _ENOUGH)
        self._failed: dict[Any, str] = {}
        self._fine = False

    def look(self, rows: Iterator[Row]) -> None:
        """Raises:
        InputError: every question so far has failed, and there were enough of them.
        """
        for row in rows:
            if row.get("status", OK) == OK:
                self._fine = True
            else:
                self._failed.setdefault(row["id"], row["error"])
        if not self._fine and len(self._failed) >= self._enough:
            raise InputError(f"all of the first {len(self._failed)} questions failed, this one first: "
                             f"{next(iter(self._failed.values()))}")  # fmt: skip


def _counts(touched: Touched | None, n_items: int) -> Counts | None:
    if touched is None:
        return None
    by_item = touched.by_item(n_items)
    return {
        label: {
            "cells": cells,
            "questions": sum(n > 0 for n in by_item[label]) if label in by_item else n_items * bool(cells),
        }
        for label, cells in touched.cells.items()
    }


def _add(so_far: Counts, counts: Counts) -> None:
    for label, n in counts.items():
        own = so_far.setdefault(label, {"cells": 0, "questions": 0})
        for name in own:
            own[name] += n[name]


def settings_of(model: LVLM, questions: Sequence[Question], batch_size: int, provenance: Mapping[str, Any]) -> Row:
    """What the rows of a run depend on, for its journal: a digest of the weights and of the questions, and the rest."""
    config = json.dumps(model.hf.config.to_dict(), sort_keys=True, default=str)
    return {
        **provenance,
        "weights": digest_of(model.hf),
        "config": hashlib.sha256(config.encode()).hexdigest()[:32],
        "questions": {"n": len(questions), "first": questions[0].id, "digest": _digest(questions)},
        "batch_size": batch_size,
    }


def _digest(questions: Sequence[Question]) -> str:
    found = hashlib.sha256()
    for question in questions:
        fields = [getattr(question, name) for name in _FIELDS]
        found.update(json.dumps(fields).encode())
        if isinstance(question.images, StoredPictures):
            for content in question.images.files:
                found.update(content)
            continue
        for picture in question.images:
            found.update(f"{picture.mode}{picture.size}".encode())
            found.update(picture.tobytes())
    return found.hexdigest()[:32]
