"""Answers read off sentences: by hand, what each names, and what names nothing or too much."""

from __future__ import annotations

from types import SimpleNamespace

import pytest

from lostattn import data
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
