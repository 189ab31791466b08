"""How VLMEvalKit reads multiple choice without a judge: one letter near the end, or the text of one option."""

from __future__ import annotations

import re
from typing import Any

from lostattn.data.scoring.asked_for import NO_OPTIONS, Options, options_of

_MARKS = str.maketrans({mark: " " for mark in ".()[],:;!*#{}"})
_NEAR_THE_END = 5
# Pieces of the refusals that it knows, and its mark of a failed request.
_REFUSED = (
    "help with images of people yet",
    "can't process this file.",
    "sorry, but without the image provided",
    "Cannot determine the answer",
)
_FAILED = "Failed to obtain answer via API"
_ANSWER_IS = re.compile(r"(?:correct\s+)?answer\s+is\s+\**([ABCD])\**", re.IGNORECASE)


def vlmevalkit_choice(said: str, question: Any) -> tuple[str | None, str]:
    """Its ``can_infer``; what it would ask a judge about, or count as refused, is unread."""
    options = options_of(question)
    if not options.letters:
        return NO_OPTIONS
    letter, rule = _letter(said, options)
    if letter is None and rule != "refused":
        letter, rule = _text(said, options)
    return (None, rule) if letter is None else (options.choice(letter), rule)


def _letter(said: str, options: Options) -> tuple[str | None, str]:
    if _FAILED in said:
        return None, "no answer"
    if any(piece in said for piece in _REFUSED):
        return None, "refused"
    words = said.translate(_MARKS).split()
    found = [letter for letter in options.letters if letter in words]
    if len(found) == 1 and words.index(found[0]) > len(words) - _NEAR_THE_END:
        return found[0], "letter"
    if not found and "Z" in words:
        return None, "refused"
    match = _ANSWER_IS.search(said)
    if match and match[1].upper() in options.letters:
        return match[1].upper(), "answer is"
    return None, "several letters" if len(found) > 1 else "no letter"


def _text(said: str, options: Options) -> tuple[str | None, str]:
    """The one option whose text the answer holds, unless it is more than twice as long as all options together."""
    if len(said) > 2 * sum(map(len, options.texts)):
        return None, "too long for option texts"
    found = [
        letter
        for letter, text in zip(options.letters, options.texts, strict=True)
        if text and text.lower() in said.lower()
    ]
    if len(found) == 1:
        return found[0], "option text"
    return None, "several option texts" if found else "nothing found"
