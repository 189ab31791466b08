"""The schema, the sequence of questions, and what `load` refuses."""

from __future__ import annotations

import pytest
from PIL import Image

import lostattn.data as data
from lostattn.data import load
from lostattn.data.question import Question, Questions
from lostattn.errors import InputError, UnknownName


def _question(i: int = 0, **changes: object) -> Question:
    fields: dict[str, object] = dict(
        id=f"q{i}",
        text="Is <b>this</b> it?\nOptions:",
        images=(Image.new("RGB", (5, 7), (i, 0, 0)),),
        answer="yes",
        choices=("yes", "no"),
        kind="existence",
        group="g",
    )
    return Question(**{**fields, **changes})  # type: ignore[arg-type]


def test_a_question_is_a_value() -> None:
    assert _question() == _question()
    assert _question() != _question(answer="no")
    with pytest.raises(AttributeError):
        _question().text = "other"  # type: ignore[misc]
    assert repr(_question()) == ("Question('q0', existence, 'Is <b>this</b> it?\\nOptions:' -> 'yes', images: 5x7)")


def test_an_answer_outside_the_choices_is_refused() -> None:
    with pytest.raises(InputError, match=r"'q0'.*'maybe' is none of the choices \('yes', 'no'\)"):
        _question(answer="maybe")


def test_questions_behave_like_a_sequence() -> None:
    questions = Questions((_question(i) for i in range(5)), "mine")
    assert len(questions) == 5
    assert questions[3].id == "q3" and questions[-1].id == "q4"
    assert isinstance(questions[1:3], Questions)
    assert [q.id for q in questions[1:3]] == ["q1", "q2"]
    assert questions[1:3].name == "mine"
    assert _question(2) in questions
    assert repr(questions) == "Questions(5 of mine; existence: 5)"
    with pytest.raises(IndexError):
        questions[5]


def test_only_keeps_a_kind_and_names_what_there_is() -> None:
    questions = Questions([_question(0), _question(1, kind="colour"), _question(2)])
    assert questions.kinds == ("existence", "colour")
    assert [q.id for q in questions.only("existence")] == ["q0", "q2"]
    assert [q.id for q in questions.only("colour", "existence")] == ["q0", "q1", "q2"]
    with pytest.raises(InputError, match="no question of kind 'color'.*existence, colour.*Did you mean 'colour'"):
        questions.only("color")


def test_ids_are_unique_and_strangers_refused() -> None:
    with pytest.raises(InputError, match="'q1' comes 2 times"):
        Questions([_question(1), _question(1)])
    with pytest.raises(InputError, match="got str"):
        Questions(iter(["Is it?"]))  # type: ignore[arg-type]


def test_the_page_shows_pictures_and_escapes_text() -> None:
    page = Questions([_question()])._repr_html_()
    assert "data:image/png;base64," in page
    assert "Is &lt;b&gt;this&lt;/b&gt; it?<br>Options:" in page
    assert "<b>" not in page
    assert "and 3 more" in Questions(_question(i) for i in range(15))._repr_html_()
    assert "q0" in _question()._repr_html_()


def test_a_wrong_name_brings_the_nearest() -> None:
    with pytest.raises(UnknownName, match="No data set or folder is called 'shaps'.*Did you mean 'shapes'"):
        load("shaps")


@pytest.mark.parametrize(
    ("n", "said"),
    [
        (0, "whole number above 0; got 0"),
        (-3, "whole number above 0; got -3"),
        (True, "n is True; expected a whole number"),
    ],
)
def test_a_bad_number_is_refused(n: int, said: str) -> None:
    with pytest.raises(InputError, match=said):
        load("shapes", n=n)


def test_bad_split_seed_and_kinds_are_refused() -> None:
    with pytest.raises(InputError, match="no split 'tset'; there are train, val, test. Did you mean 'test'"):
        load("shapes", split="tset")
    with pytest.raises(InputError, match="seed is a whole number, 0 or above; got -1"):
        load("shapes", seed=-1)
    with pytest.raises(InputError, match="kinds is empty"):
        load("shapes", kinds=[])
    with pytest.raises(InputError, match="no questions of kind 'count'.*Did you mean 'counting'"):
        load("shapes", kinds=["count"])


def test_a_source_can_be_registered_once(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(data, "_SOURCES", dict(data._SOURCES))
    seen = {}

    def source(split: str, n: int, seed: int, kinds: object) -> Questions:
        seen.update(split=split, n=n, seed=seed, kinds=kinds)
        return Questions(_question(i) for i in range(n))

    data.register("mine", source, ["existence", "colour"])
    assert len(load("mine", split="val", n=3, seed=9, kinds="existence")) == 3
    assert seen == {"split": "val", "n": 3, "seed": 9, "kinds": ("existence",)}
    assert data.names()[:3] == ("shapes", "shapes-wide", "mine")
    with pytest.raises(InputError, match="'mine' is registered already"):
        data.register("mine", source, ["existence"])
