"""Writers that are killed at every step in turn: what stands afterwards is one run whole, and nothing is left over."""

from __future__ import annotations

from pathlib import Path

import pytest
from killed import killed_at, settle, stages

from lostattn.files import check_run, publishing, write_file, write_folder
from lostattn.files.recovery import reading
from lostattn.files.seal import SEAL

NAMES = {"old": ("a.txt", "below/b.txt", "only-old.txt"), "new": ("a.txt", "below/b.txt", "below/c.txt")}
MOST = 200  # steps; far more than any of these takes


def fill(run: str):
    def write(folder: Path) -> None:
        for name in NAMES[run]:
            (folder / name).parent.mkdir(exist_ok=True)
            (folder / name).write_text(run)

    return write


def found(folder: Path) -> dict[str, str]:
    """The content of every file but the seal and what is hidden."""
    paths = [path for path in folder.rglob("*") if path.is_file() and path.name != SEAL]
    return {
        path.relative_to(folder).as_posix(): path.read_text()
        for path in paths
        if not any(part.startswith(".") for part in path.relative_to(folder).parts)
    }


def whole(run: str) -> dict[str, str]:
    return dict.fromkeys(NAMES[run], run)


@pytest.mark.parametrize("exchanges", [True, False])
def test_a_folder_is_the_old_run_or_the_new_one(tmp_path, exchanges):
    seen = set()
    for step in range(1, MOST):
        place = tmp_path / str(step) / "run"
        write_folder(place, fill("old"))
        died = killed_at(step, lambda place=place: write_folder(place, fill("new")), exchanges)
        if exchanges:  # even for those who know nothing of stages
            assert found(place) in (whole("old"), whole("new"))
        with reading(place):
            assert check_run(place)
            assert found(place) in (whole("old"), whole("new"))
        seen.add(found(place)["a.txt"])
        settle(place.parent)
        assert check_run(place) and not stages(place.parent)
        if not died:
            break
    assert seen == {"old", "new"} and step > 10


def test_a_new_folder_is_there_whole_or_not_at_all(tmp_path):
    for step in range(1, MOST):
        place = tmp_path / str(step) / "run"
        place.parent.mkdir()
        died = killed_at(step, lambda place=place: write_folder(place, fill("new"), fresh=True))
        assert not place.exists() or (check_run(place) and found(place) == whole("new"))
        settle(place.parent)
        assert not stages(place.parent)
        if not died:
            break
    assert place.exists() and step > 10


@pytest.mark.parametrize("held", [True, False])
def test_files_among_others_are_finished_by_the_next_reader(tmp_path, held):
    """A folder that holds somebody's own file, or that this process works in, is not moved."""
    seen = set()
    for step in range(1, MOST):
        place = tmp_path / str(step) / "run"
        write_folder(place, fill("old"))
        (place / "mine.txt").write_text("mine")
        with pytest.MonkeyPatch.context() as patch:
            if held:
                patch.chdir(place)
            died = killed_at(step, lambda place=place: write_folder(place, fill("new")))
        with reading(place):
            assert check_run(place)
            assert found(place) in [{**whole(run), "mine.txt": "mine"} for run in NAMES]
        seen.add(found(place)["a.txt"])
        settle(place.parent)
        settle(place)
        assert check_run(place) and not stages(place.parent) and not stages(place)
        if not died:
            break
    assert seen == {"old", "new"} and step > 10


def test_one_file_is_the_old_one_or_the_new_one(tmp_path):
    path = tmp_path / "file"
    for step in range(1, MOST):
        path.write_text("old")
        died = killed_at(step, lambda: write_file(path, lambda place: place.write_text("new")))
        assert path.read_text() in ("old", "new")
        if not died:
            break
    assert path.read_text() == "new" and step > 3
    write_file(path, lambda place: place.write_text("newer"))
    assert [p.name for p in tmp_path.iterdir()] == ["file"]


def test_a_live_writer_is_not_swept(tmp_path):
    """Another that writes to the same place, or beside it, leaves a live one's stage alone; the last one wins whole."""

    def slow(folder: Path) -> None:
        fill("old")(folder)
        write_folder(tmp_path / "run", fill("new"))
        write_file(tmp_path / "beside", lambda place: place.write_text("x"))
        assert len(stages(tmp_path)) == 1

    write_folder(tmp_path / "run", slow)
    assert found(tmp_path / "run") == whole("old") and check_run(tmp_path / "run")
    assert not stages(tmp_path)


def test_what_somebody_puts_into_a_folder_while_it_is_replaced_is_not_lost(tmp_path, monkeypatch):
    write_folder(tmp_path / "run", fill("old"))
    exchange = publishing.exchange

    def late(one: Path, other: Path) -> bool:
        (other / "mine.txt").write_text("mine")
        return exchange(one, other)

    monkeypatch.setattr(publishing, "exchange", late)
    write_folder(tmp_path / "run", fill("new"))
    assert found(tmp_path / "run") == {**whole("new"), "mine.txt": "mine"}


def test_a_link_planted_in_a_folder_leads_nothing_out_of_it(tmp_path):
    place, outside = tmp_path / "in" / "run", tmp_path / "outside"
    outside.mkdir()
    write_folder(place, fill("old"))
    (place / "mine.txt").write_text("mine")
    committed = None
    for step in range(1, MOST):
        killed_at(step, lambda: write_folder(place, fill("new")))
        committed = next((p for p in place.parent.glob(".*.part") if (p / "commit").exists()), None)
        if committed is not None:
            break
        settle(place.parent)
    assert committed is not None
    (place / "below" / "b.txt").unlink()
    (place / "below").rmdir()
    (place / "below").symlink_to(outside)
    with reading(place):
        pass
    assert list(outside.iterdir()) == []
