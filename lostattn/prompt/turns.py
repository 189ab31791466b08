"""The turns of a prompt: who speaks, from where to where in the text, and which of it is thought."""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass

Span = tuple[int, int]
"""Start and end in a text, in characters."""
ROLES = ("user", "assistant", "tool")
"""Whose words are turns. What the system says is no turn."""
_THOUGHTS = (
    ("<think>", "</think>"),
    ("<thinking>", "</thinking>"),
    ("[THINK]", "[/THINK]"),
    ("◁think▷", "◁/think▷"),
    ("<|channel>thought", "<channel|>"),
)
"""What models open and close their thoughts with."""
THOUGHT_MARKS = tuple(mark for pair in _THOUGHTS for mark in pair)


@dataclass(frozen=True)
class Turn:
    """What one speaker says.

    Attributes:
        role: one of `ROLES`, or ``"system"`` for words of the system behind the first turn.
        start, end: of what is said in the text, pictures included, without the marks of the template around it.
    """

    role: str
    start: int
    end: int

    def moved(self, now: Callable[[int], int]) -> Turn:
        """The same turn in a text in which every place is another."""
        return Turn(self.role, now(self.start), now(self.end))


def trimmed(text: str, span: Span, marks: Sequence[str]) -> Span:
    """A span without the white space and marks that it begins and ends with; an empty one where nothing is left.

    Args:
        text: the whole text.
        span: of it.
        marks: what is no word: special tokens, and the placeholders of pictures.
    """
    start, end = span
    known = "|".join([r"\s", *map(re.escape, sorted(filter(None, marks), key=len, reverse=True))])
    said = re.sub(f"^(?:{known})+", "", text[start:end])
    start = end - len(said)
    # From the end, since the marks of a regular expression are looked for from the start.
    while start < end and (found := re.search(f"(?:{known})$", text[start:end])):
        end = start + found.start()
    return start, end


def thoughts(text: str, turns: Sequence[Turn]) -> list[Span]:
    """Where the model thinks: from the mark that opens a thought to the one that closes it, or to the end.

    Only where the model speaks: what others write between such marks is their words.

    Args:
        text: of a prompt.
        turns: in it; before the first of them nobody thinks.
    """
    found: list[Span] = []
    if not turns:
        return found
    others = [(turn.start, turn.end) for turn in turns if turn.role != "assistant"]
    for opening, closing in _THOUGHTS:
        at = turns[0].start
        while (start := text.find(opening, at)) >= 0:
            end = text.find(closing, start)
            limit = min((a for a, _ in others if a > start), default=len(text))
            if end < 0 or end >= limit:
                end = limit if limit == len(text) else -1
            else:
                end += len(closing)
            if any(a <= start < b for a, b in others) or end < 0:
                at = start + len(opening)
            else:
                found.append((start, end))
                at = end
    return sorted(found)


def without(span: Span, holes: Sequence[Span]) -> list[Span]:
    """The pieces of a span that are left without others, which are in order."""
    pieces, at = [], span[0]
    for start, end in holes:
        if at < end and start < span[1]:
            pieces.append((at, max(at, start)))
            at = end
    return [*pieces, (at, max(at, span[1]))]


def with_thoughts(turns: Sequence[Turn], found: Sequence[Span]) -> tuple[Turn, ...]:
    """The turns, each of the model's with the thoughts that were written right before its words."""
    out: list[Turn] = []
    for k, turn in enumerate(turns):
        before = turns[k - 1].end if k else 0
        own = [start for start, _ in found if before <= start < turn.start]
        out.append(Turn(turn.role, min(own), turn.end) if own and turn.role == "assistant" else turn)
    return tuple(out)
