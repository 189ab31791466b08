"""Scores of whole sets against counting by hand, with constant answerers and an oracle."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import pandas as pd
import pytest

from lostattn.data import scoring
from lostattn.errors import InputError


def asked(id: str, answer: str, kind: str, choices: tuple[str, ...] = ("yes", "no"), **more: Any) -> SimpleNamespace:
    return SimpleNamespace(id=id, text="?", answer=answer, kind=kind, choices=choices, **{"together": {}, **more})


def value(table: pd.DataFrame, score: str, part: str = "all", column: str = "value") -> float:
    (found,) = table.loc[(table["score"] == score) & (table["part"] == part), column]
    return float(found)


POPE = [
    asked(f"{kind}{i}", "yes" if i % 2 else "no", kind)
    for kind in ("random", "popular", "adversarial")
    for i in range(4)
]


@pytest.mark.parametrize("protocol", ["strict", "pope-official", "pope-lmms", "pope-vlmevalkit"])
def test_always_yes_on_as_many_yes_as_no(protocol: str) -> None:
    table = scoring.scores(POPE, ["yes"] * 12, protocol)
    assert value(table, "accuracy") == value(table, "accuracy", "popular") == 0.5
    for score in ("F1, pooled", "F1, mean of kinds", "F1, pooled over what was read"):
        assert value(table, score) == pytest.approx(2 / 3, rel=1e-15)
    assert value(table, "yes ratio") == 1.0
    assert value(table, "accuracy", column="chance") == value(table, "F1, pooled", column="chance") == 0.5


def test_always_no_and_nothing_at_all() -> None:
    no = scoring.scores(POPE, {q.id: "no" for q in POPE})
    assert value(no, "accuracy") == 0.5 and value(no, "F1, pooled") == value(no, "yes ratio") == 0.0
    nothing = scoring.scores(POPE, [""] * 12)
    assert value(nothing, "accuracy") == 0.0 and value(nothing, "accuracy", column="unread") == 1.0
    assert value(nothing, "F1, pooled over what was read", column="n") == 0
    assert value(scoring.scores(POPE, [""] * 12, "pope-official"), "yes ratio") == 1.0, "an empty text is its yes"


def test_the_three_ways_to_quote_f1_differ() -> None:
    # random: all right; popular: always yes; adversarial: "Yes." to what is right, nothing that is read to the rest.
    said = [q.answer if q.kind == "random" else "yes" if q.kind == "popular" else "" for q in POPE]
    table = scoring.scores(POPE, said)
    assert value(table, "F1", "random") == 1.0
    assert value(table, "F1", "popular") == pytest.approx(2 / 3, rel=1e-15)
    assert value(table, "F1", "adversarial") == 0.0
    assert value(table, "F1, mean of kinds") == pytest.approx((1 + 2 / 3) / 3, rel=1e-15)
    assert value(table, "F1, pooled") == pytest.approx(2 * 4 / (6 + 6), rel=1e-15)  # 4 of 6 said, 6 true
    assert value(table, "F1, pooled over what was read") == pytest.approx(2 * 4 / (6 + 4), rel=1e-15)


def hallusion() -> list[SimpleNamespace]:
    """Two figures and one set without, three questions each; the figures share their questions."""
    told = []
    for figure in ("1", "2", None):
        for question in range(3):
            together = {"question": f"q{question}"} | ({} if figure is None else {"figure": f"f{figure}"})
            sizes = {"question": 3} | ({} if figure is None else {"figure": 3})
            answer = "yes" if question == 0 else "no"
            facts = {"set_sizes": sizes, "area": "VS"}
            told.append(asked(f"{figure}-{question}", answer, "chart", together=together, facts=facts))
    return told


def test_sets_that_must_be_right_together() -> None:
    questions = hallusion()
    table = scoring.scores(questions, ["no"] * 9, "hallusion-vlmevalkit")
    assert value(table, "aAcc") == value(table, "accuracy") == pytest.approx(6 / 9, rel=1e-15)
    assert value(table, "qAcc") == pytest.approx(2 / 3, rel=1e-15)
    assert value(table, "fAcc") == 0.0 and value(table, "fAcc", column="n") == 2, "what has no figure is in none"
    assert value(table, "mean of aAcc, fAcc and qAcc") == pytest.approx(4 / 9, rel=1e-15)
    assert value(table, "fAcc", column="chance") == value(table, "qAcc", column="chance") == 1 / 8
    assert value(table, "accuracy", "VS") == pytest.approx(6 / 9, rel=1e-15)
    oracle = scoring.scores(questions, [q.answer for q in questions], "hallusion-vlmevalkit")
    assert {value(oracle, score) for score in ("aAcc", "fAcc", "qAcc")} == {1.0}


def test_half_a_set_is_not_scored_as_a_whole_one() -> None:
    with pytest.raises(InputError, match=r"the question set 'q2' has 3 questions and 2 of them are here"):
        scoring.scores(hallusion()[:-1], ["no"] * 8)


def test_circular_and_flipped_rows() -> None:
    rows = [("B-0", "A", 2), ("B-1", "B", 2), ("B-flip-0", "B", 2), ("B-flip-1", "A", 2)]
    questions = [
        asked(
            id,
            answer,
            "height",
            ("A", "B"),
            options=("up", "down") if answer == "A" else ("down", "up"),
            together={"flip": id.replace("-flip", ""), "circular": id[:-2], "flip_circular": "B"},
        )
        for id, answer, _ in rows
    ]
    table = scoring.scores(questions, ["A", "B", "B", "B"], "3dsrbench-lmms")
    assert [value(table, name) for name in ("accuracy", "flip", "circular", "flip_circular")] == [0.75, 0.5, 0.5, 0.0]
    assert [value(table, name, column="chance") for name in ("flip", "flip_circular")] == [1 / 4, 1 / 16]


def test_kinds_that_count_alike() -> None:
    questions = [
        asked(str(i), "A", kind, ("A", "B"), facts={"area": "doc", "skills": ["x", "y"][: i + 1]})
        for i, kind in enumerate("aab")
    ]
    table = scoring.scores(questions, ["A", "B", "A"], by=["skills"])
    assert value(table, "accuracy", "doc") == pytest.approx(2 / 3, rel=1e-15)
    assert value(table, "accuracy, mean of kinds", "doc") == (1 / 2 + 1) / 2
    assert value(table, "accuracy", "y", "n") == 2 and value(table, "accuracy", "x", "n") == 3


def test_what_cannot_be_scored() -> None:
    with pytest.raises(InputError, match="nothing was said to question 'random1'"):
        scoring.scores(POPE, {"random0": "yes"})
    with pytest.raises(InputError, match="2 texts for 12 questions"):
        scoring.scores(POPE, ["yes", "no"])
    with pytest.raises(InputError, match="nothing to score"):
        scoring.scores([], [])
    for sizes in (3, [3], "figure"):
        with pytest.raises(InputError, match="the fact set_sizes of question 'x' is .*; expected a dict"):
            scoring.scores([asked("x", "no", "k", together={"figure": "f"}, facts={"set_sizes": sizes})], ["no"])


def test_guesses_are_worth_their_average() -> None:
    questions = [asked(str(i), "A", "k", ("A", "B", "C", "D"), options=("w", "x", "y", "z")) for i in range(3)]
    assert value(scoring.scores(questions, [""] * 3, "mmmu-official"), "accuracy") == 0.0
    assert value(scoring.scores(questions, [""] * 3, "mmmu-official", guesses=True), "accuracy") == 0.25
