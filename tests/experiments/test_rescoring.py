"""Answers read again under other protocols, without a model."""

from __future__ import annotations

from pathlib import Path

import pandas as pd
import pytest
from benchmark_files import write_parquet

from lostattn import cli, data
from lostattn.data import Questions
from lostattn.errors import InputError, UnknownName
from lostattn.experiments.rescoring import rescore, score_table
from lostattn.experiments.results import Results

SAID = {"untouched": ("Yes.", "NO", "yes, not only one"), "edit": ("yes", "no", "")}


@pytest.fixture
def asked(tmp_path: Path) -> tuple[Questions, Path]:
    path = write_parquet("pope", "all", tmp_path)
    return data.load("pope", split="popular", n=6, seed=1, path=path), path


def run_of(questions: Questions) -> Results:
    rows = [
        {"condition": condition, "seed": 0, "id": q.id, "kind": q.kind, "scene": q.group, "answer": q.answer,
         "said": said[i % 3], "correct": False, "unread": True}
        for condition, said in SAID.items()
        for i, q in enumerate(questions)
    ]  # fmt: skip
    return Results(pd.DataFrame(rows), {"model": "m", "scoring": "strict"})


def test_what_was_said_is_read_again(asked: tuple[Questions, Path]) -> None:
    questions, _ = asked
    run = run_of(questions)
    official = rescore(run, questions, "pope-official")
    assert official.meta == {"model": "m", "scoring": "pope-official"}
    assert list(official.table["read"])[:3] == ["yes", "yes", "no"], "NO is a yes there, and not is a no"
    assert list(official.table["said"]) == list(run.table["said"]) and len(official.table) == 12
    lmms = rescore(run, questions, "pope-lmms").table
    assert list(lmms["unread"])[:6] == [True, False, True] * 2 and list(lmms["rule"])[0] == "not the bare word"
    # yes, no, yes, no, yes, no: of "Yes.", "NO", "yes, not only one" the strict protocol reads yes, no, and the third.
    strict = rescore(run, questions, "strict").table
    assert list(strict["correct"])[:2] == [True, True]
    assert list(strict["read"])[6:8] == ["yes", "no"] and pd.isna(strict["read"][8])
    assert rescore(official, questions, "strict").table.drop(columns="rule").equals(strict.drop(columns="rule"))
    assert set(official.summary()["condition"]) == {"untouched", "edit"}


def test_scores_of_each_condition(asked: tuple[Questions, Path]) -> None:
    questions, _ = asked
    table = score_table(run_of(questions), questions, "pope-lmms").set_index(["condition", "score", "part"])["value"]
    # untouched: "no" to the second and fifth, of which the second's right answer is no; the others are unread.
    assert table["untouched", "accuracy", "all"] == 1 / 6 and table["untouched", "yes ratio", "all"] == 0.0
    # edit: yes to the first and fourth, no to the second and fifth.
    assert table["edit", "accuracy", "all"] == 2 / 6 and table["edit", "yes ratio", "all"] == 2 / 6


def test_other_questions_are_refused(asked: tuple[Questions, Path], tmp_path: Path) -> None:
    questions, _ = asked
    run = run_of(questions)
    with pytest.raises(InputError, match="which is not among the 5 given"):
        rescore(run, questions[1:])
    with pytest.raises(InputError, match="no column said"):
        rescore(Results(run.table.drop(columns="said")), questions)
    with pytest.raises(InputError, match="no rows"):
        rescore(Results(run.table[:0]), questions)
    with pytest.raises(InputError, match="has another right answer in the results"):
        rescore(Results(run.table.assign(answer="no")), questions)
    with pytest.raises(UnknownName, match="'pope-offical'.*'pope-official'"):
        rescore(run, questions, "pope-offical")


def test_from_the_command_line(
    asked: tuple[Questions, Path], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    questions, path = asked
    run_of(questions).save(tmp_path / "run")
    out = tmp_path / "scores.csv"
    place = ["--data", "pope", "--split", "popular", "--path", str(path), "--out", str(out)]
    assert cli.main(["rescore", str(tmp_path / "run"), "--protocol", "pope-lmms", *place]) == 0
    written = pd.read_csv(out)
    expected = score_table(run_of(questions), questions, "pope-lmms")
    assert list(written["score"]) == list(expected["score"])
    assert written["value"].tolist() == pytest.approx(expected["value"].tolist(), rel=1e-12)
    assert cli.main(["rescore", str(tmp_path / "run"), "--protocol", "pope", *place]) == 2
    assert "no protocol of scoring is called 'pope'" in capsys.readouterr().err
