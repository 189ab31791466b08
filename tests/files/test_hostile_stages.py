"""Folders from strangers that pretend to be half written: whoever reads or writes there moves nobody else's files."""

from __future__ import annotations

import json
import os
from pathlib import Path

import pytest

from lostattn.errors import InputError
from lostattn.files import check_run, write_folder
from lostattn.files.recovery import reading
from lostattn.files.seal import SEAL, Seal, digest

STAGE = ".run.0123456789abcdef.part"


@pytest.fixture
def mine(tmp_path: Path) -> Path:
    """A folder of one's own, which has nothing to do with the stranger's beside it."""
    folder = tmp_path / "mine"
    (folder / "below").mkdir(parents=True)
    (folder / "diary.txt").write_text("dear diary")
    (folder / "below" / "letter.txt").write_text("dear friend")
    return folder


@pytest.fixture
def theirs(tmp_path: Path) -> Path:
    (tmp_path / "theirs").mkdir()
    return tmp_path / "theirs"


def untouched(mine: Path) -> bool:
    held = {path.relative_to(mine).as_posix(): path.read_text() for path in mine.rglob("*") if path.is_file()}
    return held == {"diary.txt": "dear diary", "below/letter.txt": "dear friend"}


def stage(folder: Path, commit: object) -> Path:
    made = folder / STAGE
    made.mkdir()
    (made / "commit").write_text(commit if isinstance(commit, str) else json.dumps(commit))
    return made


def put(folder: Path) -> None:
    (folder / "planted.txt").write_text("planted")


@pytest.mark.parametrize("files", [True, False])
@pytest.mark.parametrize("name", ["", "x"])
def test_a_stage_that_is_a_link_to_what_is_mine_moves_nothing(files, name, mine, theirs):
    (stage(theirs, {"place": name, "files": files}) / "new").symlink_to(mine)
    with reading(theirs):
        assert untouched(mine)
    assert [path.name for path in theirs.iterdir()] == [STAGE], "nothing was begun, so nothing is gone on with"
    write_folder(theirs / "run", put)
    assert untouched(mine) and [path.name for path in theirs.iterdir()] == ["run"]


@pytest.mark.parametrize("name", ["x", "../mine", "/", "..", ".", "a/b", "\x00"])
def test_what_is_staged_goes_nowhere_else(name, mine, theirs):
    (theirs / "x").symlink_to(mine)
    gone = ["diary.txt", "../mine/diary.txt", str(mine / "diary.txt")]
    made = stage(theirs, {"place": name, "files": True, "gone": gone})
    (made / "new" / "below").mkdir(parents=True)
    for place in ("planted.txt", "diary.txt", "below/letter.txt"):
        (made / "new" / place).write_text("planted")
    with reading(theirs):
        assert untouched(mine)


@pytest.mark.parametrize("gone", [["../mine/diary.txt"], ["out/diary.txt"], ["/"], [""], [3, None], "diary.txt", None])
def test_nothing_is_deleted_outside(gone, mine, theirs):
    (theirs / "out").symlink_to(mine)
    made = stage(theirs, {"place": "", "files": True, "gone": gone})
    (made / "new" / "out").mkdir(parents=True)
    (made / "new" / "out" / "planted.txt").write_text("planted")
    with reading(theirs):
        assert untouched(mine)


@pytest.mark.parametrize(
    "commit", ["[" * 200_000, "\udcff", "{", "3", "null", '{"place": 3}', '{"place": null}', "NaN", ""]
)
def test_a_commit_that_is_none_is_swept(commit, theirs):
    made = theirs / STAGE
    made.mkdir()
    (made / "commit").write_bytes(commit.encode("utf-8", "surrogateescape"))
    with reading(theirs):
        pass
    write_folder(theirs / "run", put)
    assert not made.exists() and (theirs / "run" / "planted.txt").exists()


def test_a_commit_that_would_be_waited_for_is_not(theirs):
    (theirs / STAGE).mkdir()
    os.mkfifo(theirs / STAGE / "commit")
    with reading(theirs):
        assert theirs.is_dir()


@pytest.mark.parametrize(
    "name", ["../mine/diary.txt", "/etc/hostname", "a/../../mine/diary.txt", "", ".", "./a", "a//b"]
)
def test_a_seal_holds_files_of_its_folder_alone(name, mine, theirs):
    held = digest(mine / "diary.txt")
    (theirs / SEAL).write_text(Seal({}, {name: held}).text())
    with pytest.raises(InputError, match="leads out of the folder"):
        check_run(theirs)
    for adds in (True, False):
        write_folder(theirs, put, adds=adds)
        assert untouched(mine) and (theirs / "planted.txt").read_text() == "planted"
        assert sorted(path.name for path in theirs.parent.iterdir()) == ["mine", "theirs"]


def test_a_seal_of_what_a_link_leads_to_is_refused(mine, theirs):
    (theirs / "link.txt").symlink_to(mine / "diary.txt")
    (theirs / SEAL).write_text(Seal({}, {"link.txt": digest(mine / "diary.txt")}).text())
    with pytest.raises(InputError, match="a link that leads out"):
        check_run(theirs)
