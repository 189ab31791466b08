"""What a protocol must know of a question: its lettered options, its right answers, and whether it is open."""

from __future__ import annotations

import ast
import re
import string
from collections.abc import Mapping
from typing import Any, NamedTuple

from lostattn.arguments import checked_call
from lostattn.arguments.known_by import QuestionLike
from lostattn.errors import InputError

_LINE = re.compile(r"^\s*\(?([A-Za-z])[.):]\s*(\S.*?)\s*$", re.MULTILINE)
NO_OPTIONS = (None, "no options")
"""What is read where a letter is asked for and nothing can be chosen."""


class Options(NamedTuple):
    """The options of a question: each one's letter, its text ("" where it is not known), and the choice that it is."""

    letters: tuple[str, ...]
    texts: tuple[str, ...]
    choices: tuple[str, ...]

    def choice(self, letter: str) -> str:
        """The choice that stands at a letter."""
        return self.choices[self.letters.index(letter)]


def fact(question: Any, name: str) -> Any:
    """What a question's source says of it: an attribute, or one of its ``facts``; None where it says nothing."""
    found = getattr(question, name, None)
    facts = getattr(question, "facts", None)
    return facts.get(name) if found is None and isinstance(facts, Mapping) else found


@checked_call
def right_answers(question: QuestionLike) -> tuple[str, ...]:
    """Every right answer."""
    told = tuple(getattr(question, "answers", ()) or ()) or (getattr(question, "answer", ""),)
    return tuple(map(str, told))


def listed(answer: str) -> tuple[str, ...]:
    """The texts of a list that is written as Python writes it; none where it is no such list."""
    if not answer.strip().startswith("["):
        return ()
    try:
        value = ast.literal_eval(answer.strip())
        return tuple(map(str, value)) if isinstance(value, list) else ()
    except (SyntaxError, ValueError, TypeError, MemoryError, RecursionError):  # also a number too long to be written
        return ()


def is_open(question: Any) -> bool:
    """Whether a question has nothing to choose from: no choices, or none but its right answers."""
    stated = fact(question, "question_type")
    if stated is not None:
        return stated in ("open", "free_form")
    choices = set(map(str, getattr(question, "choices", None) or ()))
    return choices <= set(right_answers(question)) if choices else not _told(question)


def options_of(question: Any) -> Options:
    """The options of a question: choices that are letters, with the texts that stand there; or choices by position.

    Raises:
        InputError: more of them than there are letters.
    """
    told = _told(question)
    choices = tuple(map(str, getattr(question, "choices", None) or told or ()))
    letters = as_letters(choices)
    if letters is None:
        return Options(letters_of(len(choices), "the question"), choices, choices)
    stated = told or {
        letter.upper(): text for letter, text in _LINE.findall(str(getattr(question, "text", None) or ""))
    }
    return Options(letters, tuple(stated.get(letter, "") for letter in letters), choices)


def as_letters(choices: tuple[str, ...]) -> tuple[str, ...] | None:
    """The letters that choices are; None where one of them is none, or two are the same."""
    found = [re.fullmatch(r"\W*([A-Za-z])\W*", choice) for choice in choices]
    letters = tuple(match[1].upper() for match in found if match)
    return letters if choices and len(set(letters)) == len(choices) else None


def letters_of(n: int, where: str) -> tuple[str, ...]:
    """The letters of so many options.

    Raises:
        InputError: there are more of them than letters; `where` says whose.
    """
    if n > len(string.ascii_uppercase):
        raise InputError(
            f"{where} has {n} options, and letters stand for {len(string.ascii_uppercase)} at most; give fewer, or "
            "read its answers by their texts (the protocol 'strict')."
        )
    return tuple(string.ascii_uppercase[:n])


def _told(question: Any) -> dict[str, str]:
    """``{letter: text}`` of the options that a question carries beside its text."""
    own = getattr(question, "options", None) or ()
    if isinstance(own, Mapping):
        return {str(letter): str(text) for letter, text in own.items()}
    return dict(zip(letters_of(len(own), "the question"), map(str, own), strict=True))
