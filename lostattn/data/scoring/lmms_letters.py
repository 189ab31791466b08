"""How lmms-eval 0.7 reads a letter of RealWorldQA and of 3DSRBench: by forms in an order of trust, with no guess."""

from __future__ import annotations

import re
from collections.abc import Iterator
from typing import Any

from lostattn.data.scoring.asked_for import NO_OPTIONS, Options, as_letters, options_of, right_answers

_STRIPPED = ",.!?;:'\""
_BY_TRUST = (
    "letter anywhere",
    "X and a blank",
    "X)",
    "X:",
    "X.",
    "(X)",
    "behind a phrase",
    "at the end",
    "at the start",
)
_MARKED = {"(X)": "({})", "X.": "{}.", "X:": "{}:", "X)": "{})", "X and a blank": "{} "}
_LEADS = {
    "answer": ("", "the ", "correct ", "the correct ", "best ", "the best ", "my "),
    "option": ("correct ", "the correct ", "best ", "the best "),
    "choice": ("", "the ", "correct ", "the correct ", "my "),
}
_PHRASES = (
    *(f"{lead}{noun} is" for noun, leads in _LEADS.items() for lead in leads),
    *(f"i {verb}" for verb in ("choose", "select", "pick")),
    *("옵션", "정답은", "답은", "답:", "答案是", "答案为", "选", "答えは"),
)
_FOUR = ("A", "B", "C", "D")
_LETTER_OF_3DSR = (
    ("at the start", r"^([A-D])[.\s)]"),
    ("the letter", r"^([A-D])$"),
    ("behind answer", r"[Aa]nswer[:\s]+([A-D])"),
    ("behind answer is", r"(?:[Tt]he|[Mm]y) answer is[:\s]+([A-D])"),
    ("(X)", r"\(([A-D])\)"),
    ("X.", r"([A-D])\."),
    ("free-standing", r"\b([A-D])\b"),
)


def realworldqa_lmms(said: str, question: Any) -> tuple[str | None, str]:
    """RealWorldQA since April 2026: a letter where letters are asked for, else the text itself, case and stop aside."""
    choices = tuple(map(str, getattr(question, "choices", None) or ()))
    right = right_answers(question)
    if as_letters(choices) is not None or (not choices and right[0] in _FOUR):
        return _most_trusted(said, options_of(question) if choices else Options(_FOUR, ("",) * 4, _FOUR))
    told = said.lower().strip().rstrip(".")
    if not told:
        return None, "empty"
    same = [one for one in (*right, *choices) if one.lower().strip() == told]
    return (same[0], "exact") if same else (told, "other")


def threedsr_lmms(said: str, question: Any) -> tuple[str | None, str]:
    """3DSRBench: the first of seven forms that the text has anywhere; a letter A to D, even one that is an article."""
    options = options_of(question)
    if not options.letters:
        return NO_OPTIONS
    for rule, form in _LETTER_OF_3DSR:
        if match := re.search(form, said.strip()):
            offered = match[1] in options.letters
            return (options.choice(match[1]), rule) if offered else (None, "outside the options")
    return None, "nothing found"


def _most_trusted(said: str, options: Options) -> tuple[str | None, str]:
    """The letter in the form of most trust; of several in it the last."""
    text = said.strip()
    for mark in _STRIPPED:
        text = text.strip(mark)
    found = list(_places(f" {text} ", options.letters))
    if not found:
        return None, "nothing found"
    rule, _, letter = max(found, key=lambda one: (_BY_TRUST.index(one[0]), one[1]))
    return options.choice(letter), rule


def _places(text: str, letters: tuple[str, ...]) -> Iterator[tuple[str, int, str]]:
    """``(form, place, letter)`` of what a padded text holds; letters anywhere where there is nothing else."""
    inner, low = text.strip(), text.lower()
    found = [
        (rule, text.rfind(form.format(x)), x)
        for rule, form in _MARKED.items()
        for x in letters
        if form.format(x) in text
    ]
    for phrase in _PHRASES:
        if (start := low.find(phrase)) != -1:
            behind = [(text.find(x, start + len(phrase)), x) for x in letters]
            found += [("behind a phrase", place, x) for place, x in behind if place != -1]
    for x in letters:
        if inner.startswith(x) and not inner[1:2].isalpha():
            found.append(("at the start", 0, x))
        if inner.endswith(x) and not inner[-2:-1].isalpha():
            found.append(("at the end", len(text) - 1, x))
    yield from found or [("letter anywhere", text.rfind(x), x) for x in letters if x in text]
