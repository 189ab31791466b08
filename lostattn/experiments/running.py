"""What the experiments share: batches of questions, and where a result comes from."""

from __future__ import annotations

import logging
from collections.abc import Iterator, Sequence
from typing import Any

from lostattn.data.question import Question
from lostattn.errors import InputError
from lostattn.experiments.results import environment
from lostattn.model.lvlm import LVLM
from lostattn.plan.touch_record import Touched, said_nowhere
from lostattn.run.batches import EMPTY

log = logging.getLogger("lostattn")


def checked_questions(data: Sequence[Question], batch_size: int) -> list[Question]:
    """The questions as a list.

    Raises:
        InputError: there are none, or batches would be empty.
    """
    questions = list(data)
    if not questions:
        raise InputError(EMPTY)
    if batch_size < 1:
        raise InputError(f"batch_size is {batch_size}; expected at least 1.")
    return questions


def batches(questions: Sequence[Question], size: int) -> Iterator[list[Question]]:
    """The questions in batches of ``size``, those of like length together so that little is padded."""
    order = sorted(range(len(questions)), key=lambda i: (len(questions[i].images), len(questions[i].text)))
    for start in range(0, len(order), size):
        yield [questions[i] for i in order[start : start + size]]


class Acted:
    """Where the edits of an experiment's conditions acted, over all of its passes."""

    def __init__(self) -> None:
        self.found: dict[str, dict[str, dict[str, int]]] = {}

    def add(self, condition: str, touched: Touched | None, n_items: int) -> None:
        """Count one pass of a condition over some questions."""
        if touched is None:
            return
        own = self.found.setdefault(condition, {})
        by_item = touched.by_item(n_items)
        for label, cells in touched.cells.items():
            so_far = own.setdefault(label, {"cells": 0, "questions": 0})
            so_far["cells"] += cells
            acted_in = sum(n > 0 for n in by_item[label]) if label in by_item else n_items * bool(cells)
            so_far["questions"] += acted_in

    def meta(self) -> dict[str, Any]:
        """For a table's metadata: what each edit changed and in how many questions, and which acted nowhere.

        Those that acted nowhere are told in the log, too.
        """
        nowhere = {name: [part for part, n in own.items() if not n["cells"]] for name, own in self.found.items()}
        nowhere = {name: parts for name, parts in nowhere.items() if parts}
        for name, parts in nowhere.items():
            log.warning("%s: %s", name, said_nowhere(parts))
        return {"touched": self.found, "acted_nowhere": nowhere}


def provenance(model: LVLM, **settings: Any) -> dict[str, Any]:
    """What a table needs to be made again: model and revision, versions, and the experiment's own settings."""
    config = model.cfg
    return {
        "model": model.name,
        "revision": getattr(model.hf.config, "_commit_hash", None),
        "dtype": str(config.dtype).removeprefix("torch."),
        "attn_implementation": config.attn_implementation,
        "versions": environment(),
        **settings,
    }


def row_of(question: Question) -> dict[str, Any]:
    """The columns that say which question a row is about."""
    return {"id": question.id, "kind": question.kind, "scene": question.group}
