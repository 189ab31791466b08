"""The public readings of a letter that fall back on a guess: MMMU's own, lmms-eval's copy of it, and VMCBench's.

Each looks for the options in a form, one form after the other, and takes the option that comes last. Where nothing is
found they draw an option at random; here that is no answer, by the rule :data:`GUESS`.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from lostattn.data.scoring.asked_for import NO_OPTIONS, Options, is_open, options_of
from lostattn.data.scoring.mmmu_open import open_mmmu

GUESS = "guess"
"""The rule under which the public scorer would have drawn an option at random."""
_STRIPPED = ",.!?;:'"  # one mark after the other, as the public code does it: not the same as all at once
_WORDS_OF_A_SENTENCE = 5
Form = tuple[str, Callable[[str, str], bool], str]
"""A form's name, whether a text holds a letter in it, and how the last such place is searched for."""

_BRACKETED: Form = ("(X)", lambda text, x: f"({x})" in text, "({})")
_BRACKETED_OR_STOPPED: Form = ("(X)", lambda text, x: f"({x})" in text or f"{x}. " in text, "({})")
_ALONE: Form = ("X", lambda text, x: f" {x} " in text, " {} ")
_BEFORE_BLANK: Form = ("X", lambda text, x: f"{x} " in text, " {} ")
_BEFORE_STOP: Form = ("X.", lambda text, x: f"{x}." in text, " {} ")


def mmmu_official(said: str, question: Any) -> tuple[str | None, str]:
    """MMMU's evaluation, multiple choice and open."""
    if is_open(question):
        return open_mmmu(said, question)
    return _last_in_form(said, options_of(question), (_BRACKETED, _ALONE))


def mmmu_lmms(said: str, question: Any) -> tuple[str | None, str]:
    """lmms-eval's copy of it, in which a letter at the end of a word counts ("DNA is"); open ones as mended in 2026."""
    if is_open(question):
        return open_mmmu(said, question)
    return _last_in_form(said, options_of(question), (_BRACKETED, _BEFORE_BLANK, _BEFORE_STOP))


def mmmu_lmms_0_7_3(said: str, question: Any) -> tuple[str | None, str]:
    """lmms-eval of June 2025 to 0.7.3, which scores every open question as wrong."""
    return (None, "open is never right in 0.7.3") if is_open(question) else mmmu_lmms(said, question)


def vmcbench_lmms(said: str, question: Any) -> tuple[str | None, str]:
    """VMCBench in lmms-eval."""
    return _last_in_form(said, options_of(question), (_BRACKETED_OR_STOPPED, _ALONE))


def _last_in_form(said: str, options: Options, forms: tuple[Form, ...]) -> tuple[str | None, str]:
    """The option found in the first form that has any; of several the last, by the first form of its kind."""
    if not options.letters:
        return NO_OPTIONS
    for mark in _STRIPPED:
        said = said.strip(mark)
    text = f" {said} "
    for name, holds, place in forms:
        found = [letter for letter in options.letters if holds(text, letter)]
        if found:
            last = max(found, key=lambda letter: text.rfind(place.format(letter)))
            return options.choice(last), name if len(found) == 1 else f"the last {name}"
    if len(text.split()) <= _WORDS_OF_A_SENTENCE:
        return None, GUESS
    low = text.lower()
    named = {letter: own.lower() for letter, own in zip(options.letters, options.texts, strict=True) if own}
    found = [letter for letter, own in named.items() if own in low]
    if not found:
        return None, GUESS
    last = max(found, key=lambda letter: low.rfind(named[letter]))
    return options.choice(last), "option text" if len(found) == 1 else "the last option text"
