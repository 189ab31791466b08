"""Files that are not what they claim to be: each is refused, and the message says what is amiss."""

from __future__ import annotations

import base64
from pathlib import Path
from typing import Any

import pytest
from benchmark_files import (
    PARQUET,
    TSV,
    parquet,
    pope_rows,
    threedsr_tsv_rows,
    tsv,
    vmcbench_rows,
    write_parquet,
    write_tsv,
)

from lostattn import data
from lostattn.data.public import BENCHMARKS
from lostattn.errors import InputError, UnknownName


@pytest.mark.parametrize("asked", [name for name, _ in PARQUET])
@pytest.mark.parametrize(("name", "split"), PARQUET)
def test_a_file_of_another_set(asked: str, name: str, split: str, tmp_path: Path) -> None:
    if asked == name:
        return
    with pytest.raises(InputError, match=rf"the table is not of {asked}.*It looks like {name}"):
        data.load(asked, path=write_parquet(name, split, tmp_path), allow_rows=True)


@pytest.mark.parametrize("asked", [name for name, _ in PARQUET])
@pytest.mark.parametrize(("name", "split"), TSV)
def test_a_tsv_of_another_set(asked: str, name: str, split: str, tmp_path: Path) -> None:
    if asked != name:
        with pytest.raises(InputError, match=rf"the table is not of {asked}"):
            data.load(asked, path=write_tsv(name, split, tmp_path), allow_rows=True)


@pytest.mark.parametrize(("name", "split"), PARQUET)
def test_a_missing_column_is_named(name: str, split: str, tmp_path: Path) -> None:
    _, rows, columns = PARQUET[name, split]
    kept = {column: kind for column, kind in columns.items() if column != "question"}
    path = parquet(tmp_path / "short.parquet", [{k: v for k, v in row.items() if k in kept} for row in rows()], kept)
    with pytest.raises(InputError, match=rf"not of {name}: it lacks the column question; its columns are "):
        data.load(name, split=split, path=path, allow_rows=True)


@pytest.mark.parametrize(("name", "split"), PARQUET)
@pytest.mark.parametrize("answer", ["Q", "", "?"])
def test_an_answer_outside_its_options(name: str, split: str, answer: str, tmp_path: Path) -> None:
    _, rows, columns = PARQUET[name, split]
    changed = rows()
    changed[0]["gt_answer" if name == "hallusionbench" else "answer"] = answer
    path = parquet(tmp_path / "changed.parquet", changed, columns)
    if name == "realworldqa" and answer == "?":
        return  # a text like any other, where the options are in the question's words
    said = "no right answer" if answer == "" or name == "mmmu" and answer == "?" else "has the right answer"
    with pytest.raises(InputError, match=said):
        data.load(name, split=split, path=path, allow_rows=True)


@pytest.mark.parametrize(
    ("picture", "said"),
    [
        ("", "has no picture; its cell is empty"),
        ("nan", "has no picture"),
        ("999", "its picture in row or file '999', and there is neither"),
        ("1", "in row '1', which holds none but names row '1'"),
        ("../secret.png", "leads out of the folder"),
        ("!" * 200, "which is no base64"),
        ("a" * 300 + ".png", "which is no base64"),  # a name that no file can have
        (f"shown/{'b' * 300}.png", "which is no base64"),
        ("['0', '999']", "its picture in row or file '999'"),
    ],
)
def test_pictures_that_are_not_there(picture: str, said: str, tmp_path: Path) -> None:
    rows = threedsr_tsv_rows()
    rows[1]["image"] = picture
    with pytest.raises(InputError, match=rf"question 'AAAA1111-1', column 'image'.*{said}"):
        data.load("3dsrbench", path=tsv(tmp_path / "changed.tsv", rows), allow_rows=True)


@pytest.mark.parametrize(
    ("name", "split", "changed", "said"),
    [
        ("mathvista", "testmini", {"precision": "two"}, "question '1' has the precision 'two'; expected how many"),
        ("mathvista", "testmini", {"precision": "inf"}, "question '1' has the precision 'inf'"),
        ("mathvista", "testmini", {"choices": repr([str(i) for i in range(27)])}, "question '1' has 27 options, and"),
        (
            "mmmu",
            "validation",
            {"options": repr([str(i) for i in range(27)])},
            "'validation_Math_1' has 27 options, and",
        ),
    ],
)
def test_cells_that_no_question_can_have(name: str, split: str, changed: dict[str, str], said: str) -> None:
    row = {**PARQUET[name, split][1]()[0], **changed}
    with pytest.raises(InputError, match=said):
        BENCHMARKS[name].items(row, split)


def test_a_picture_that_is_damaged_is_told_when_it_is_looked_at(tmp_path: Path) -> None:
    rows = threedsr_tsv_rows()
    rows[0]["image"] = base64.b64encode(b"no picture" * 10).decode()
    questions = data.load("3dsrbench", path=tsv(tmp_path / "changed.tsv", rows), allow_rows=True)
    with pytest.raises(InputError, match="image 0 of question 'AAAA1111'"):
        questions[0].images[0]


def test_pictures_may_be_files_beside_the_table(tmp_path: Path) -> None:
    from benchmark_files import png

    (tmp_path / "shown").mkdir()
    (tmp_path / "shown" / "a.png").write_bytes(png(5))
    rows = threedsr_tsv_rows()
    rows[0]["image"] = "shown/a.png"
    questions = data.load("3dsrbench", path=tsv(tmp_path / "changed.tsv", rows), allow_rows=True)
    assert questions[0].images[0].size == (10, 6)


def test_a_row_that_comes_twice(tmp_path: Path) -> None:
    rows = vmcbench_rows()
    path = parquet(tmp_path / "twice.parquet", [*rows, rows[2]], PARQUET["vmcbench", "dev"][2])
    with pytest.raises(InputError, match="question '102' comes 2 times"):
        data.load("vmcbench", path=path, allow_rows=True)


def test_a_split_that_the_file_has_not(tmp_path: Path) -> None:
    path = parquet(tmp_path / "one.parquet", pope_rows(2, ("random",)), PARQUET["pope", "all"][2])
    with pytest.raises(InputError, match="the table has 12 rows and none of the split 'popular' of pope"):
        data.load("pope", split="popular", path=path)
    with pytest.raises(InputError, match="pope has no split 'poplar'; it has adversarial.*'popular'"):
        data.load("pope", split="poplar", path=path)


@pytest.mark.parametrize(
    ("content", "ending", "said"),
    [
        (b"no table", ".parquet", "is no parquet file, or not a whole one"),
        (b"", ".tsv", "is no table of text"),
        (b"question,answer\n", ".csv", "the table has no rows"),
        (b"[1, 2]", ".json", "expected a row of the table, a dict"),
        (b'{"a": 1', ".jsonl", "line 1"),
        (b"", ".xlsx", "ends with '.xlsx'; expected .parquet"),
    ],
)
def test_files_that_are_no_tables(content: bytes, ending: str, said: str, tmp_path: Path) -> None:
    path = tmp_path / f"table{ending}"
    path.write_bytes(content)
    with pytest.raises(InputError, match=said):
        data.load("pope", path=path)


def test_places_that_are_not_there(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="there is no file or folder"):
        data.load("pope", path=tmp_path / "none.parquet")
    with pytest.raises(InputError, match="holds no table; expected files that end with .parquet"):
        data.load("pope", path=tmp_path)
    with pytest.raises(InputError, match="path= is read from the disk; revision="):
        data.load("pope", path=tmp_path, revision="main")
    with pytest.raises(InputError, match="path=, source=, revision= and stream= say where a public benchmark lies"):
        data.load("shapes", path=tmp_path)
    with pytest.raises(UnknownName, match="Did you mean 'pope'"):
        data.load("popes")
    with pytest.raises(InputError, match="registered already"):
        data.register("mmmu", lambda *_: data.Questions([]), ())


def test_part_files_of_different_tables(tmp_path: Path) -> None:
    _, rows, columns = PARQUET["vmcbench", "dev"]
    some: list[dict[str, Any]] = [{k: v for k, v in row.items() if k != "D"} for row in rows()]
    parquet(tmp_path / "dev-0.parquet", rows(), columns)
    parquet(tmp_path / "dev-1.parquet", some, {k: v for k, v in columns.items() if k != "D"})
    with pytest.raises(InputError, match="the parquet files have different columns"):
        data.load("vmcbench", path=tmp_path)
