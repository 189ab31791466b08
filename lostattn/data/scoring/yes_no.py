"""The public readings of yes and no: of POPE's authors, of lmms-eval, and of VLMEvalKit (for HallusionBench too)."""

from __future__ import annotations

import re
from typing import Any

_DENYING = {"No", "no", "not"}
_MARKS = ';/[]"{}()=+\\_-><@`,?!'
_STOPS_REMOVED = 32  # VLMEvalKit takes out this many full stops and leaves the others


def pope_official(said: str, question: Any) -> tuple[str | None, str]:
    """POPE's ``evaluate.py``: no where one of three words stands before the first full stop, else yes.

    "NO" and an empty text are a yes, whatever they mean; "Yes, not only one" is a no.
    """
    words = said.split(".")[0].replace(",", "").split(" ")
    denied = sorted(_DENYING & set(words))
    return (_own("no", question), f"says {denied[0]!r}") if denied else (_own("yes", question), "does not say no")


def pope_lmms(said: str, question: Any) -> tuple[str | None, str]:
    """lmms-eval 0.7: the bare word, case and blanks aside; "Yes." is neither yes nor no."""
    word = said.lower().strip()
    return (_own(word, question), "exact") if word in ("yes", "no") else (None, "not the bare word")


def yes_or_no_vlmevalkit(said: str, question: Any) -> tuple[str | None, str]:
    """VLMEvalKit: the text holds the word yes, or the word no, and not both; what it asks a judge about is unread."""
    words = set(_without_marks(said.lower()).split())
    found = [word for word in ("yes", "no") if word in words]
    if len(found) == 1:
        return _own(found[0], question), f"says {found[0]!r}"
    return None, "says both" if found else "says neither"


def _without_marks(text: str) -> str:
    """A text without punctuation, which goes where it stands at a blank and else becomes one.

    Where some number has a comma, every mark goes.
    """
    number = re.search(r"\d,\d", text) is not None
    bare = text
    for mark in _MARKS:
        at_blank = f"{mark} " in text or f" {mark}" in text
        bare = bare.replace(mark, "" if at_blank or number else " ")
    return re.sub(r"\.(?!\d)", "", bare, count=_STOPS_REMOVED)


def _own(word: str, question: Any) -> str:
    """Yes or no as the question's choices spell it."""
    choices = getattr(question, "choices", None) or ()
    return next((choice for choice in choices if str(choice).strip().lower() == word), word)
