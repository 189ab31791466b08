"""Telling a whole run from a torn one."""

from __future__ import annotations

import json
from pathlib import Path

import pandas as pd
import pytest

from lostattn.data import load
from lostattn.errors import InputError
from lostattn.experiments.results import Results
from lostattn.files import check_run, write_folder
from lostattn.files.seal import KEY, Seal, digest


@pytest.fixture
def run(tmp_path):
    def fill(folder: Path) -> None:
        (folder / "below").mkdir()
        (folder / "a").write_text("a")
        (folder / "below" / "b").write_text("b")

    return write_folder(tmp_path / "run", fill, {"seed": 3})


def test_a_whole_run_fits_its_seal(run):
    assert check_run(run)
    said = json.loads((run / "run.json").read_text())
    assert said["seed"] == 3 and sorted(said[KEY]["files"]) == ["a", "below/b"]
    (run / "beside").write_text("not sealed, and nobody's business")
    assert check_run(run)


@pytest.mark.parametrize("name", ["a", "below/b"])
@pytest.mark.parametrize("how", ["edited", "longer", "missing"])
def test_a_file_that_is_another_is_named(run, name, how):
    path = run / name
    if how == "missing":
        path.unlink()
    else:
        path.write_text("c" if how == "edited" else "ab")
    with pytest.raises(InputError, match=rf"'{name}' is .* Make the run again.*run\.json'"):
        check_run(run)
    (run / "run.json").unlink()
    assert not check_run(run)


def test_an_edited_seal_is_refused(run):
    path = run / "run.json"
    path.write_text(path.read_text().replace('"seed": 3', '"seed": 4'))
    with pytest.raises(InputError, match=r"run.json' is not as it was written"):
        check_run(run)
    path.write_text(path.read_text()[:40])
    with pytest.raises(InputError, match=r"run.json"):
        check_run(run)


def test_a_seal_looks_at_nothing_outside_its_folder(run, tmp_path):
    (tmp_path / "secret").write_text("s")
    (run / "run.json").write_text(Seal({}, {"../secret": digest(tmp_path / "secret")}).text())
    with pytest.raises(InputError, match="leads out of the folder"):
        check_run(run)


def test_a_run_json_of_an_earlier_version_is_no_seal(tmp_path):
    (tmp_path / "run.json").write_text('{"experiment": "demo", "seed": 0}')
    assert not check_run(tmp_path)


def test_results_of_two_runs_side_by_side_are_refused(tmp_path):
    for k in (1, 2):
        Results(pd.DataFrame({"id": ["a"], "x": [k]}), {"seed": k}).save(tmp_path / str(k))
        Results(pd.DataFrame({"id": ["a"], "x": [k]}), {"seed": k}).save(tmp_path / f"among-{k}" / "t.parquet")
    (tmp_path / "1" / "results.csv").write_bytes((tmp_path / "2" / "results.csv").read_bytes())
    with pytest.raises(InputError, match=r"'results.csv' is not the file that was sealed"):
        Results.load(tmp_path / "1")
    assert Results.load(tmp_path / "1" / "results.parquet").meta == {"seed": 1}
    (tmp_path / "among-1" / "t.csv").write_bytes((tmp_path / "among-2" / "t.csv").read_bytes())
    with pytest.raises(InputError, match=r"t.csv' is not of one run with 't.parquet'"):
        Results.load(tmp_path / "among-1", "t")


def test_questions_are_sealed_and_may_be_taken_over_by_hand(tmp_path):
    folder = load("shapes", n=3, seed=5).save(tmp_path / "questions")
    assert check_run(folder) and len(load(folder)) == 3
    lines = (folder / "questions.jsonl").read_text().splitlines()
    (folder / "questions.jsonl").write_text("\n".join(lines[:2]) + "\n")
    with pytest.raises(InputError, match=r"'questions.jsonl' is not the file that was sealed.*delete '.*run.json'"):
        load(folder)
    (folder / "run.json").unlink()
    assert len(load(folder)) == 2
