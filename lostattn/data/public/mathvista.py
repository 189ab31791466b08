"""MathVista: figures, diagrams and word problems with options, whole numbers, decimals and lists for answers."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

from lostattn.data.public.benchmark import Benchmark, Item, Split, text_of, words_of
from lostattn.data.public.tables import Row
from lostattn.data.scoring.asked_for import letters_of, listed
from lostattn.errors import InputError

_TOLD = ("task", "category", "context", "grade", "language", "skills", "source")


def _items(row: Row, split: str) -> Sequence[Item]:
    id, answer = text_of(row, "pid", "id", "index"), words_of(row, "answer")
    metadata = row.get("metadata")
    told: dict[str, Any] = {**row, **(metadata if isinstance(metadata, dict) else {})}
    answer_type, question_type = text_of(row, "answer_type"), text_of(row, "question_type")
    if not answer:
        raise InputError(f"question {id!r} has no right answer; the answers of MathVista's test split are held back.")
    choices = _choices(row)
    precision = text_of(row, "precision")
    facts: dict[str, Any] = {name: told[name] for name in _TOLD if told.get(name)}
    facts |= {"question_type": question_type, "answer_type": answer_type, "unit": text_of(row, "unit")}
    if precision:
        facts["precision"] = _number(precision, id)
    question = words_of(row, "query", "question")
    fields: dict[str, Any] = {"id": id, "text": question, "kind": str(told.get("task") or question_type), "row": id}
    if question_type == "multi_choice" or choices:
        fields |= _of_choices(answer, choices, question, id)
    else:
        fields |= {"answer": answer, "choices": ()}
    label = "choice" if choices else answer_type
    pictures = ("decoded_image",) if "decoded_image" in row or "image" not in row else ("image",)
    return [Item({**fields, "facts": facts}, pictures, (label,))]


def _of_choices(answer: str, choices: tuple[str, ...], question: str, id: str) -> dict[str, Any]:
    """Letters for choices, so that of several options of one text each is right."""
    letters = letters_of(len(choices), f"question {id!r}")
    right = tuple(letter for letter, text in zip(letters, choices, strict=True) if text == answer)
    if not right:
        raise InputError(
            f"question {id!r} has the right answer {answer!r}; expected one of {', '.join(choices) or 'no choices'}."
        )
    lines = "\n".join(f"({letter}) {text}" for letter, text in zip(letters, choices, strict=True))
    text = question if f"({letters[0]}) {choices[0]}" in question else f"{question}\nChoices:\n{lines}"
    answers = right if len(right) > 1 else ()
    return {"text": text, "answer": right[0], "answers": answers, "choices": letters, "options": choices}


def _number(precision: str, id: str) -> float:
    try:
        number = float(precision)
    except ValueError:
        number = math.nan
    if not math.isfinite(number):
        raise InputError(
            f"question {id!r} has the precision {precision[:60]!r}; expected how many decimals count, such as 2."
        )
    return number


def _choices(row: Row) -> tuple[str, ...]:
    told = row.get("choices")
    return tuple(map(str, told)) if isinstance(told, list | tuple) else listed(str(told or ""))


MATHVISTA = Benchmark(
    name="mathvista",
    sources=("AI4Math/MathVista",),
    splits={
        "testmini": Split(
            1000,
            {"choice": 540, "integer": 418, "float": 40, "list": 2},
            ("data/testmini-*.parquet",),
            ("testmini", "mini"),
        )
    },
    needs=(("pid", "id", "index"), ("question",), ("answer",), ("question_type",), ("answer_type",), ("choices",)),
    belongs=lambda row: text_of(row, "question_type") in ("multi_choice", "free_form"),
    items=_items,
    protocols=("mathvista-official", "vlmevalkit-choice"),
    licence="CC BY-SA 4.0, not for training",
)
