"""Files checked against what they claim to be, by name and from the command line."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest
from benchmark_files import PARQUET, TSV, parquet, pope_rows, tsv, vmcbench_rows, write_parquet, write_tsv

from lostattn import cli, data
from lostattn.data.public import BENCHMARKS
from lostattn.data.public.benchmark import Split
from lostattn.errors import InputError


@pytest.fixture
def small(monkeypatch: pytest.MonkeyPatch) -> None:
    """POPE as if it had been published with 4 pictures a category."""
    splits = {name: Split(24, {"yes": 12, "no": 12}) for name in ("adversarial", "popular", "random")}
    monkeypatch.setitem(BENCHMARKS, "pope", replace(BENCHMARKS["pope"], splits=splits))


@pytest.mark.usefixtures("small")
def test_a_whole_file(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = write_parquet("pope", "all", tmp_path)
    found = data.check("pope", path=path)
    assert found.amiss == () and found.questions == 24 and found.pictures == 4
    assert cli.main(["data", "pope", "--check", str(path)]) == 0
    assert capsys.readouterr().out.strip() == "pope/adversarial: 24 questions, 4 pictures; nothing amiss"
    one = parquet(tmp_path / "one.parquet", pope_rows(4, ("random",)), PARQUET["pope", "all"][2])
    assert data.check("pope", path=one).split == "random"


@pytest.mark.usefixtures("small")
def test_everything_that_is_amiss_is_told(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    rows = pope_rows(4, ("popular",))
    rows[0]["answer"] = "maybe"
    rows[7]["image"] = {"bytes": None, "path": None}
    rows[20]["image"] = {"bytes": b"no picture", "path": "x.png"}
    rows[9]["question_id"] = rows[8]["question_id"]
    path = parquet(tmp_path / "spoilt.parquet", rows, PARQUET["pope", "all"][2])
    amiss = data.check("pope", "popular", path=path).amiss
    assert any("23 rows instead of 24" in one for one in amiss)
    assert any("11 of 'yes' instead of 12" in one for one in amiss)
    assert any("row 0: " in one and "'maybe'; expected one of yes, no" in one for one in amiss)
    assert any("row 7: " in one and "has no picture" in one for one in amiss)
    assert any("row 20: " in one and "corrupted" in one for one in amiss)
    assert any("comes 2 times" in one for one in amiss)
    assert len(amiss) == 6
    assert cli.main(["data", "pope", "--check", str(path), "--split", "popular"]) == 2
    out, err = capsys.readouterr()
    assert out.splitlines()[0] == "pope/popular: 23 questions, 4 pictures; 6 amiss:" and len(out.splitlines()) == 7
    assert "is not pope as published (6 things amiss)" in err


@pytest.mark.parametrize(("name", "split"), [*PARQUET, *TSV])
def test_small_files_lack_rows_and_nothing_else(name: str, split: str, tmp_path: Path) -> None:
    write = write_parquet if (name, split) in PARQUET else write_tsv
    amiss = data.check(name, split, path=write(name, split, tmp_path)).amiss
    assert amiss and all(" instead of " in one for one in amiss), amiss


def test_a_file_of_another_set(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = write_parquet("vmcbench", "dev", tmp_path)
    with pytest.raises(InputError, match="It looks like vmcbench"):
        data.check("mathvista", path=path)
    assert cli.main(["data", "mathvista", "--check", str(path)]) == 2
    assert "lacks the column" in capsys.readouterr().err


def test_the_command_lists_shows_and_writes(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.main(["data"]) == 0
    assert capsys.readouterr().out.split() == list(data.names())
    path = tsv(tmp_path / "dev.tsv", [{**row, "image": "1.png"} for row in vmcbench_rows()])
    (tmp_path / "1.png").write_bytes(vmcbench_rows()[0]["image"]["bytes"])
    out = tmp_path / "drawn"
    arguments = ["data", "vmcbench", "--path", str(path), "--n", "2", "--seed", "5", "--out", str(out)]
    assert cli.main(arguments) == 0
    assert data.load(out) == data.load("vmcbench", path=path, n=2, seed=5)
    assert "Questions(2 of vmcbench/dev" in capsys.readouterr().out
    assert cli.main(["data", "vmcbench", "--path", str(path)]) == 2
    assert "6 rows instead of 1000" in capsys.readouterr().err
    assert cli.main(["data", "vmcbench", "--path", str(path), "--allow-rows"]) == 0
    assert cli.main(["data", "vmcbenhc"]) == 2
