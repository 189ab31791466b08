"""The protocol ``strict``: an answer is what a text names, once and for all, of the choices of its question.

Letters are read as letters alone ("A cat" names no option), a denied choice is not named, and where a text names
several choices, or none, nothing is read. There is no guess and no judge.
"""

from __future__ import annotations

import re
from collections import Counter

from lostattn.arguments import checked_call
from lostattn.arguments.known_by import QuestionLike
from lostattn.data.scoring.asked_for import as_letters, options_of
from lostattn.data.scoring.mentions import Mention, affirmed, bare, named, plain
from lostattn.data.scoring.open_answers import open_answer

_ANSWER = re.compile(
    r"\b(?:final\s+|correct\s+|right\s+)?answer\b(?:\s+(?:is|would be|must be|should be))?\s*:?", re.IGNORECASE
)
_NUMBERS = "zero one two three four five six seven eight nine ten eleven twelve".split()
_WORD_BEFORE = r"(?i:option|choice|letter|answer(?:\s+is)?\s*:?)"
_VERB = r"(?:is|was|because|since|as|and|or|nor|but|seems|looks)\b"


@checked_call
def strict(said: str, question: QuestionLike) -> tuple[str | None, str]:
    """The one choice that a text names, and by which rule: ``(choice or None, rule)``.

    Rules: ``"exact"`` (it is the choice, case and stops aside), ``"letter"`` (an option's letter, as a letter),
    ``"option"`` (the text of a lettered option), ``"named"`` (the choice in a sentence), ``"answer is"`` (what stands
    behind these words, where others are named before). Nothing is read by ``"empty"``, ``"nothing named"``,
    ``"denied"`` and ``"several named"``. A question without choices is open: see
    :mod:`lostattn.data.scoring.open_answers`.
    """
    choices = tuple(question.choices)
    if not choices:
        return open_answer(said, question)
    text = plain(said)
    if not bare(text):
        return None, "empty"
    if (found := _exact(said, choices)) is not None:
        return found, "exact"
    if as_letters(choices) is None:
        return _one(text, named(text, _told_apart(choices)), "named")
    lettered = options_of(question)
    letters = dict(zip(lettered.letters, choices, strict=True))
    read, rule = _one(text, _as_letters(text, letters), "letter")
    if rule != "nothing named":
        return read, rule
    options = {option: choice for option, choice in zip(lettered.texts, choices, strict=True) if option}
    found = _exact(said, tuple(options))
    if found is not None:
        return options[found], "option"
    return _one(text, named(text, options), "option")


def _told_apart(choices: tuple[str, ...]) -> dict[str, str]:
    """The choices that differ by more than case, each as its own word: only those can be read in a sentence."""
    alike = Counter(map(bare, choices))
    return {choice: choice for choice in choices if alike[bare(choice)] == 1}


def _exact(said: str, choices: tuple[str, ...]) -> str | None:
    """The choice that a text is, as it is written or else case and stops aside; a number may be written out."""
    if said.strip() in choices:
        return said.strip()
    told = bare(said)
    same = [choice for choice in choices if bare(choice) == told]
    if not same and told in _NUMBERS:
        same = [choice for choice in choices if choice == str(_NUMBERS.index(told))]
    return same[0] if len(same) == 1 else None


def _one(text: str, mentions: list[Mention], rule: str) -> tuple[str | None, str]:
    """The one choice that is named and not denied."""
    kept = affirmed(text, mentions)
    if not kept:
        return None, "denied" if mentions else "nothing named"
    if len({one.choice for one in kept}) == 1:
        return kept[0].choice, rule
    for match in _ANSWER.finditer(text):
        behind = [one for one in kept if one.start >= match.end()]
        if len({one.choice for one in behind}) == 1 and not text[match.end() : behind[0].start].strip(" (["):
            return behind[0].choice, "answer is"
    return None, "several named"


def _as_letters(text: str, letters: dict[str, str]) -> list[Mention]:
    """Where a plain text has a letter that stands as a letter, and not as an article, a pronoun or an initial."""
    large = "".join(letters)
    either = large + large.lower()
    free = r"(?<![\w'+&/.-])"
    end = r"(?![\w'+&/-]|\.\w)"
    words = "".join(letter for letter in large if letter in "AI")
    others = "".join(letter for letter in large if letter not in "AI")
    forms = [
        rf"[(\[]([{either}])[)\]]",  # (b)
        rf"(?:^|(?<=[\s:]))([{either}])[)\]](?!\w)",  # B) red
        rf"^([{either}])\s*[.:](?!\w\.)",  # B. red, b: red
        rf"\b{_WORD_BEFORE}\s+([{either}]){end}(?=\s*(?:[^\w\s]|$|{_VERB}))",  # option b
        rf"\b(?:[Oo]ption|[Cc]hoice|[Ll]etter)\s+([{either}]){end}",
    ]
    if others:
        forms.append(rf"{free}([{others}]){end}")  # It is a B
    if words:  # "A cat", "I see": a letter only where no word follows
        forms.append(rf"{free}([{words}]){end}(?=\s*(?:[^\w\s]|$)|\s+{_VERB})")
    found: dict[int, Mention] = {}
    for form in forms:
        for match in re.finditer(form, text):
            at = match.start(1)
            found.setdefault(at, Mention(letters[match[1].upper()], at, match.end(1)))
    return [found[at] for at in sorted(found)]
