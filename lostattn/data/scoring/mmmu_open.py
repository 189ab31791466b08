"""MMMU's reading of open answers: lenient, by what the text offers in its decisive places."""

from __future__ import annotations

import re
from typing import Any

from lostattn.data.scoring.asked_for import listed, right_answers

_BEFORE_KEY = ("could be ", "so ", "is ", "thus ", "therefore ", "final ", "answer ", "result ")
_TRIVIAL = set(":,.!?;'")
_NUMBERS = (
    re.compile(r"-?\b\d{1,3}(?:,\d{3})+\b"),  # 1,250
    re.compile(r"-?\d+(?:\.\d+)?[eE][+-]?\d+"),  # 1e3
    re.compile(r"-?(?:\d+\.\d+|\.\d+|\d+\b)(?![eE][+-]?\d+)(?![,\d])"),  # 8.5, .5, 8
)
Candidate = str | float


def open_candidates(said: str) -> tuple[Candidate, ...]:
    """What a text offers as an answer, each once: pieces of it in small letters, and numbers rounded to two places."""
    pieces = _key_pieces(said)
    numbers = [number for piece in pieces for form in _NUMBERS for number in form.findall(piece)]
    return tuple(dict.fromkeys(form for one in (*pieces, *numbers) for form in _forms(one)))


def open_mmmu(said: str, question: Any) -> tuple[str | None, str]:
    """The right answer that the text offers, by inclusion or as a number; else what it offers, which is wrong.

    An answer that is written as a list of Python is right by any of its members.
    """
    offered = open_candidates(said)
    for answer in right_answers(question):
        for form in (form for one in listed(answer) or (answer,) for form in _forms(one)):
            if isinstance(form, float) and form in [one for one in offered if isinstance(one, float)]:
                return answer, "number"
            if isinstance(form, str) and any(form in one for one in offered if isinstance(one, str)):
                return answer, "text within"
    told = [str(one) for one in offered if str(one).strip()]
    return (told[0], "other") if told else (None, "empty")


def _key_pieces(said: str) -> list[str]:
    """The shortest tail of each line behind a word that announces an answer; the whole text where none has one."""
    whole = said.strip().strip(".").lower()
    lines = whole.split("\n")
    pieces = []
    for i, line in enumerate(lines):
        marks = (*_BEFORE_KEY, "=") if i == len(lines) - 1 else _BEFORE_KEY
        shortest = ""
        for mark in (mark for mark in marks if mark in line):
            tail = line.split(mark)[-1].strip()
            if not shortest or len(tail) < len(shortest):
                shortest = tail
        if shortest and shortest not in _TRIVIAL:
            pieces.append(shortest)
    return pieces or [whole]


def _forms(text: str) -> list[Candidate]:
    """How an answer is compared: a number rounded to two places, a text in small letters, a sign with a blank."""
    text = text.strip()
    try:
        return [round(float(text.replace(",", "")), 2)]
    except ValueError:
        low = text.lower()
        return [f" {low}", f"{low} "] if len(low) == 1 else [low]
