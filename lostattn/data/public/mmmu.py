"""MMMU: questions of college subjects with up to seven pictures, up to nine options, and some open ones."""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import Any

from lostattn.data.public.benchmark import (
    LETTERS,
    Benchmark,
    Item,
    Split,
    lettered,
    one_of,
    options_in,
    text_of,
    words_of,
)
from lostattn.data.public.tables import Row
from lostattn.data.scoring.asked_for import letters_of, listed
from lostattn.errors import InputError

_IMAGE = re.compile(r"<image (\d)>")
_ID = re.compile(r"(?P<split>dev|validation|test)_(?P<subject>\w+?)_(?P<number>\d+)")
OPEN_REQUEST = "Answer with a single word, number or phrase."
AREAS = {
    "Art and Design": ("Art", "Art_Theory", "Design", "Music"),
    "Business": ("Accounting", "Economics", "Finance", "Manage", "Marketing"),
    "Science": ("Biology", "Chemistry", "Geography", "Math", "Physics"),
    "Health and Medicine": (
        "Basic_Medical_Science",
        "Clinical_Medicine",
        "Diagnostics_and_Laboratory_Medicine",
        "Pharmacy",
        "Public_Health",
    ),
    "Humanities and Social Science": ("History", "Literature", "Sociology", "Psychology"),
    "Tech and Engineering": (
        "Agriculture",
        "Architecture_and_Engineering",
        "Computer_Science",
        "Electronics",
        "Energy_and_Power",
        "Materials",
        "Mechanical_Engineering",
    ),
}


def _items(row: Row, split: str) -> Sequence[Item]:
    id = text_of(row, "id", "index")
    match = _ID.fullmatch(id)
    stated = text_of(row, "split") or (match["split"] if match else split)
    if stated != split:
        return []
    subject = match["subject"] if match else text_of(row, "category", "subfield") or "MMMU"
    options = _options(row, id)
    question, answer = words_of(row, "question"), words_of(row, "answer")
    if not answer or answer == "?":
        raise InputError(f"question {id!r} has no right answer; the answers of MMMU's test split are held back.")
    stated_type = text_of(row, "question_type")
    is_open = stated_type == "open" or not options
    text = f"{question}\n{OPEN_REQUEST}" if is_open else lettered(question, options)
    facts: dict[str, Any] = {
        "area": next((area for area, subjects in AREAS.items() if subject in subjects), subject),
        "question_type": "open" if is_open else "multiple-choice",
        "subfield": text_of(row, "subfield"),
        "topic_difficulty": text_of(row, "topic_difficulty"),
    }
    fields: dict[str, Any] = {"id": id, "text": text, "kind": subject, "row": id}
    if is_open:
        answers = listed(answer) or (answer,)
        fields |= {"answer": answers[0], "choices": (), "answers": answers if len(answers) > 1 else ()}
    else:
        letter = one_of(answer, tuple(options), f"question {id!r}")
        fields |= {"answer": letter, "choices": tuple(options), "options": tuple(options.values())}
    columns, order = _pictures(row, text)
    facts["image_order"] = order
    letter_too = (answer,) if answer in tuple(LETTERS) else ()  # some open answers are letters: of a part of a figure
    return [Item({**fields, "facts": facts}, columns, (facts["question_type"], *letter_too))]


def _options(row: Row, id: str) -> dict[str, str]:
    told = row.get("options")
    if told is None:
        return options_in(row, LETTERS[:9])
    found = tuple(map(str, told)) if isinstance(told, list) else listed(str(told))
    if not found and str(told).strip() not in ("[]", "", "nan"):
        raise InputError(f"question {id!r} has the options {str(told)[:60]!r}; expected a list as Python writes it.")
    return dict(zip(letters_of(len(found), f"question {id!r}"), found, strict=True))


def _pictures(row: Row, text: str) -> tuple[tuple[str, ...], list[int]]:
    """The columns of the pictures that a text names, each once, as it names them first; and their numbers as named."""
    order = [int(number) for number in _IMAGE.findall(text)]
    if "image_1" not in row and "image" in row:
        return ("image",), order
    return tuple(f"image_{number}" for number in dict.fromkeys(order)), order


def _is_one(row: Row) -> bool:
    return bool(_ID.fullmatch(text_of(row, "id"))) or ("options" in row and "question_type" in row)


MMMU = Benchmark(
    name="mmmu",
    sources=("MMMU/MMMU", "lmms-lab/MMMU", "lmms-lab-encoder/MMMU"),
    splits={
        "validation": Split(
            900,
            {"multiple-choice": 847, "open": 53, "A": 244, "B": 231, "C": 199, "D": 149, "E": 25, "F": 2, "I": 1},
            ("*validation-*.parquet",),
            ("validation", "val"),
        ),
        "dev": Split(150, files=("*dev-*.parquet",), words=("dev",)),
    },
    needs=(("id",), ("question",), ("answer",), ("options", "A"), ("image_1", "image")),
    belongs=_is_one,
    items=_items,
    protocols=("mmmu-official", "mmmu-lmms", "vlmevalkit-choice"),
    licence="Apache-2.0",
)
