"""The scores of a whole set of questions: shares, F1, sets that must be right together; each beside chance."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from math import prod
from typing import TYPE_CHECKING, Any, NamedTuple

from lostattn.errors import InputError

if TYPE_CHECKING:
    import pandas

SET_NAMES = {"figure": "fAcc", "question": "qAcc"}
"""What the sets of HallusionBench are called in public tables; others go by their own names."""
COLUMNS = ("score", "part", "value", "n", "chance", "unread")


class Judged(NamedTuple):
    """A question, and what its answer earned."""

    question: Any
    read: str | None
    credit: float
    chance: float


def set_table(judged: Sequence[Judged], by: Sequence[str] = ()) -> pandas.DataFrame:
    """Every score of a set of answers.

    Args:
        judged: one for each question.
        by: facts of the questions to break accuracy down by, beside ``kind`` and ``area``; where a fact is a list, the
            question counts for each of its members.

    Returns:
        One row a score and part of the set (``"all"``, and by kind and fact): ``score, part, value, n, chance,
        unread``; n counts questions, or the sets that must be right together; chance is what guessing gives on average.

    Raises:
        InputError: nothing to score, or a set of which questions are missing: it would be scored as another.
    """
    import pandas as pd

    if not judged:
        raise InputError("there is nothing to score; give at least one question with its answer.")
    rows = [_accuracy("accuracy", "all", judged)]
    kinds = _parts(judged, lambda question: question.kind)
    areas = _by_fact(judged, "area")
    for parts in (kinds, areas, *(_by_fact(judged, key) for key in by)):
        rows += [_accuracy("accuracy", part, own) for part, own in parts.items()]
    for part, own in {"all": list(judged), **areas}.items():
        rows.append(_mean("accuracy, mean of kinds", part, _parts(own, lambda question: question.kind)))
    rows += _together(judged, kinds)
    if all(sorted(choice.lower() for choice in one.question.choices) == ["no", "yes"] for one in judged):
        rows += _yes_no(judged, kinds)
    return pd.DataFrame(rows, columns=list(COLUMNS))


def _facts(question: Any) -> Mapping[str, Any]:
    found: Mapping[str, Any] = getattr(question, "facts", None) or {}
    return found


def _sizes(question: Any) -> Mapping[str, Any]:
    """How many questions each of a question's sets has, where its source says so."""
    found = _facts(question).get("set_sizes") or {}
    if not isinstance(found, Mapping):
        raise InputError(
            f"the fact set_sizes of question {question.id!r} is {found!r}; expected a dict of how many questions each "
            "of its sets has, {'pair': 2}."
        )
    return found


def _parts(judged: Iterable[Judged], told: Callable[[Any], Any]) -> dict[str, list[Judged]]:
    """The questions by what is told of each; by every member where that is a list, by nothing where it is None."""
    parts: dict[str, list[Judged]] = {}
    for one in judged:
        value = told(one.question)
        for member in value if isinstance(value, list | tuple) else [value]:
            if member is not None:
                parts.setdefault(str(member), []).append(one)
    return parts


def _by_fact(judged: Iterable[Judged], key: str) -> dict[str, list[Judged]]:
    return _parts(judged, lambda question: _facts(question).get(key))


def _accuracy(score: str, part: str, own: Sequence[Judged]) -> tuple[Any, ...]:
    n = len(own)
    unread = sum(one.read is None for one in own) / n
    return score, part, sum(one.credit for one in own) / n, n, sum(one.chance for one in own) / n, unread


def _mean(score: str, part: str, parts: Mapping[str, Sequence[Judged]]) -> tuple[Any, ...]:
    """The mean over parts that count alike, however many questions each has."""
    told = [_accuracy(score, part, own) for own in parts.values()]
    value, chance, unread = (sum(row[i] for row in told) / len(told) for i in (2, 4, 5))
    return score, part, value, len(told), chance, unread


# Sets that must be right together ---------------------------------------------------------------------


def _together(judged: Sequence[Judged], kinds: Mapping[str, Sequence[Judged]]) -> list[tuple[Any, ...]]:
    names = dict.fromkeys(name for one in judged for name in getattr(one.question, "together", None) or {})
    rows = [
        _all_right(name, part, own)
        for name in names
        for part, own in {"all": judged, **kinds}.items()
        if any(name in one.question.together for one in own)
    ]
    if set(SET_NAMES) <= set(names):
        whole = [_accuracy("aAcc", "all", judged), *(row for row in rows if row[1] == "all")]
        mean = [sum(row[i] for row in whole) / len(whole) for i in (2, 4, 5)]
        rows = [whole[0], *rows, ("mean of aAcc, fAcc and qAcc", "all", mean[0], len(judged), *mean[1:])]
    return rows


def _all_right(name: str, part: str, own: Sequence[Judged]) -> tuple[Any, ...]:
    """The share of sets in which all is right; chance is that of guessing each of their questions."""
    sets: dict[str, list[Judged]] = {}
    for one in own:
        if name in one.question.together:
            sets.setdefault(one.question.together[name], []).append(one)
    for key, members in sets.items():
        size = _sizes(members[0].question).get(name, len(members))
        if size != len(members):
            raise InputError(
                f"the {name} set {key!r} has {size} questions and {len(members)} of them are here; score whole sets "
                "(la.data.load(…, n=) draws whole ones)."
            )
    value = sum(prod(one.credit for one in members) for members in sets.values()) / len(sets)
    chance = sum(prod(one.chance for one in members) for members in sets.values()) / len(sets)
    unread = sum(any(one.read is None for one in members) for members in sets.values()) / len(sets)
    return SET_NAMES.get(name, name), part, value, len(sets), chance, unread


# Yes and no -------------------------------------------------------------------------------------------


def _yes_no(judged: Sequence[Judged], kinds: Mapping[str, Sequence[Judged]]) -> Iterator[tuple[Any, ...]]:
    """F1 of yes in the ways in which it is quoted, and the share of yes among the answers."""
    unread = sum(one.read is None for one in judged) / len(judged)
    for name, score in (("precision", 0), ("recall", 1), ("F1, pooled", 2)):
        yield name, "all", _f1(judged)[score], len(judged), _f1_by_chance(judged)[score], unread
    read = [one for one in judged if one.read is not None]
    yield "F1, pooled over what was read", "all", _f1(read)[2], len(read), _f1_by_chance(read)[2], 0.0
    for part, own in kinds.items():
        share = sum(one.read is None for one in own) / len(own)
        yield "F1", part, _f1(own)[2], len(own), _f1_by_chance(own)[2], share
    value, chance = (sum(f1(own)[2] for own in kinds.values()) / len(kinds) for f1 in (_f1, _f1_by_chance))
    yield "F1, mean of kinds", "all", value, len(kinds), chance, unread
    for part, own in {"all": judged, **kinds}.items():
        said = sum(_is_yes(one.read) for one in own) / len(own)
        yield "yes ratio", part, said, len(own), 0.5, sum(one.read is None for one in own) / len(own)


def _is_yes(answer: str | None) -> bool:
    return answer is not None and answer.lower() == "yes"


def _f1(own: Sequence[Judged]) -> tuple[float, float, float]:
    """Precision, recall and F1 of yes; what is not read is no yes."""
    said = sum(_is_yes(one.read) for one in own)
    true = sum(_is_yes(one.question.answer) for one in own)
    both = sum(_is_yes(one.read) and _is_yes(one.question.answer) for one in own)
    return both / said if said else 0.0, both / true if true else 0.0, 2 * both / (said + true) if said + true else 0.0


def _f1_by_chance(own: Sequence[Judged]) -> tuple[float, float, float]:
    """Those of saying yes to every second question whatever it is."""
    true = sum(_is_yes(one.question.answer) for one in own) / len(own) if own else 0.0
    return true, 0.5, true / (true + 0.5)
