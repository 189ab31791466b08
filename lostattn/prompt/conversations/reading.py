"""The turns of a text that was made elsewhere, or that they cannot be told."""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from typing import Any

from lostattn.prompt.conversations.marks import Mark, Marks, learn_marks
from lostattn.prompt.framing import special_tokens
from lostattn.prompt.rendered import Rendered
from lostattn.prompt.turns import THOUGHT_MARKS, Turn, thoughts


def read_turns(processor: Any, text: str) -> Rendered | None:
    """A text with its turns, read by the marks of the processor's chat template; None where they do not tell it.

    They do not where a mark stands where no such turn can begin: as words of somebody who writes it, or as the
    mark that it is. In that case nobody knows which.

    Args:
        processor: the model's processor, with a chat template.
        text: of a prompt, one placeholder an image.
    """
    marks = learn_marks(processor)
    if marks is None:
        return None
    for loosely in (False, True):
        for start in _starts(marks, text):
            turns = _walked(marks, text, start, loosely)
            if turns is not None:
                asked = [turn for turn in turns if turn.role == "user"]
                if marks.joint is not None and marks.joint.text in _said(text, asked[-1 if marks.joint.last else 0]):
                    return Rendered(text, 0, None, None, False)  # it may be the system's words that it parts
                return turns_rendered(text, start, turns)
    return None


def turns_rendered(text: str, content: int, turns: tuple[Turn, ...]) -> Rendered:
    """A text with its turns, of which the last user's is the question, and the model's behind all others the answer."""
    asked = [turn for turn in turns if turn.role == "user"]
    question = (asked[-1].start, asked[-1].end) if asked else (content, content)
    answer = turns[-1].start if turns and turns[-1].role == "assistant" else None
    return Rendered(text, content, question, answer, False, turns)


def asked_words(processor: Any, rendered: Rendered, marks: Sequence[str]) -> str:
    """The words of the question, without special tokens and the placeholders ``marks``."""
    said = rendered.text[slice(*(rendered.question or (0, 0)))]
    for mark in filter(None, (*marks, *special_tokens(processor))):
        said = said.replace(mark, "")
    return said.strip()


def _starts(marks: Marks, text: str) -> Iterator[int]:
    """Where the first user's words may begin."""
    for opening in sorted(marks.openings, key=len, reverse=True):
        if opening.strip() and text.startswith(opening):
            yield len(opening)
    if marks.first.strip():
        found = Mark("", "user", marks.first)
        match = found.pattern(closing=found.white).search(text)
        # Behind an answer it opens a later turn: then what opens the first one is another.
        if match is not None and not _is_answered(marks, text[: match.start()]):
            yield match.end()


def holds_turns(processor: Any, text: str) -> bool:
    """Whether a mark of a turn stands in what comes before a prompt's last turn, as far as the template has any."""
    marks = learn_marks(processor)
    if marks is None:
        return False
    opens = marks.first.strip() and Mark("", "user", marks.first).pattern().search(text)
    return bool(opens) or _is_answered(marks, text)


def turn_content(processor: Any, text: str, first: int) -> int:
    """Where the content of the first turn begins, of which the first picture or word is at `first`."""
    marks = learn_marks(processor)
    found = [start for start in _starts(marks, text) if start <= first] if marks is not None else []
    begins = max(found, default=first)
    return begins if _closed(text[begins:first].strip(), list(marks.specials if marks else ())) == "" else first


def _is_answered(marks: Marks, text: str) -> bool:
    """Whether what opens an answer stands in a text, whether or not the turn before it is closed, or what ends one."""
    others = "".join([*marks.openings, *(mark.text for mark in marks.between if mark.before != "assistant")])
    ends = {marks.leading(mark) for mark in marks.between if mark.before == "assistant"} - {""}
    if any(end in text and end not in others for end in ends):
        return True
    asks = [mark.pattern(marks.leading(mark)) for mark in marks.between if mark.after == "assistant"]
    return any(mark.search(text) for mark in asks)


def _said(text: str, turn: Turn) -> str:
    return text[turn.start : turn.end].strip()


def _walked(marks: Marks, text: str, start: int, loosely: bool) -> tuple[Turn, ...] | None:
    """The turns from where the first begins, from mark to mark; None where one stands out of turn."""
    white = next((mark.white for mark in marks.between if mark.after == "assistant"), "")
    patterns = [
        (mark, mark.pattern(marks.leading(mark) if loosely else "", white if mark.after == "assistant" else mark.white))
        for mark in marks.between
    ]
    turns: list[Turn] = []
    role = "user"
    while True:
        found = [(mark, match) for mark, one in patterns if (match := one.search(text, start))]
        # The first; of several that begin with the same the longest, and of these the one that follows this speaker.
        found.sort(key=lambda one: (_begins(one[1]), -len(one[0].text.strip()), one[0].before != role))
        if not found:
            break
        mark, match = found[0]
        if mark.before != role:
            return None
        if role != "assistant" or text[start : match.start()].strip():  # two questions may have no answer between them
            turns.append(Turn(role, start, match.start()))
        role, start = mark.after, match.end()
    last = Turn(role, start, len(text))
    if role != "assistant" or _says_something(text, last):
        turns.append(last)
    return None if _holds_marks(marks, text, turns) else tuple(turns)


def _begins(match: re.Match[str]) -> int:
    """Where a mark begins, white space aside."""
    return match.start() + len(match[0]) - len(match[0].lstrip())


def _says_something(text: str, turn: Turn) -> bool:
    """Whether anything but a thought that the template wrote is in the model's last turn."""
    said = list(text[turn.start :])
    for start, end in thoughts(text, [turn]):
        said[start - turn.start : end - turn.start] = " " * (end - start)
    return bool("".join(said).strip())


def _holds_marks(marks: Marks, text: str, turns: list[Turn]) -> bool:
    """Whether a special token that opens or closes turns stands among somebody's words."""
    written = "".join([*marks.openings, *(mark.text for mark in marks.between)])
    own = [mark for mark in marks.specials if mark in written and mark not in THOUGHT_MARKS]
    return any(mark in _closed(text[turn.start : turn.end].strip(), own) for turn in turns for mark in own)


def _closed(said: str, marks: list[str]) -> str:
    """Words without the tokens that close them: where a text ends, or what opens the next turn was read loosely."""
    while (end := next((mark for mark in marks if said.endswith(mark)), None)) is not None:
        said = said.removesuffix(end).rstrip()
    return said
