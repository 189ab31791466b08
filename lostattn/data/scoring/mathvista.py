"""MathVista's own scoring, as far as it goes without a language model that extracts the answer.

The text is taken for what was extracted: what a model says in one letter, option or number is just that, and what an
extractor of one's own found can be read as well. Any other text of multiple choice goes to the option of least edit
distance, which is free credit for nonsense: the rule ``"nearest option"`` tells how often that was.
"""

from __future__ import annotations

import re
from typing import Any

from lostattn.data.scoring.asked_for import NO_OPTIONS, fact, is_open, options_of

_QUOTED = re.compile(r'The answer is "(.*)"\.')


def mathvista_official(said: str, question: Any) -> tuple[str | None, str]:
    """The published rules with their guard: an empty text is no answer."""
    return _normalised(said, question, guarded=True)


def mathvista_official_unguarded(said: str, question: Any) -> tuple[str | None, str]:
    """The same without the guard: of multiple choice, an empty text is the option of the shortest text."""
    return _normalised(said, question, guarded=False)


def _normalised(said: str, question: Any, guarded: bool) -> tuple[str | None, str]:
    quoted = _QUOTED.search(said)
    text = quoted[1] if quoted else said
    if guarded and not text.strip():
        return None, "empty"
    if not is_open(question):
        return _option(text.strip(), question)
    kind, precision = fact(question, "answer_type"), fact(question, "precision")
    try:
        if kind == "integer":
            return str(int(float(text))), "integer"
        if kind == "float":
            return str(round(float(text), int(precision))), "float"
    except (ValueError, OverflowError, TypeError):
        return None, f"no {kind}: needs an extractor"
    return text, "as it stands"


def _option(text: str, question: Any) -> tuple[str | None, str]:
    options = options_of(question)
    if not options.letters:
        return NO_OPTIONS
    bracketed = re.search(r"\(([a-zA-Z])\)", text)
    letter = bracketed[1].upper() if bracketed else text
    if letter in options.letters:
        return options.choice(letter), "letter"
    distances = [edit_distance(letter, option) for option in options.texts]
    nearest = options.choices[distances.index(min(distances))]
    return nearest, "option text" if min(distances) == 0 else "nearest option"


def edit_distance(a: str, b: str) -> int:
    """How many characters must be put in, taken out or changed to make one text of another (Levenshtein)."""
    row = list(range(len(b) + 1))
    for i, x in enumerate(a, start=1):
        previous, row = row, [i]
        for j, y in enumerate(b, start=1):
            row.append(min(previous[j] + 1, row[j - 1] + 1, previous[j - 1] + (x != y)))
    return row[-1]
