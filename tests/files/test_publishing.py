"""Folders and files that appear at once: modes, the disk, threads, things in the way, and disks without room."""

from __future__ import annotations

import errno
import json
import os
import stat
import threading
from pathlib import Path

import pandas as pd
import pytest
import torch

from lostattn.errors import InputError, NoRoom
from lostattn.experiments.results import Results
from lostattn.files import check_run, disk, publishing, write_file, write_folder, write_tensors, write_text


def two(text: str):
    def fill(folder: Path) -> None:
        (folder / "one").write_text(text)
        (folder / "two").write_text(text)

    return fill


@pytest.fixture
def kept(tmp_path, monkeypatch):
    """Where things are kept that have no room; the first of the places has none either."""
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "file"))
    (tmp_path / "file").write_text("in the way")
    monkeypatch.setattr(disk.tempfile, "gettempdir", lambda: str(tmp_path / "elsewhere"))
    return tmp_path / "elsewhere"


@pytest.mark.parametrize("mask", [0o022, 0o077, 0o002])
def test_what_is_saved_has_the_users_umask(tmp_path, mask):
    before = os.umask(mask)
    try:
        paths = [
            write_tensors(tmp_path / "t", {"x": torch.zeros(3)}, {}),
            write_text(tmp_path / "text", "x"),
            *Results(pd.DataFrame({"id": ["a"]})).save(tmp_path / "run").values(),
            tmp_path / "run" / "run.json",
        ]
    finally:
        os.umask(before)
    assert {stat.S_IMODE(path.stat().st_mode) for path in paths} == {0o666 & ~mask}
    assert stat.S_IMODE((tmp_path / "run").stat().st_mode) == 0o777 & ~mask


def test_files_and_their_folders_are_on_the_disk_before_they_appear(tmp_path, monkeypatch):
    order: list[str] = []
    fsync, rename, replace = os.fsync, os.rename, os.replace

    def note(what: str, operation):
        def noted(*arguments):
            order.append(what)
            return operation(*arguments)

        return noted

    def synced(handle):
        path = Path(os.readlink(f"/proc/self/fd/{handle}"))
        order.append(path.name if path.is_file() or path.name == "new" else "parent")
        fsync(handle)

    monkeypatch.setattr(os, "fsync", synced)
    monkeypatch.setattr(os, "rename", note("rename", rename))
    monkeypatch.setattr(os, "replace", note("replace", replace))
    write_folder(tmp_path / "run", two("x"))
    assert order == ["one", "two", "new", ".run.json.new", "replace", "new", "rename", "parent"]


def test_three_threads_that_save_to_one_path_all_succeed(tmp_path):
    failures: list[BaseException] = []
    at_once = threading.Barrier(3)

    def save(k: int) -> None:
        try:
            for _ in range(5):
                at_once.wait()
                Results(pd.DataFrame({"id": [k]}), {"seed": k}).save(tmp_path / "run")
                Results(pd.DataFrame({"id": [k]}), {"seed": k}).save(tmp_path / "among" / "x.parquet")
                write_tensors(tmp_path / "t.safetensors", {"x": torch.full((3,), float(k))}, {})
                assert Results.load(tmp_path / "run").meta["seed"] in range(3)
        except BaseException as error:
            failures.append(error)
            at_once.abort()

    threads = [threading.Thread(target=save, args=(k,)) for k in range(3)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert not failures
    for folder, name in ((tmp_path / "run", "results"), (tmp_path / "among", "x")):
        seed = Results.load(folder, name).meta["seed"]
        assert pd.read_csv(folder / f"{name}.csv")["id"].tolist() == [seed]
        assert json.loads((folder / f"{name}.json").read_text()) == {"seed": seed}
    assert sorted(p.name for p in tmp_path.iterdir()) == ["among", "run", "t.safetensors"]


def test_results_of_other_names_stay_and_are_sealed_with_the_new(tmp_path):
    Results(pd.DataFrame({"id": ["a"]}), {"seed": 1}).save(tmp_path / "run", "first")
    Results(pd.DataFrame({"id": ["b"]}), {"seed": 2}).save(tmp_path / "run", "second")
    assert check_run(tmp_path / "run")
    assert [Results.load(tmp_path / "run", name).meta["seed"] for name in ("first", "second")] == [1, 2]


def test_a_folder_with_somebody_elses_run_json_keeps_it(tmp_path):
    (tmp_path / "run.json").write_text('{"theirs": 1}')
    Results(pd.DataFrame({"id": ["a"]}), {"seed": 1}).save(tmp_path)
    assert json.loads((tmp_path / "run.json").read_text()) == {"theirs": 1}
    assert Results.load(tmp_path).meta == {"seed": 1}


def test_a_folder_in_the_way_of_a_file_leaves_everything_as_it_was(tmp_path):
    Results(pd.DataFrame({"id": ["a"]}), {"seed": 1}).save(tmp_path / "x.parquet")
    (tmp_path / "x.csv").unlink()
    (tmp_path / "x.csv" / "inside").mkdir(parents=True)
    with pytest.raises(InputError, match=r"x.csv' is a folder, and a file is to be written there"):
        Results(pd.DataFrame({"id": ["b"]}), {"seed": 2}).save(tmp_path / "x.parquet")
    assert Results.load(tmp_path / "x.parquet").meta == {"seed": 1}
    assert sorted(p.name for p in tmp_path.iterdir()) == ["x.csv", "x.json", "x.parquet"]
    with pytest.raises(InputError, match="is a folder"):
        write_text(tmp_path / "x.csv", "text")


@pytest.mark.parametrize("at", ["one", "two", "seal"])
def test_a_full_disk_is_one_error_that_says_where_things_were_kept(tmp_path, monkeypatch, kept, at):
    place = tmp_path / "run"
    write_folder(place, two("old"))
    full = OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    def fill(folder: Path) -> None:
        two("new")(folder)
        if at != "seal" and not folder.is_relative_to(kept):
            (folder / at).write_text("ne")
            raise full

    if at == "seal":
        monkeypatch.setattr(publishing, "_write", lambda *a: (_ for _ in ()).throw(full))
    with pytest.raises(NoRoom, match=r"no room for '.*run'.*untouched; it was kept in '(.*)'") as raised:
        write_folder(place, fill)
    assert (place / "one").read_text() == "old" and check_run(place)
    there = Path(str(raised.value).split("kept in '")[1].rstrip("'."))
    assert [(there / name).read_text() for name in ("one", "two")] == ["new", "new"]
    assert sorted(p.name for p in tmp_path.iterdir()) == ["elsewhere", "file", "run"]
    assert len(list(kept.iterdir())) == 1


def test_a_file_that_has_no_room_is_not_begun(tmp_path, monkeypatch, kept):
    monkeypatch.setattr(disk, "_free", lambda folder: 100 if not folder.is_relative_to(kept) else 10**9)
    with pytest.raises(NoRoom, match="kept in"):
        write_tensors(tmp_path / "t.safetensors", {"x": torch.zeros(1000)}, {})
    assert not (tmp_path / "t.safetensors").exists()
    assert [path.name for path in kept.rglob("*.safetensors")] == ["t.safetensors"]


def test_where_there_is_no_room_at_all_it_is_said(tmp_path, monkeypatch, kept):
    def fill(path: Path) -> None:
        raise OSError(errno.EDQUOT, "quota")

    with pytest.raises(NoRoom, match="no room elsewhere"):
        write_file(tmp_path / "f", fill)
    assert not (tmp_path / "f").exists()


def test_safetensors_tells_a_full_disk_in_words_alone():
    resource = pytest.importorskip("resource")
    from safetensors import SafetensorError

    assert disk.is_full(SafetensorError("Error while serializing: I/O error: File too large (os error 27)"))
    assert disk.is_full(OSError(errno.ENOSPC, "")) and resource.RLIMIT_FSIZE is not None
    assert not disk.is_full(SafetensorError("(os error 13)")) and not disk.is_full(OSError(errno.EACCES, ""))
