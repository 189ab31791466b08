"""The protocol ``strict`` for questions without choices: the number or the words that a text gives as its answer.

What is read does not depend on what is right; only its spelling is the right answer's, where the two are the same.
"""

from __future__ import annotations

import re
import reprlib
from decimal import Decimal, InvalidOperation
from typing import Any

from lostattn.data.scoring.asked_for import fact, right_answers
from lostattn.data.scoring.mentions import bare, plain
from lostattn.errors import InputError

_ANSWER = re.compile(r"\banswer\b(?:\s+(?:is|would be|must be|should be)\b)?\s*[:=]?\s*", re.IGNORECASE)
_NUMBER = re.compile(
    r"(?<![\w.])[-−+]?(?:\d{1,3}(?:,\d{3})+(?:\.\d+)?|\d+(?:\.\d+)?|\.\d+)(?:[eE][-+]?\d+)?(?![\w]|\.\d)"
)
_WORDS = {
    word: str(n) for n, word in enumerate("zero one two three four five six seven eight nine ten eleven twelve".split())
}


def open_answer(said: str, question: Any) -> tuple[str | None, str]:
    """What a text gives as the answer to an open question, and by which rule.

    ``"exact"`` (it is a right answer, case and stops aside), ``"number"`` (the one number of the text, or of what
    stands behind "answer is"), ``"text"`` (the words). Nothing is read by ``"empty"`` and ``"several numbers"``.
    """
    text = plain(said)
    if not bare(text):
        return None, "empty"
    parts = _ANSWER.split(text)
    given = [text] if not bare(parts[-1]) or len(parts) == 1 else [text, parts[-1]]
    for part in given:
        for answer in right_answers(question):
            if bare(part) == bare(answer) or _same_number(bare(part), answer, question):
                return answer, "exact"
    words = bare(given[-1])
    numbers = list(dict.fromkeys(_NUMBER.findall(given[-1]))) or [_WORDS[w] for w in words.split() if w in _WORDS]
    if not numbers:
        return words, "text"
    if len(numbers) > 1:
        return None, "several numbers"
    same = [answer for answer in right_answers(question) if _same_number(numbers[0], answer, question)]
    return (same[0] if same else numbers[0]), "number"


def _same_number(told: str, answer: str, question: Any) -> bool:
    """Whether two texts are one number; one of so many decimals as the question's source counts, where it says so."""
    first, second = _as_number(told), _as_number(answer)
    if first is None or second is None:
        return False
    decimals = _decimals(question)
    if decimals is None:
        return first == second
    try:
        step = Decimal(1).scaleb(-decimals)
        return first.quantize(step) == second.quantize(step)
    except InvalidOperation:  # of more digits than are reckoned with
        return first == second


def _decimals(question: Any) -> int | None:
    """How many decimals count; None where the question's source does not say.

    Raises:
        InputError: it says no number.
    """
    precision = fact(question, "precision")
    try:
        return None if precision is None else int(precision)
    except (TypeError, ValueError, OverflowError) as error:
        raise InputError(
            f"the fact precision of a question is {reprlib.repr(precision)}; expected a number of decimals, such as 2."
        ) from error


def _as_number(text: str) -> Decimal | None:
    text = _WORDS.get(text.strip().lower(), text).replace(",", "").replace("−", "-").strip()
    try:
        value = Decimal(text)
    except InvalidOperation:
        return None
    return value if value.is_finite() else None
