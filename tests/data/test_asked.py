"""What a question asks about, and what is right about a changed scene: against literal scenes and against pixels."""

from __future__ import annotations

import dataclasses

import numpy as np
import pytest
from PIL import Image

from lostattn.data import load
from lostattn.data.asked import AskedObject, asked_objects, right_answer
from lostattn.data.asking import CHOICES
from lostattn.data.question import Question
from lostattn.data.scene import Drawn, Object, make_scene
from lostattn.errors import InputError

SQUARE = Object(0, 1, "square", "red")
CIRCLE = Object(1, 0, "circle", "red")
CROSS = Object(2, 2, "cross", "blue")
DRAWN = Drawn(make_scene([SQUARE, CIRCLE, CROSS]), (60, 48), ((1.0, 0.0), (0.0, 0.0), (-1.0, 1.0)))
OTHER = Drawn(make_scene([Object(0, 0, "cross", "green"), CIRCLE]), (60, 48), ((0.0, 0.0), (0.0, 0.0)))


def question(text: str, answer: str, kind: str, *scenes: Drawn) -> Question:
    pictures = tuple(drawn.render() for drawn in scenes)
    return Question(text, text, pictures, answer, CHOICES[kind], kind, "scene", scenes)


@pytest.mark.parametrize(
    ("text", "answer", "kind", "expected"),
    [
        ("What colour is the square?", "red", "colour", [SQUARE]),
        ("What shape is the blue object?", "cross", "shape", [CROSS]),
        ("Is there a red circle?", "yes", "existence", [CIRCLE]),
        ("Is there a blue square?", "no", "existence", []),
        ("How many red objects are there?", "2", "counting", [SQUARE, CIRCLE]),
        ("How many crosses are there?", "1", "counting", [CROSS]),
        ("Is the blue cross left of the red square?", "no", "relation", [CROSS, SQUARE]),
        ("What colour is the cross?\nOptions:\nA. red\nB. blue\nC. green\nD. yellow\nAnswer", "B", "choice", [CROSS]),
    ],
)
def test_the_objects_that_are_asked_about(text, answer, kind, expected) -> None:
    asked = asked_objects(question(text, answer, kind, DRAWN))
    assert [a.object for a in asked] == expected and all(a.image == 0 for a in asked)
    assert right_answer(kind, text, [DRAWN]) == answer


def test_of_two_pictures_the_one_that_shows_it() -> None:
    text = "Which picture has a green cross?"
    asked = asked_objects(question(text, "second", "comparison", DRAWN, OTHER))
    # The cell of the top left corner is 20 by 16 pixels, and an object takes three quarters of it, in its middle.
    assert asked == (AskedObject(1, (2, 2, 17, 14), Object(0, 0, "cross", "green")),)
    assert right_answer("comparison", text, [DRAWN, OTHER]) == "second"
    assert right_answer("comparison", text, [DRAWN, DRAWN]) is None
    assert asked_objects(question("Which picture has more objects?", "first", "comparison", DRAWN, OTHER)) == ()


def test_the_box_holds_the_object_and_nothing_else() -> None:
    assert DRAWN.box(SQUARE) == (25, 2, 40, 14)  # as far right as its cell lets it
    pixels = np.asarray(DRAWN.render()).astype(int)
    bare = np.asarray(DRAWN.without(SQUARE).render()).astype(int)
    ys, xs = np.nonzero((pixels != bare).any(-1))
    # A square leaves a thin rim of its box free.
    assert 25 <= xs.min() <= 26 and 38 <= xs.max() <= 39 and 2 <= ys.min() <= 3 and 12 <= ys.max() <= 13


def test_a_changed_scene_has_another_answer_or_none() -> None:
    blue = DRAWN.recoloured(SQUARE, "blue")
    assert right_answer("colour", "What colour is the square?", [blue]) == "blue"
    assert right_answer("counting", "How many red objects are there?", [blue]) == "1"
    assert right_answer("existence", "Is there a red square?", [blue]) == "no"
    assert right_answer("shape", "What shape is the blue object?", [blue]) is None  # two are blue now
    assert right_answer("colour", "What colour is the square?", [DRAWN.without(SQUARE)]) is None
    lettered = "What colour is the square?\nOptions:\nA. blue\nB. red\nC. green\nD. yellow\nAnswer"
    assert [right_answer("choice", lettered, [d]) for d in (DRAWN, blue)] == ["B", "A"]
    alike = Drawn(make_scene([SQUARE, dataclasses.replace(CROSS, shape="square")]), (60, 48), ((0.0, 0.0),) * 2)
    with pytest.raises(ValueError, match="two objects of a scene"):
        alike.recoloured(SQUARE, "blue")


def test_every_generated_question_is_right_about_its_own_scenes() -> None:
    for q in load("shapes-wide", n=70, seed=4):
        assert right_answer(q.kind, q.text, q.scenes) == q.answer
        assert [d.render().tobytes() for d in q.scenes] == [p.tobytes() for p in q.images]


def test_other_questions_say_that_they_cannot_be_read() -> None:
    own = Question("mine", "What colour is the car?", (Image.new("RGB", (8, 8)),), "red", ("red",), "colour", "1")
    with pytest.raises(InputError, match="'mine' does not say what its pictures show.*corrupt\\(question, 'cover'"):
        asked_objects(own)
