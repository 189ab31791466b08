"""What the experiments share: batches of questions, and where a result comes from."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

from lostattn.data.question import Question
from lostattn.errors import InputError
from lostattn.experiments.results import environment
from lostattn.model.lvlm import LVLM
from lostattn.run.batches import EMPTY


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
