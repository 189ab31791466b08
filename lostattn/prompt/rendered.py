"""The text of one prompt, and where its parts and turns are in it."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace

from lostattn.prompt.turns import Span, Turn


@dataclass(frozen=True)
class Rendered:
    """The text of one prompt, one placeholder an image, and where its parts are in it (character indices).

    Attributes:
        text: what the tokenizer is given.
        content: where the user's content begins; what is before it is the system part.
        question: start and end of the question's own text; None where it could not be found.
        answer: where the answer so far begins; None where there is none.
        add_specials: whether the tokenizer adds its own special tokens (a BOS) to the text.
        turns: of a conversation, in order; empty where there is the question's alone, and an answer.
    """

    text: str
    content: int
    question: Span | None
    answer: int | None = None
    add_specials: bool = True
    turns: tuple[Turn, ...] = ()

    @property
    def spoken(self) -> tuple[Turn, ...]:
        """The turns, that of the question and the answer among them."""
        if self.turns or self.question is None:
            return self.turns
        asked = Turn("user", min(self.content, self.question[0]), self.question[1])
        return (asked,) if self.answer is None else (asked, Turn("assistant", self.answer, len(self.text)))

    def moved(self, text: str, now: Callable[[int], int]) -> Rendered:
        """The same in another text, in which every place of this one is ``now(place)``.

        What a span ends with is where its last character is, and so is put behind what was put in there.
        """

        def span(start: int, end: int) -> Span:
            return (now(start), now(end - 1) + 1) if end > start else (now(start), now(start))

        return replace(
            self,
            text=text,
            content=now(self.content),
            question=None if self.question is None else span(*self.question),
            answer=None if self.answer is None else now(self.answer),
            turns=tuple(Turn(turn.role, *span(turn.start, turn.end)) for turn in self.turns),
        )
