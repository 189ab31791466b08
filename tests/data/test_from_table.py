"""Questions out of tables of one's own."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pandas as pd
import pytest
from benchmark_files import PICTURE, TEXT, parquet, png, text_cell

from lostattn import data
from lostattn.data import Questions
from lostattn.errors import InputError
from lostattn.pictures.loading import load_picture

ROWS: list[dict[str, Any]] = [
    {"asked": "Red?", "photo": "a.png", "gold": "yes", "choices": "yes|no", "room": "kitchen"},
    {"asked": "How much?", "photo": "b.png", "gold": "8.5", "choices": "", "room": "hall"},
    {"asked": "Which?\nA. x\nB. y", "photo": "a.png", "gold": "B", "choices": "['A', 'B']", "room": "hall"},
]
COLUMNS = {"text": "asked", "images": "photo", "answer": "gold"}


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    (tmp_path / "a.png").write_bytes(png(1))
    (tmp_path / "b.png").write_bytes(png(2))
    return tmp_path


def told(questions: Questions) -> list[tuple[Any, ...]]:
    return [(q.text, q.answer, q.choices, q.images[0].size, q.facts) for q in questions]


def test_every_kind_of_table_is_the_same(folder: Path) -> None:
    frame = pd.DataFrame(ROWS)
    frame.to_csv(folder / "t.csv", index=False)
    frame.to_csv(folder / "t.tsv", index=False, sep="\t")
    frame.to_parquet(folder / "t.parquet")
    (folder / "t.jsonl").write_text("\n".join(map(json.dumps, ROWS)))
    whole = data.from_table(frame, COLUMNS, folder=folder)
    assert [q.choices for q in whole] == [("yes", "no"), (), ("A", "B")]
    assert whole[0].facts == {"room": "kitchen"} and whole[0].kind == "question"
    assert whole[0].cluster == whole[2].cluster != whole[1].cluster, "questions that share a picture are one cluster"
    assert whole[1].images[0] == load_picture(png(2))
    for ending in ("csv", "tsv", "parquet", "jsonl"):
        found = data.from_table(folder / f"t.{ending}", COLUMNS)
        assert told(found) == told(whole), ending
        assert found.name == "t" and [q.id for q in found] == ["00000", "00001", "00002"]
    assert data.load(whole.save(folder / "saved")) == whole


def test_lists_bytes_and_base64(tmp_path: Path) -> None:
    rows = [
        {"question": "Same?", "images": [png(1), png(2)], "answer": "A", "choices": ["A", "B", "C"],
         "answers": ["A", "C"], "options": ["x", "y", "x"], "category": "k", "id": 7},
        {"question": "None?", "images": None, "answer": "A", "choices": ["A", "B"], "id": 8},
    ]  # fmt: skip
    first, second = data.from_table(pd.DataFrame(rows))
    assert first.answers == ("A", "C") and first.options == ("x", "y", "x") and len(first.images) == 2
    assert (first.id, first.kind, second.kind) == ("7", "k", "question") and len(second.images) == 0
    coded = data.from_table(pd.DataFrame([{"text": "?", "image": text_cell(3), "answer": "x"}]))
    assert coded[0].images[0] == load_picture(png(3)) and coded[0].choices == ()
    path = parquet(
        tmp_path / "t.parquet",
        [{"text": "?", "image": {"bytes": png(4), "path": None}, "answer": "x"}],
        {"text": TEXT, "image": PICTURE, "answer": TEXT},
    )
    assert data.from_table(path)[0].images[0] == load_picture(png(4))


@pytest.mark.parametrize(
    ("rows", "columns", "said"),
    [
        (ROWS, {"text": "askd"}, "has no column 'askd'; it has asked.*Did you mean 'asked'"),
        (ROWS, {"txt": "asked"}, "columns names the field 'txt'; a question has id, text.*Did you mean 'text'"),
        (ROWS, {"text": "asked"}, "has no column 'answer'; its columns are .*columns={'answer': …}"),
        ([{**ROWS[0], "gold": ""}], COLUMNS, "row 0 has nothing in the column 'gold'"),
        ([{**ROWS[0], "gold": None}], COLUMNS, "row 0 has nothing in the column 'gold'"),
        ([{**ROWS[0], "gold": "maybe"}], COLUMNS, "'maybe' is none of the choices"),
        ([{**ROWS[0], "photo": "c.png"}], COLUMNS, "its picture in row or file 'c.png', and there is neither"),
        ([{**ROWS[0], "photo": "../a.png"}], COLUMNS, "leads out of the folder"),
        ([{**ROWS[0], "choices": 3.5}], COLUMNS, "a cell of choices, answers or options holds 3.5"),
    ],
)
def test_what_cannot_be_a_question(folder: Path, rows: list[Any], columns: dict[str, str], said: str) -> None:
    with pytest.raises(InputError, match=said):
        data.from_table(pd.DataFrame(rows), columns, folder=folder)
