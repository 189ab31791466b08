"""Questions written to a folder and read back."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from PIL import Image

from lostattn.data import load
from lostattn.data.folder import FILE
from lostattn.data.question import Questions
from lostattn.errors import InputError


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    return load("shapes", n=9, seed=1).save(tmp_path / "mine")


def test_what_is_saved_is_what_is_read(folder: Path) -> None:
    back = load(folder)
    assert back == load("shapes", n=9, seed=1)
    assert back.name == "mine"
    assert load(str(folder), n=4) == back[:4]
    assert {q.kind for q in load(folder, kinds=["relation"])} == {"relation"}


def test_asking_for_more_than_there_is(folder: Path) -> None:
    with pytest.raises(InputError, match="holds 9 such questions; 10 were asked for"):
        load(folder, n=10)


def test_a_corrupted_picture_is_named_with_its_question(folder: Path) -> None:
    (folder / "images" / "00002-0.png").write_bytes(b"\x89PNG\r\n\x1a\nnonsense")
    with pytest.raises(InputError, match=r"00002-0\.png of question 'shapes-test-1-00002'.*corrupted"):
        load(folder)


def test_a_picture_cut_short_is_corrupted_too(folder: Path) -> None:
    path = folder / "images" / "00002-0.png"
    path.write_bytes(path.read_bytes()[:-40])
    with pytest.raises(InputError, match=r"00002-0\.png.*corrupted"):
        load(folder)


def test_a_missing_picture_is_named(folder: Path) -> None:
    (folder / "images" / "00000-0.png").unlink()
    with pytest.raises(InputError, match=r"'shapes-test-1-00000' names the image file .*00000-0\.png, which does not"):
        load(folder)


def test_lines_that_are_no_questions(folder: Path) -> None:
    lines = (folder / FILE).read_text().splitlines()
    (folder / FILE).write_text("\n".join([lines[0], '{"text": "x"}']))
    with pytest.raises(InputError, match="line 2: a question needs the keys text, images, answer"):
        load(folder)
    (folder / FILE).write_text("\n".join([lines[0], "", "{oops"]))
    with pytest.raises(InputError, match="line 3 is not JSON"):
        load(folder)
    (folder / FILE).unlink()
    with pytest.raises(InputError, match=f"holds no {FILE}"):
        load(folder)


def test_a_line_may_be_short(tmp_path: Path) -> None:
    Image.new("L", (4, 6)).save(tmp_path / "a.png")
    lines = [
        {"text": "One?", "images": "a.png", "answer": "no"},
        {"text": "Two?", "images": ["a.png", "a.png"], "answer": "yes"},
    ]
    (tmp_path / FILE).write_text("\n".join(json.dumps(line) for line in lines))
    one, two = load(tmp_path)
    assert one.choices == two.choices == ("no", "yes")
    assert (one.id, one.kind, one.group) == ("00001", "question", "a.png")
    assert (len(two.images), two.images[0].mode, two.images[0].size) == (2, "RGB", (4, 6))


def test_nothing_is_overwritten_and_nothing_half_written(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "full").mkdir()
    (tmp_path / "full" / "thesis.txt").write_text("mine")
    questions = load("shapes", n=3)
    with pytest.raises(InputError, match="is not an empty folder"):
        questions.save(tmp_path / "full")

    def broken(self: Image.Image, *args: object, **kwargs: object) -> None:
        raise RuntimeError("the disk is gone")

    monkeypatch.setattr(Image.Image, "save", broken)
    with pytest.raises(RuntimeError, match="the disk is gone"):
        questions.save(tmp_path / "new")
    assert sorted(p.name for p in tmp_path.iterdir()) == ["full"]


def test_a_folder_that_cannot_be_written(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("in the way")
    with pytest.raises(InputError, match="Cannot write to"):
        Questions([]).save(tmp_path / "file" / "below")
