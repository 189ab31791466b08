"""Which part of its prompt, and whose turn, a token's characters are."""

from __future__ import annotations

from collections.abc import Collection

from lostattn.prompt.rendered import Rendered
from lostattn.prompt.turns import THOUGHT_MARKS, Span, thoughts, trimmed, with_thoughts, without


class Spoken:
    """What a text says where. A token that reaches over the border of some words belongs to them.

    Words never begin or end in white space or in special tokens, whoever found where they are: so the same text has the
    same parts.
    """

    def __init__(self, rendered: Rendered, specials: Collection[str], placeholder: str) -> None:
        """`specials` are the tokens that are no text; `placeholder` stands for a picture."""
        marks = [mark for mark in specials if mark not in THOUGHT_MARKS and mark != placeholder]
        text, turns = rendered.text, rendered.spoken
        self.thoughts = thoughts(text, turns)
        self.content = _behind_white(text, rendered.content)
        self.answer = rendered.answer
        for start, end in self.thoughts:  # Behind a thought that it begins with.
            if self.answer is not None and start >= self.answer and not text[self.answer : start].strip():
                self.answer = _behind_white(text, end)
        asked = rendered.question
        # Their words, and the whole of each turn with its pictures.
        self.question = None if asked is None else trimmed(text, asked, [*marks, placeholder])
        said = turns[:-1] if rendered.answer is not None and turns[-1:] and turns[-1].role == "assistant" else turns
        self.words = [
            (turn.role, trimmed(text, piece, [*marks, placeholder]))
            for turn in said
            for piece in without((turn.start, turn.end), self.thoughts)
        ]
        whole = [turn for turn in with_thoughts(turns, self.thoughts) if turn.role != "system"]
        self.roles = tuple(turn.role for turn in whole)
        self.turns = [trimmed(text, (turn.start, turn.end), marks) for turn in whole]
        if rendered.answer is not None and self.roles[-1:] == ("assistant",):
            self.turns[-1] = (min(rendered.answer, self.turns[-1][0]), len(text))

    def part(self, start: int, end: int, special: bool, begun: bool) -> str:
        """The part of a token.

        Args:
            start, end: of its characters.
            special: whether it stands for no text.
            begun: whether any token before it, or itself, has characters: those without are put in by the tokenizer.
        """
        if start == end:
            return "template" if begun else "system"
        if any(_touch(start, end, one) for one in self.thoughts):
            return "thought"
        if self.answer is not None and end > self.answer:
            return "answer"
        if any(role == "system" and _touch(start, end, one) for role, one in self.words):
            return "system"
        if self.question is not None and _touch(start, end, self.question):
            return "template" if special else "question"
        role = next((role for role, one in self.words if _touch(start, end, one)), None)
        if role is not None and not special:
            return "history"
        return "system" if start < self.content else "template"

    def turn(self, start: int, end: int) -> int:
        """Which turn a token belongs to; -1 where none."""
        return next((k for k, one in enumerate(self.turns) if _touch(start, end, one)), -1)


def _behind_white(text: str, place: int) -> int:
    """The place behind the white space that begins there."""
    return len(text) - len(text[place:].lstrip())


def _touch(start: int, end: int, span: Span) -> bool:
    return start < span[1] and end > span[0]
