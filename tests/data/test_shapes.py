"""The generator: deterministic, balanced, held out by scene, and right."""

from __future__ import annotations

import re
from collections import Counter

import numpy as np
import pytest
from PIL import Image

from lostattn.data import load
from lostattn.data.asking import CHOICES, KINDS, LETTERS, ask
from lostattn.data.question import Question
from lostattn.data.scene import (
    COLOURS,
    PLURALS,
    SHAPES,
    SIZES,
    WIDE_SIZES,
    Object,
    Scene,
    draw_scene,
    make_scene,
    paint,
)

_RED, _GREEN, _BLUE, _YELLOW = (220, 40, 40), (40, 170, 60), (45, 80, 225), (240, 200, 30)
_PAINT = {"red": _RED, "green": _GREEN, "blue": _BLUE, "yellow": _YELLOW}


def _look(image: Image.Image) -> list[Object]:
    """What is to be seen by the pixels alone: colour by the nearest paint, shape by how its box is filled."""
    pixels = np.asarray(image).astype(int)
    height, width, _ = pixels.shape
    found = []
    for row in range(3):
        for column in range(3):
            cell = pixels[row * height // 3 : (row + 1) * height // 3, column * width // 3 : (column + 1) * width // 3]
            distance = np.stack([np.abs(cell - np.array(p)).sum(-1) for p in _PAINT.values()])
            inside = distance.min(0) < 12
            if not inside.any():
                continue
            colour = list(_PAINT)[int(np.argmin(distance.min((1, 2))))]
            ys, xs = np.nonzero(inside)
            box = inside[ys.min() : ys.max() + 1, xs.min() : xs.max() + 1]
            found.append(Object(row, column, _shape(box), colour))
    return found


def _shape(box: np.ndarray) -> str:
    """A cross leaves its corners empty and fills little; a triangle widens downwards; a square fills all."""
    if box.mean() > 0.93:
        return "square"
    h = len(box)
    if box[: h // 4].sum() < 0.5 * box[-(h // 4) :].sum():
        return "triangle"
    return "circle" if box.mean() > 0.65 else "cross"


def _answer(text: str, seen: list[list[Object]]) -> str:
    """The right answer, worked out afresh from what was seen."""
    first = seen[0]
    if "\nOptions:\n" in text:
        question, _, rest = text.partition("\nOptions:\n")
        options = {word: letter for letter, word in re.findall(r"^([A-D])\. (\w+)$", rest, flags=re.M)}
        assert len(options) == 4
        return options[_answer(question, seen)]
    if m := re.fullmatch(r"Is there a (\w+) (\w+)\?", text):
        return "yes" if any((o.colour, o.shape) == m.groups() for o in first) else "no"
    if m := re.fullmatch(r"What colour is the (\w+)\?", text):
        (only,) = [o for o in first if o.shape == m[1]]
        return only.colour
    if m := re.fullmatch(r"What shape is the (\w+) object\?", text):
        (only,) = [o for o in first if o.colour == m[1]]
        return only.shape
    if m := re.fullmatch(r"How many (\w+) objects are there\?", text):
        return str(sum(o.colour == m[1] for o in first))
    if m := re.fullmatch(r"How many (\w+) are there\?", text):
        return str(sum(PLURALS[o.shape] == m[1] for o in first))
    if m := re.fullmatch(r"Is the (\w+) (\w+) (left of|right of|above|below) the (\w+) (\w+)\?", text):
        (a,) = [o for o in first if (o.colour, o.shape) == (m[1], m[2])]
        (b,) = [o for o in first if (o.colour, o.shape) == (m[4], m[5])]
        holds = {
            "left of": a.column < b.column,
            "right of": a.column > b.column,
            "above": a.row < b.row,
            "below": a.row > b.row,
        }
        return "yes" if holds[m[3]] else "no"
    second = seen[1]
    if text == "Which picture has more objects?":
        assert len(first) != len(second)
        return "first" if len(first) > len(second) else "second"
    m = re.fullmatch(r"Which picture has a (\w+) (\w+)\?", text)
    assert m, text
    has = [any((o.colour, o.shape) == m.groups() for o in objects) for objects in seen]
    assert sum(has) == 1
    return "first" if has[0] else "second"


@pytest.mark.parametrize("name", ["shapes", "shapes-wide"])
def test_answers_are_right_by_the_pixels(name: str) -> None:
    for question in load(name, n=140, seed=11):
        assert _answer(question.text, [_look(i) for i in question.images]) == question.answer, question


def test_same_seed_same_questions_and_pixels() -> None:
    a, b = load("shapes", n=30, seed=5), load("shapes", n=30, seed=5)
    assert [q.text for q in a] == [q.text for q in b]
    assert [i.tobytes() for q in a for i in q.images] == [i.tobytes() for q in b for i in q.images]
    assert [q.text for q in load("shapes", n=30, seed=6)] != [q.text for q in a]


def test_the_first_question_is_what_it_has_always_been() -> None:
    # Results that cite a seed must stay valid: a change here calls for a new name of the data set.
    question = load("shapes", split="test", n=7, seed=0)[0]
    assert (question.text, question.answer) == FIRST


def test_a_scene_belongs_to_one_split() -> None:
    groups = {s: {q.group for q in load("shapes", split=s, n=300, seed=2)} for s in ("train", "val", "test")}
    assert not groups["train"] & groups["test"]
    assert not groups["train"] & groups["val"]
    assert not groups["val"] & groups["test"]


def test_the_split_is_of_the_scene_whatever_the_order_of_its_objects() -> None:
    rng = np.random.default_rng(0)
    for split in ("train", "val", "test"):
        scene = draw_scene(rng, split)
        assert make_scene(reversed(scene.objects)).split == split == Scene(scene.objects).split


def test_both_pictures_of_a_comparison_are_of_the_split() -> None:
    for question in load("shapes", split="test", n=20, kinds="comparison"):
        assert len(question.images) == 2
        for image in question.images:
            assert make_scene(_look(image)).split == "test"


def test_kinds_and_answers_are_balanced() -> None:
    questions = load("shapes", n=7 * 12, seed=3)
    assert Counter(q.kind for q in questions) == {kind: 12 for kind in KINDS}
    for kind, choices in CHOICES.items():
        counts = Counter(q.answer for q in questions.only(kind))
        assert counts == {answer: 12 // len(choices) for answer in choices}


def test_the_answer_cannot_be_told_from_the_words_of_an_option_list() -> None:
    positions = Counter(q.answer for q in load("shapes", n=200, seed=1, kinds=["choice"]))
    assert positions == {letter: 50 for letter in LETTERS}


def test_negatives_of_existence_are_hard() -> None:
    asked_no = [q for q in load("shapes", n=60, seed=4, kinds=["existence"]) if q.answer == "no"]
    assert len(asked_no) == 30
    for question in asked_no:
        colour, shape = re.fullmatch(r"Is there a (\w+) (\w+)\?", question.text).groups()  # type: ignore[union-attr]
        seen = _look(question.images[0])
        assert colour in {o.colour for o in seen}
        assert shape in {o.shape for o in seen}


def test_questions_share_scenes_and_say_so() -> None:
    questions = load("shapes", n=100, seed=0)
    by_group: dict[str, list[Question]] = {}
    for question in questions:
        by_group.setdefault(question.group, []).append(question)
    assert len(by_group) < 60
    for group in by_group.values():
        assert len({q.images[0].tobytes() for q in group}) == 1
        assert len({q.text for q in group}) == len(group)


def test_sizes_vary() -> None:
    assert {q.images[0].size for q in load("shapes", n=60)} == set(SIZES)
    assert {q.images[0].size for q in load("shapes-wide", n=60)} == set(WIDE_SIZES)


def test_objects_stay_in_their_cells() -> None:
    scene = make_scene([Object(1, 2, "square", "red"), Object(0, 0, "circle", "blue")])
    for jitter in (((-1.0, -1.0), (-1.0, -1.0)), ((1.0, 1.0), (1.0, 1.0)), None):
        pixels = paint(scene, (60, 48), jitter)
        marked = (pixels != 245).any(-1)
        cells = marked.reshape(3, 16, 3, 20).any((1, 3))
        assert cells.tolist() == [[True, False, False], [False, False, True], [False, False, False]]


def test_a_scene_holds_no_two_objects_alike_or_in_one_cell() -> None:
    with pytest.raises(ValueError, match="share a cell, or a colour and a shape"):
        make_scene([Object(0, 0, "circle", "red"), Object(0, 0, "square", "red")])
    with pytest.raises(ValueError, match="share a cell, or a colour and a shape"):
        make_scene([Object(0, 0, "circle", "red"), Object(1, 0, "circle", "red")])


def test_nothing_is_asked_that_the_scene_does_not_settle() -> None:
    twins = make_scene([Object(0, 0, "circle", "red"), Object(0, 2, "circle", "blue")])
    rng = np.random.default_rng(0)
    assert [ask("colour", c, twins, rng) for c in COLOURS] == [None] * 4
    assert {ask("shape", s, twins, rng) for s in SHAPES if s != "circle"} == {None}
    said = {ask("relation", "yes", twins, rng) for _ in range(40)}
    assert said == {
        "Is the red circle left of the blue circle?",
        "Is the blue circle right of the red circle?",
    }
    with pytest.raises(ValueError, match="second scene"):
        ask("comparison", "first", twins, rng)


FIRST = ("Which picture has a red square?", "first")
