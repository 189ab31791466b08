"""Questions with several right answers, open ones, sets and facts: what is refused, and what a folder keeps."""

from __future__ import annotations

import dataclasses
import io
import json
from pathlib import Path
from typing import Any

import pytest
from PIL import Image

from lostattn.data import Question, Questions, load, scoring
from lostattn.data.folder import FILE
from lostattn.errors import InputError
from lostattn.pictures.loading import load_pictures
from lostattn.pictures.stored import StoredPictures


def picture(colour: str = "red", size: tuple[int, int] = (5, 3)) -> Image.Image:
    return Image.new("RGB", size, colour)


def bytes_of(image: Image.Image) -> bytes:
    buffer = io.BytesIO()
    image.save(buffer, format="PNG")
    return buffer.getvalue()


def question(**changed: Any) -> Question:
    fields = {
        "id": "q",
        "text": "Which?",
        "images": (picture(),),
        "answer": "A",
        "choices": ("A", "B", "C"),
        "kind": "k",
        "group": "g",
    }
    return Question(**{**fields, **changed})  # type: ignore[arg-type]


def written_by_hand(questions: list[Question], where: Path) -> Path:
    folder = Questions(questions).save(where / "mine")
    (folder / "run.json").unlink()  # the seal of a folder that was saved, which changing it breaks
    return folder


FULL = {
    "answers": ("A", "C"),
    "options": ("one", "two", "one"),
    "together": {"pair": "p1", "figure": "f2"},
    "row": "17",
    "facts": {"benchmark": "mine", "precision": 2.0, "skills": ["a", "b"], "none": None},
}


def test_a_folder_keeps_all_of_it(tmp_path: Path) -> None:
    told = Questions(
        [
            question(**FULL),
            question(id="open", choices=(), answer="8.5", answers=("8.5", "17/2")),
            question(id="plain"),
        ],
        "mine",
    )
    back = load(told.save(tmp_path / "mine"))
    assert back == told
    assert back[1].choices == () and back[1].answers == ("8.5", "17/2")
    assert back[0].cluster == back[0].group == "g"


def test_a_plain_question_is_saved_as_ever(tmp_path: Path) -> None:
    line = json.loads((Questions([question()]).save(tmp_path / "mine") / FILE).read_text())
    assert list(line) == ["id", "text", "images", "answer", "choices", "kind", "group"]


def test_pictures_stay_files_until_they_are_looked_at(tmp_path: Path) -> None:
    red, blue = picture("red"), picture("blue", (4, 7))
    stored = StoredPictures((bytes_of(red), b"no picture", bytes_of(blue)), "question 's'")
    told = question(images=stored)
    assert [len(told.images), told.images[0].size, told.images[-1].size] == [3, (5, 3), (4, 7)]
    assert told.images[0::2] == (red, blue)
    with pytest.raises(InputError, match=r"image 1 of question 's'.*what its bytes hold is corrupted"):
        told.images[1]
    with pytest.raises(IndexError):
        told.images[3]
    whole = question(images=StoredPictures((bytes_of(red), bytes_of(blue)), "q"))
    assert whole == question(images=(red, blue)) and question(images=(red, blue)) == whole
    assert whole != question(images=(red, red))
    assert load(Questions([whole]).save(tmp_path / "mine"))[0] == whole
    assert load_pictures(whole.images) == (red, blue), "as prompts take them"
    assert dataclasses.replace(whole, id="other").images is whole.images


@pytest.mark.parametrize(
    ("changed", "said"),
    [
        ({"answer": "D"}, "the answer 'D' is none of the choices"),
        ({"answers": ("A", "D")}, "the answer 'D' is none of the choices"),
        ({"answers": ("B", "C")}, "the answer 'A' is none of its answers"),
        ({"options": ("one", "two")}, "has 2 options for 3 choices"),
        ({"together": {"pair": ["p1"]}}, r"together of question 'q' is {'pair': \['p1'\]}; expected texts by texts"),
        ({"together": {"pair": None}}, "together of question 'q' is {'pair': None}"),
        ({"together": {1: "p1"}}, "together of question 'q' is {1: 'p1'}"),
    ],
)
def test_what_does_not_fit_is_refused(changed: dict[str, Any], said: str) -> None:
    with pytest.raises(InputError, match=said):
        question(**changed)


@pytest.mark.parametrize(
    ("changed", "said"),
    [
        ({"open": True}, "an open question has no choices"),
        ({"open": "yes"}, "open is 'yes'; expected true or false"),
        ({"answers": "A"}, "answers is 'A'"),
        ({"together": ["p1"]}, "together is a list"),
        ({"facts": 3}, "facts is 3"),
        ({"row": None}, "row is None"),
        ({"options": ["one"]}, "has 1 options for 3 choices"),
    ],
)
def test_lines_that_are_no_such_question(tmp_path: Path, changed: dict[str, Any], said: str) -> None:
    folder = written_by_hand([question()], tmp_path)
    line = json.loads((folder / FILE).read_text())
    (folder / FILE).write_text(json.dumps({**line, **changed}))
    with pytest.raises(InputError, match=said):
        load(folder)


def test_a_line_without_choices_has_those_of_its_kind(tmp_path: Path) -> None:
    folder = written_by_hand([question(), question(id="r", answer="B")], tmp_path)
    lines = [json.loads(line) for line in (folder / FILE).read_text().splitlines()]
    for line in lines:
        line["choices"] = []
    (folder / FILE).write_text("\n".join(map(json.dumps, lines)))
    assert [q.choices for q in load(folder)] == [("A", "B")] * 2


def test_all_right_answers_count() -> None:
    told = question(**FULL)
    assert [scoring.right("strict", said, told) for said in "ABC"] == [True, False, True]
