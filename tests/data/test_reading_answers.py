"""Answers read off sentences: by hand, what each names, and what names nothing or too much."""

from __future__ import annotations

from types import SimpleNamespace

import pytest

from lostattn import data
from lostattn.data.scoring.asked_for import listed
from lostattn.errors import InputError, UnknownName

LETTERED = SimpleNamespace(
    choices=("A", "B", "C", "D"),
    text="What colour is it?\nOptions:\nA. red apple\nB. blue\nC. DNA strand\nD. 12 kg\nAnswer with the letter only.",
)
COLOURS = SimpleNamespace(choices=("red", "dark red", "blue"), text="What colour is it?")
NUMBERS = SimpleNamespace(choices=("1", "10", "2"), text="How many?")
YES_NO = SimpleNamespace(choices=("yes", "no"), text="Is there a dog?")

CASES = [
    (
        LETTERED,
        {
            "B": "B",
            "b": "B",
            "b.": "B",
            "(b)": "B",
            "B)": "B",
            "**B**": "B",
            "B) blue": "B",
            "B: blue": "B",
            "B. blue": "B",
            "[B]": "B",
            "Answer: B": "B",
            "answer: b": "B",
            "The answer is B.": "B",
            "option B": "B",
            "Option b is right": "B",
            "It is a B": "B",
            "This shows a cat, so B": "B",
            "I choose A.": "A",
            "A is correct": "A",
            "C\n": "C",
            "  D ": "D",
            "Ｂ": "B",
            "\\boxed{C}": "C",
            "The correct answer is (D) 12 kg": "D",
            "B, not A": "B",
            "C, not A": "C",
            "A is wrong, so D": "D",
            "A red one is wrong, so D": "D",
            "A man is holding D": "D",
            "blue": "B",
            "It is blue.": "B",
            "A is a cat and B a dog. The answer is B": "B",
            "The DNA strand is clearly the correct one here": "C",
            "I would choose 12 kg as the final answer": "D",
            "B because A isn't there": "B",
            "The answer is a": "A",
            "A cat": None,
            "a cat is there": None,
            "A": "A",
            "a": "A",
            "I see a cat": None,
            "The answer is a cat": None,
            "neither A nor B": None,
            "A or B": None,
            "A and B": None,
            "not B": None,
            "It isn't B": None,
            "A, B": None,
            "A/B": None,
            "(A) and (B), finally (A)": None,
            "E": None,
            "DNA": None,
            "None of these": None,
            "": None,
            " .": None,
            "an X-ray, B-52 and D.C.": None,
            "The answer is A or B": None,
            "not A or B": None,
            "C++ and D's": None,
        },
    ),
    (
        COLOURS,
        {
            "red": "red",
            "Red.": "red",
            "RED!": "red",
            "dark red": "dark red",
            "Dark-red": "dark red",
            "It is dark red.": "dark red",
            "The colour is red": "red",
            "not red": None,
            "It is not red.": None,
            "not red but blue": "blue",
            "It's red, not blue": "red",
            "red or blue": None,
            "reddish": None,
            "red-ish": None,
            "reds": None,
            "neither red nor blue": None,
            "blue. No, red": None,
            "red is not the colour": None,
            "not red or blue": None,
            "**blue**": "blue",
            "“blue”": "blue",
            "It isn't blue": None,
            "green": None,
            "red and dark red": None,
            "It is red. Answer: blue": "blue",
            "_red_": "red",
        },
    ),
    (
        NUMBERS,
        {
            "10": "10",
            "1": "1",
            "There are 10.": "10",
            "1.": "1",
            "1.5": None,
            "-1": None,
            "11": None,
            "two": "2",
            "Two.": "2",
            "1 or 2": None,
            "10 or 1": None,
            "1,000": None,
            "no one": None,
            "２": "2",
        },
    ),
    (
        YES_NO,
        {
            "Yes, there is.": "yes",
            "No.": "no",
            "NO": "no",
            "No, there is no dog.": "no",
            "There is no dog": "no",
            "Yes, not only one": "yes",
            "Yes, there is no doubt": "yes",
            "I have no idea": None,
            "yes and no": None,
            "no, it is yes": None,
            "There is not a dog.": None,
            "I cannot say yes or no": None,
            "nothing": None,
            "yesterday": None,
            "The answer is no.": "no",
            "Answer: No": "no",
            "not yes": None,
            "It is not yes": None,
            "Yes\n": "yes",
            "know": None,
        },
    ),
]


@pytest.mark.parametrize(("question", "said", "answer"), [(q, s, a) for q, own in CASES for s, a in own.items()])
def test_a_text_is_read_as_what_it_names(question, said, answer) -> None:
    found, rule = data.scoring.read("strict", said, question)
    assert found == answer, rule
    assert rule in (
        ("exact", "letter", "option", "named", "answer is")
        if answer
        else ("empty", "nothing named", "denied", "several named")
    )


def test_choices_that_differ_by_case_alone_are_told_apart_as_they_are_written() -> None:
    question = SimpleNamespace(choices=("Polish", "polish"), text="")
    assert data.scoring.read("strict", "polish", question) == ("polish", "exact")
    assert data.scoring.read("strict", "POLISH", question)[0] is None


def test_what_cannot_be_read_by_a_protocol_is_refused() -> None:
    with pytest.raises(UnknownName, match="no protocol of scoring is called 'strickt'.*strict"):
        data.scoring.read("strickt", "yes", YES_NO)
    with pytest.raises(InputError, match="what was said is NoneType; expected a text"):
        data.scoring.read("strict", None, YES_NO)


def test_options_that_a_question_carries_are_read_as_those_in_its_text() -> None:
    question = SimpleNamespace(text="Which?", choices=("A", "B"), options=("red", "blue"), answer="A")
    for protocol in ("strict", "vlmevalkit-choice"):
        assert data.scoring.read(protocol, "red", question)[0] == "A"
    assert data.scoring.read("strict", "It is blue.", question) == ("B", "option")
    assert data.scoring.read("strict", "green", question) == (None, "nothing named")


LETTERS_ASKED_FOR = (
    "mmmu-official", "mmmu-lmms", "vmcbench-lmms", "3dsrbench-lmms", "vlmevalkit-choice", "mathvista-official",
    "mathvista-official-unguarded",
)  # fmt: skip


@pytest.mark.parametrize("protocol", LETTERS_ASKED_FOR)
def test_more_options_than_letters_and_none(protocol) -> None:
    many = tuple(f"value {i}" for i in range(27))
    for told in ({"choices": many}, {"choices": (), "options": many}):
        question = SimpleNamespace(**{"text": "?", "answer": many[0], "facts": {}, **told})
        with pytest.raises(InputError, match="has 27 options, and letters stand for 26 at most"):
            data.scoring.read(protocol, "value 26", question)
    last = SimpleNamespace(text="?", answer=many[0], choices=many[:26])
    assert data.scoring.read(protocol, "Z", last)[0] == (None if protocol == "3dsrbench-lmms" else "value 25")
    none = SimpleNamespace(text="?", answer="x", choices=(), facts={"question_type": "multi_choice"})
    assert data.scoring.read(protocol, "x", none) == (None, "no options")
    assert data.scoring.credit(protocol, "x", none, guesses=True) == 0.0


def test_words_are_read_of_however_many_choices() -> None:
    many = SimpleNamespace(text="?", answer="value 3", choices=tuple(f"value {i}" for i in range(27)))
    assert data.scoring.read("strict", "It is value 26.", many) == ("value 26", "named")


@pytest.mark.parametrize("text", ["[{[]: 1}]", "[{{}}]", "[0x" + "f" * 5000 + "]", "[" * 500, "[1", "[\x00]", "x"])
def test_what_python_cannot_read_is_no_list(text) -> None:
    assert listed(text) == ()
    assert listed("['a', 2]") == ("a", "2")
