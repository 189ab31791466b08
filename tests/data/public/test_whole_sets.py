"""Tables as long as the published ones: their counts, and what constant answerers score on them."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pandas as pd
import pytest
from benchmark_files import (
    HALLUSION_COLUMNS,
    MMMU_COLUMNS,
    POPE_COLUMNS,
    Rows,
    cell,
    hallusion_rows,
    mmmu_row,
    parquet,
    pope_rows,
)

from lostattn import data
from lostattn.data import Questions, scoring
from lostattn.errors import InputError

CELL = cell(1)


def value(table: pd.DataFrame, score: str, part: str = "all") -> float:
    return float(table.loc[(table["score"] == score) & (table["part"] == part), "value"].item())


def scored(questions: Questions, said: str, protocol: str, **more: Any) -> pd.DataFrame:
    return scoring.scores(questions, [said] * len(questions), protocol, **more)


@pytest.fixture(scope="module")
def pope(tmp_path_factory: pytest.TempPathFactory) -> Path:
    rows = [{**row, "image": CELL} for row in pope_rows(500)]
    return parquet(tmp_path_factory.mktemp("pope") / "test.parquet", rows, POPE_COLUMNS, 3000)


@pytest.mark.slow
def test_always_yes_on_pope(pope: Path) -> None:
    questions = data.load("pope", split="popular", path=pope)
    assert len(questions) == 3000
    for protocol in ("strict", "pope-official"):
        table = scored(questions, "yes", protocol)
        assert value(table, "accuracy") == 0.5 and value(table, "yes ratio") == 1.0
        assert round(value(table, "F1, pooled"), 4) == round(value(table, "F1, mean of kinds"), 4) == 0.6667
    drawn = data.load("pope", split="adversarial", n=300, seed=0, path=pope)
    assert len(drawn) == 300 and sum(q.answer == "yes" for q in drawn) == 150


@pytest.mark.slow
def test_a_table_that_is_not_whole(pope: Path, tmp_path: Path) -> None:
    rows = [{**row, "image": CELL} for row in pope_rows(500, ("popular",))]
    rows[1]["answer"] = "yes"
    one = parquet(tmp_path / "changed.parquet", rows, POPE_COLUMNS, 3000)
    with pytest.raises(InputError, match="1499 of 'no' instead of 1500; 1501 of 'yes' instead of 1500"):
        data.load("pope", split="popular", path=one)
    short = parquet(tmp_path / "short.parquet", rows[:-90], POPE_COLUMNS, 3000)
    with pytest.raises(InputError, match="2910 rows instead of 3000.*allow_rows=True"):
        data.load("pope", split="popular", path=short)
    assert len(data.load("pope", split="popular", path=short, allow_rows=True)) == 2910
    assert len(data.load("pope", split="popular", n=12, path=short)) == 12


def mmmu_table() -> Rows:
    golds = {"A": 244, "B": 230, "C": 198, "D": 148, "E": 24, "F": 2, "I": 1}
    rows = []
    for gold, count in golds.items():
        options = [f"value {k}" for k in range(4 if gold <= "D" else "ABCDEFGHI".index(gold) + 1)]
        rows += [mmmu_row(f"validation_Math_{len(rows) + k}", "What is it?", options, gold, ()) for k in range(count)]
    rows = [{**row, "id": f"validation_Math_{i}"} for i, row in enumerate(rows)]
    told = [*"BCDE", *["['8.5', 'x']"] * 49]
    return rows + [mmmu_row(f"validation_Physics_{k}", "How much?", None, gold, ()) for k, gold in enumerate(told)]


def test_constant_answers_to_mmmu(tmp_path: Path) -> None:
    questions = data.load("mmmu", path=parquet(tmp_path / "validation.parquet", mmmu_table(), MMMU_COLUMNS, 900))
    assert len(questions) == 900
    table = scored(questions, "A", "mmmu-official", by=["question_type"])
    assert value(table, "accuracy", "multiple-choice") == 244 / 847
    for protocol in ("strict", "mmmu-official", "mmmu-lmms"):
        oracle = scoring.scores(questions, [q.answer for q in questions], protocol)
        assert value(oracle, "accuracy") == 1.0, protocol
    bug = scoring.scores(questions, [q.answer for q in questions], "mmmu-lmms-0.7.3")
    assert value(bug, "accuracy") == 847 / 900, "the ceiling of that version"


def test_always_no_on_hallusionbench(tmp_path: Path) -> None:
    rows = hallusion_rows(sets=159)[:951]
    for i, row in enumerate(rows):
        row["gt_answer"], row["image"] = "0" if i < 550 else "1", CELL
    questions = data.load("hallusionbench", path=parquet(tmp_path / "image-0.parquet", rows, HALLUSION_COLUMNS, 951))
    table = scored(questions, "No.", "hallusion-vlmevalkit")
    assert value(table, "aAcc") == pytest.approx(550 / 951, rel=1e-15)
    assert len(questions) == 951
