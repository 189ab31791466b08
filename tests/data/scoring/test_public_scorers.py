"""Each public protocol against answers and verdicts of the public scorer itself, taken by running it."""

from __future__ import annotations

import ast
import json
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from lostattn.data import scoring
from lostattn.data.scoring.mmmu_open import open_candidates

TAKEN = json.loads((Path(__file__).parents[1] / "public_scorers.json").read_text(encoding="utf-8"))
YES_NO = SimpleNamespace(text="Is there a dog in the image?", choices=("yes", "no"), answer="yes")
OPTIONS = TAKEN["multiple_choice"]["options"]
LETTERED = SimpleNamespace(
    text="Which?\nOptions:\n" + "\n".join(f"{letter}. {text}" for letter, text in OPTIONS.items()),
    choices=tuple(OPTIONS),
    answer="B",
)
LETTER_COLUMNS = (
    "mmmu-official",
    "mmmu-lmms",
    "vmcbench-lmms",
    "realworldqa-lmms",
    "3dsrbench-lmms",
    "vlmevalkit-choice",
)


def rows(name: str) -> list[list[Any]]:
    return TAKEN[name]["rows"]


@pytest.mark.parametrize("row", rows("pope"), ids=lambda row: repr(row[0]))
def test_yes_and_no(row: list[str]) -> None:
    said, official, lmms, vlmevalkit = row
    assert scoring.read("pope-official", said, YES_NO)[0] == official
    bare = ast.literal_eval(lmms)
    assert scoring.read("pope-lmms", said, YES_NO)[0] == (bare if bare in ("yes", "no") else None)
    for protocol in ("pope-vlmevalkit", "hallusion-vlmevalkit"):
        assert scoring.read(protocol, said, YES_NO)[0] == {"Yes": "yes", "No": "no", "Unknown": None}[vlmevalkit]


@pytest.mark.parametrize("row", rows("multiple_choice"), ids=lambda row: repr(row[0]))
def test_letters(row: list[Any]) -> None:
    said, *verdicts = row
    for protocol, verdict in zip(LETTER_COLUMNS, verdicts, strict=True):
        answer, rule = scoring.read(protocol, said, LETTERED)
        assert answer == (verdict if verdict in OPTIONS else None), (protocol, rule)
        assert (rule == scoring.GUESS) == (verdict == "RANDOM"), protocol


@pytest.mark.parametrize("row", rows("mmmu_open_parse_official"), ids=lambda row: repr(row[0]))
def test_what_an_open_answer_offers(row: list[str]) -> None:
    said, offered = row
    assert set(open_candidates(said)) == set(ast.literal_eval(offered))


@pytest.mark.parametrize("protocol", ["mmmu-official", "mmmu-lmms"])
@pytest.mark.parametrize("row", rows("mmmu_open_eval_official"), ids=lambda row: f"{row[0]}<-{row[1]}")
def test_open_answers(row: list[Any], protocol: str) -> None:
    gold, said, correct = row
    question = SimpleNamespace(text="?", choices=(), answer=gold, question_type="open")
    assert scoring.right(protocol, said, question) is correct
    assert not scoring.right("mmmu-lmms-0.7.3", said, question)


@pytest.mark.parametrize("row", rows("realworldqa_lmms"), ids=lambda row: f"{row[0]}<-{row[1]}")
def test_realworldqa(row: list[Any]) -> None:
    gold, said, score = row
    choices = tuple("ABCD") if gold in "ABCD" else ()
    for question in (
        SimpleNamespace(text="?", choices=choices, answer=gold),
        SimpleNamespace(text="?", choices=(), answer=gold),  # what is right tells that letters are asked for
    ):
        assert scoring.credit("realworldqa-lmms", said, question) == score


@pytest.mark.parametrize("row", rows("mathvista_normalise_official"), ids=lambda row: repr(row[:4]))
def test_mathvista(row: list[Any]) -> None:
    question_type, answer_type, precision, said, free, guarded = row
    choices = tuple(TAKEN["mathvista_normalise_official"]["choices"]) if question_type == "multi_choice" else ()
    facts = {"question_type": question_type, "answer_type": answer_type, "precision": precision}
    question = SimpleNamespace(text="?", choices=choices, answer="7", facts=facts)
    free = ast.literal_eval(free)
    assert scoring.read("mathvista-official-unguarded", said, question)[0] == free
    assert scoring.read("mathvista-official", said, question)[0] == (ast.literal_eval(guarded) if guarded else free)
    lettered = SimpleNamespace(
        text="?", choices=tuple("ABCD")[: len(choices)], options=choices, answer="A", facts=facts
    )
    if choices:
        assert scoring.read("mathvista-official-unguarded", said, lettered)[0] == "ABCD"[choices.index(free)]


def test_what_a_guess_is_worth() -> None:
    assert scoring.read("mmmu-official", "blue", LETTERED) == (None, scoring.GUESS)
    assert scoring.credit("mmmu-official", "blue", LETTERED) == 0.0
    assert scoring.credit("mmmu-official", "blue", LETTERED, guesses=True) == 1 / 4
    assert scoring.credit("mmmu-official", "(B)", LETTERED, guesses=True) == 1.0
    assert scoring.credit("vlmevalkit-choice", "None of these", LETTERED, guesses=True) == 0.0, "it does not guess"
    two = SimpleNamespace(text="?", choices=tuple("ABC"), options=("x", "y", "x"), answer="A", answers=("A", "C"))
    assert scoring.credit("vmcbench-lmms", "", two, guesses=True) == 2 / 3
