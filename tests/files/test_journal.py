"""The rows of a run that is broken off: what is on the disk, what is taken up again, and what is refused."""

from __future__ import annotations

import errno
import os
from pathlib import Path

import pytest

from lostattn.errors import InputError, NoRoom
from lostattn.files import Journal, disk
from lostattn.files import journal as module

SETTINGS = {"model": "m", "seed": 3, "edits": {"noise": {"layers": [1, 2]}}}


def test_what_was_added_is_there_for_the_next_process(tmp_path):
    content = {"rows": [{"x": 1 / 3, "text": "\u2028\ud800", "none": None, "nan": float("inf")}]}
    with Journal(tmp_path / "j", SETTINGS) as journal:
        assert journal.add("0/a", content) == content
    with Journal(tmp_path / "j", SETTINGS, resume=True) as journal:
        assert journal.done == {"0/a": content}
        journal.add("0/b", 2)
    with Journal(tmp_path / "j", SETTINGS, resume=True) as journal:
        assert journal.done == {"0/a": content, "0/b": 2}
    assert sorted(p.name for p in (tmp_path / "j").glob("rows*")) == ["rows-0001.jsonl", "rows-0002.jsonl"]
    journal.remove()
    assert not (tmp_path / "j").exists()


def test_a_row_is_on_the_disk_before_the_next_begins(tmp_path, monkeypatch):
    with Journal(tmp_path / "j", SETTINGS) as journal:
        journal.add("a", 1)
        synced = []
        monkeypatch.setattr(os, "fsync", lambda handle: synced.append(os.fstat(handle).st_size))
        journal.add("b", 2)
        size = (tmp_path / "j" / "rows-0001.jsonl").stat().st_size
    assert synced == [size]


@pytest.mark.parametrize(
    "torn", [b'{"unit": "c", "cont', b'{"unit": "c", "content": 3}', b"\0\0\0", b"\xff\n", b"[]\n"]
)
def test_a_torn_line_is_no_line(tmp_path, torn):
    with Journal(tmp_path / "j", SETTINGS) as journal:
        journal.add("a", 1)
    with (tmp_path / "j" / "rows-0001.jsonl").open("ab") as file:
        file.write(torn)
    with Journal(tmp_path / "j", SETTINGS, resume=True) as journal:
        assert journal.done == {"a": 1}
        journal.add("c", 4)
    with Journal(tmp_path / "j", SETTINGS, resume=True) as journal:
        assert journal.done == {"a": 1, "c": 4}


def test_other_settings_are_refused_with_what_differs(tmp_path):
    with Journal(tmp_path / "j", SETTINGS) as journal:
        journal.add("a", 1)
    other = {**SETTINGS, "seed": 4, "edits": {"noise": {"layers": [1]}}}
    with pytest.raises(InputError, match=r"seed was 3 and is 4; edits\.noise\.layers was \[1, 2\] and is \[1\]"):
        Journal(tmp_path / "j", other, resume=True)
    with Journal(tmp_path / "j", SETTINGS, resume=True) as journal:  # it was let go, and nothing was lost
        assert journal.done == {"a": 1}
    with Journal(tmp_path / "j", other) as journal:
        assert journal.done == {} and not list((tmp_path / "j").glob("rows*"))


def test_two_processes_do_not_work_on_one_run(tmp_path):
    with Journal(tmp_path / "j", SETTINGS), pytest.raises(InputError, match="another process works on the run"):
        Journal(tmp_path / "j", SETTINGS, resume=True)


def test_somebody_elses_folder_is_left_alone(tmp_path):
    (tmp_path / "notes.txt").write_text("mine")
    with pytest.raises(InputError, match=r"holds 'notes.txt' and is no journal"):
        Journal(tmp_path, SETTINGS)
    with pytest.raises(InputError, match="Cannot write to the folder"):
        Journal(tmp_path / "notes.txt" / "below", SETTINGS)
    assert [p.name for p in tmp_path.iterdir()] == ["notes.txt"]


def test_a_full_disk_loses_no_row(tmp_path, monkeypatch):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    monkeypatch.setattr(disk.tempfile, "gettempdir", lambda: str(tmp_path / "tmp"))
    append = module._append

    def full(file, line):
        if Path(file.name).is_relative_to(tmp_path / "j") and "b" in line:
            file.write(line[:5].encode())
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        append(file, line)

    with Journal(tmp_path / "j", SETTINGS) as journal:
        journal.add("a", 1)
        monkeypatch.setattr(module, "_append", full)
        with pytest.raises(NoRoom, match=r"no room .*The last row was kept in '.*cache.*'. Make room"):
            journal.add("b", 2)
    monkeypatch.undo()
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    with Journal(tmp_path / "j", SETTINGS, resume=True) as journal:
        assert journal.done == {"a": 1, "b": 2}
    journal.remove()
    assert not list(tmp_path.rglob("rows-*"))
