"""What is saved comes back equal: texts with any character, pictures of any kind, ids that are no file names."""

from __future__ import annotations

import dataclasses
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from lostattn.data import Question, Questions, load
from lostattn.errors import InputError

TEXTS = [
    "one\u2028two",
    "one\u2029two",
    "one\u0085two",
    "a\0b",
    "  blanks around \t",
    "line\r\nline\rline\n",
    "\v\f\x1c\x1d\x1e",
    "\ufeffmark",
    "",
    '"quoted" \\ {}',
    "😀 ḍ̇ e\u0301",
]


def _question(**changes: object) -> Question:
    pixels = np.random.default_rng(0).integers(0, 256, (5, 9, 3), dtype=np.uint8)
    fields = {"id": "q", "text": "?", "images": (Image.fromarray(pixels),), "answer": "a", "choices": ("a", "b")}
    return Question(**{**fields, "kind": "k", "group": "g", **changes})  # type: ignore[arg-type]


def _back(questions: Questions, folder: Path) -> Questions:
    return load(questions.save(folder / "saved"))


@pytest.mark.parametrize("text", TEXTS, ids=[ascii(text) for text in TEXTS])
@pytest.mark.parametrize("name", ["id", "text", "answer", "kind", "group"])
def test_a_text_comes_back_as_it_was(text: str, name: str, tmp_path: Path):
    choices = (text, "another") if name == "answer" else ("a", "b")
    first = _question(**{"choices": choices, name: text})
    questions = Questions([first, _question(id="second")])
    back = _back(questions, tmp_path)
    assert back == questions
    fields = [f.name for f in dataclasses.fields(Question) if f.name != "scenes"]
    assert [getattr(back[0], f) for f in fields] == [getattr(first, f) for f in fields]


def test_half_a_surrogate_pair_is_refused_and_leaves_nothing_behind(tmp_path: Path):
    with pytest.raises(InputError, match="question 'q' holds 0xd83d, half of a surrogate pair"):
        Questions([_question(text="half \ud83d")]).save(tmp_path / "saved")
    assert not list(tmp_path.iterdir())
    (tmp_path / "questions.jsonl").write_text('{"text": "\\ud83d", "images": [], "answer": "a"}')
    with pytest.raises(InputError, match="line 1 holds 0xd83d"):
        load(tmp_path)
    (tmp_path / "questions.jsonl").write_text('{"text": "\\ud83d\\ude00", "images": [], "answer": "a"}')
    assert load(tmp_path)[0].text == "😀"


@pytest.mark.parametrize("mode", ["1", "L", "LA", "P", "RGB", "RGBA", "CMYK", "YCbCr", "HSV"])
def test_a_picture_of_any_mode_comes_back_bit_for_bit(mode: str, tmp_path: Path):
    picture = _question().images[0].convert(mode)
    picture.info["transparency"] = 3
    questions = Questions([_question(images=(picture,))])
    back = _back(questions, tmp_path)
    assert back == questions
    assert np.array_equal(np.asarray(back[0].images[0]), np.asarray(picture.convert("RGB")))


def test_several_pictures_none_and_odd_names(tmp_path: Path):
    first = _question().images[0]
    questions = Questions(
        [
            _question(id="../up/../../and away", images=(first, first.rotate(90, expand=True))),
            _question(id="nothing to see", images=(), choices=("a",)),
            _question(id="CON:*?|<>", choices=("a", "")),
        ]
    )
    assert _back(questions, tmp_path) == questions


def test_lines_of_other_systems(tmp_path: Path):
    line = '{"id": "%d", "text": "x\\u2028y", "images": [], "answer": "a"}'
    (tmp_path / "questions.jsonl").write_bytes(b"\xef\xbb\xbf" + "\r\n".join([line % 0, "", line % 1, ""]).encode())
    assert [(q.id, q.text) for q in load(tmp_path)] == [("0", "x\u2028y"), ("1", "x\u2028y")]
