"""Answers read again: another protocol over what was said, without the model that said it."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from lostattn.arguments import checked_call
from lostattn.data.question import Question
from lostattn.data.scoring import read, right_answers, scores
from lostattn.errors import InputError
from lostattn.experiments.results import Results, without_failed

if TYPE_CHECKING:
    import pandas

_NEEDED = ("condition", "id", "said")


@checked_call
def rescore(results: Results, questions: Sequence[Question], protocol: str = "strict") -> Results:
    """What was said, read under another protocol.

    Args:
        results: of :func:`probe_questions`, which keeps the raw text of every answer.
        questions: those that were asked; more of them do no harm.
        protocol: one of ``lostattn.data.scoring.PROTOCOLS``.

    Returns:
        The same rows with ``read``, ``rule``, ``correct`` and ``unread`` under the protocol; ``.summary()`` compares
        the conditions.

    Raises:
        UnknownName: no such protocol.
        InputError: the table has no raw texts, or is of other questions.
    """
    import pandas as pd

    asked = _asked(results, questions)
    answered = without_failed(results.table)[0]
    rows = [
        (*read(protocol, said, asked[id]), right_answers(asked[id]))
        for said, id in zip(answered["said"], answered["id"], strict=True)
    ]
    table = answered.assign(
        read=pd.Series([answer for answer, _, _ in rows], answered.index, dtype="str"),
        rule=[rule for _, rule, _ in rows],
        correct=[answer in right for answer, _, right in rows],
        unread=[answer is None for answer, _, _ in rows],
    )
    if len(answered) < len(results.table):  # a question that failed was not answered, whatever the protocol
        lost = results.table.drop(index=answered.index)
        table = pd.concat([table.astype({"correct": object, "unread": object}), lost]).sort_index()
    return Results(table, {**results.meta, "scoring": protocol})


@checked_call
def score_table(
    results: Results, questions: Sequence[Question], protocol: str = "strict", guesses: bool = False
) -> pandas.DataFrame:
    """The scores of the whole set under each condition and seed: see :func:`lostattn.data.scoring.scores`.

    Returns:
        ``condition``, ``seed`` (where the table has it), then ``score, part, value, n, chance, unread``.

    Raises:
        UnknownName: no such protocol.
        InputError: as :func:`rescore`; half a set of questions that must be right together.
    """
    import pandas as pd

    asked = _asked(results, questions)
    by = [column for column in ("condition", "seed") if column in results.table.columns]
    parts = []
    for key, rows in without_failed(results.table)[0].groupby(by, sort=False):
        told: dict[str, Any] = dict(zip(by, key if isinstance(key, tuple) else (key,), strict=True))
        own = [asked[id] for id in rows["id"]]
        found = scores(own, list(rows["said"]), protocol, guesses)
        parts.append(found.assign(**told)[[*by, *found.columns]])
    return pd.concat(parts, ignore_index=True)


def _asked(results: Results, questions: Sequence[Question]) -> dict[str, Any]:
    """The questions by id.

    Raises:
        InputError: a column or a question is missing, an answer is, or the right answers are others.
    """
    table = results.table
    lacking = [column for column in _NEEDED if column not in table.columns]
    if lacking or not len(table):
        raise InputError(
            f"the results have {'no rows' if not lacking else 'no column ' + ', '.join(lacking)}; expected those of "
            "probe_questions, which keep what was said to each question."
        )
    asked = {question.id: question for question in questions}
    strange = [id for id in dict.fromkeys(table["id"]) if id not in asked]
    if strange:
        raise InputError(
            f"the results are of question {strange[0]!r} ({len(strange)} such), which is not among the {len(asked)} "
            "given; load the questions that were asked (the same set, split and files)."
        )
    if "answer" in table.columns:
        told = zip(table["id"], table["answer"], strict=True)
        other = [id for id, answer in told if answer != asked[id].answer]
        if other:
            raise InputError(
                f"question {other[0]!r} has another right answer in the results than in the questions given; load "
                "those that were asked."
            )
    return asked
