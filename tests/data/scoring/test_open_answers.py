"""Open answers under the strict protocol: what is read of a text, by hand."""

from __future__ import annotations

from types import SimpleNamespace

import pytest

from lostattn.data import scoring
from lostattn.errors import InputError

CASES = [
    ("8.5", "8.5", "8.5"),
    ("8.5", "The answer is 8.5.", "8.5"),
    ("8.5", "8.50 kg", "8.5"),
    ("8.5", "-8.5", "-8.5"),
    ("8.5", "between 8 and 9", None),
    ("8.5", "I add 3 and 5.5. The answer is 8.5", "8.5"),
    ("1250", "1,250 dollars", "1250"),
    ("1250", "1.25e3", "1250"),
    ("2", "two", "2"),
    ("2", "There are two.", "2"),
    ("2", "12", "12"),
    ("24/7", "24/7", "24/7"),
    ("Transformers", "transformers.", "Transformers"),
    ("Transformers", "**Transformers**", "Transformers"),
    ("Transformers", "I think of transformers and of LSTMs", "i think of transformers and of lstms"),
    ("A", "a", "A"),
    ("A", "B and A", "b and a"),
    ("A", "", None),
]


@pytest.mark.parametrize(("gold", "said", "read"), CASES)
def test_open_answers(gold: str, said: str, read: str | None) -> None:
    question = SimpleNamespace(text="?", choices=(), answer=gold)
    assert scoring.read("strict", said, question)[0] == read
    assert scoring.right("strict", said, question) == (read == gold)


def test_what_is_read_does_not_depend_on_what_is_right() -> None:
    for _, said, _ in CASES:
        one = scoring.read("strict", said, SimpleNamespace(text="?", choices=(), answer="something else"))[0]
        for gold, same, read in CASES:
            if same == said and read != gold:
                assert one == read


def test_decimals_that_the_source_counts() -> None:
    question = SimpleNamespace(text="?", choices=(), answer="1.2", facts={"precision": 1.0})
    assert scoring.right("strict", "1.24", question)
    assert not scoring.right("strict", "1.26", question)
    assert not scoring.right("strict", "1.24", SimpleNamespace(text="?", choices=(), answer="1.2"))


def test_several_right_answers() -> None:
    question = SimpleNamespace(text="?", choices=(), answer="$MgS$", answers=("$MgS$", "MgS"))
    for protocol in ("strict", "mmmu-official", "mmmu-lmms"):
        assert scoring.right(protocol, "MgS", question), protocol
        assert not scoring.right(protocol, "NaCl", question), protocol


@pytest.mark.parametrize("precision", ["two", [2], float("nan"), float("inf")])
def test_a_precision_that_is_no_number_is_told(precision) -> None:
    question = SimpleNamespace(text="?", choices=(), answer="1.20", facts={"precision": precision})
    with pytest.raises(InputError, match="the fact precision of a question is .*; expected a number of decimals"):
        scoring.read("strict", "1.2", question)


def test_numbers_of_more_digits_than_are_reckoned_with() -> None:
    question = SimpleNamespace(text="?", choices=(), answer="1e40", facts={"precision": 2})
    assert scoring.read("strict", "It is 1e40 in all", question) == ("1e40", "number")
    assert scoring.read("strict", "It is 2e40 in all", question) == ("2e40", "number")
