"""The choices that a question leaves, as tokens: what they have in common, and what it takes to hear them all."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from lostattn.answers.metrics import several_each
from lostattn.answers.tokens import Tokens, asked_items, one_each, plain, tokens_of
from lostattn.arguments import check_fields, checked_call
from lostattn.errors import InputError
from lostattn.points.hooked_model import HookedModel


@checked_call
@dataclass(frozen=True)
class Choices:
    """The answers that are compared with each other at one question.

    Attributes:
        answers: the choices as they were given: texts, or ids.
        tokens: the tokens of each, as they would follow the prompt.
        right: which of them is right; None where nobody said.
        also_right: others that are right too, so that none of them counts as wrong.
    """

    answers: tuple[Any, ...]
    tokens: tuple[Tokens, ...]
    right: int | None = None
    also_right: tuple[int, ...] = ()

    def __post_init__(self) -> None:
        check_fields(self, "answers", "tokens", "right", "also_right")
        if not self.answers:
            raise InputError("there are no choices to score; give choices=['circle', 'square'].")
        twice = next((i for i, ids in enumerate(self.tokens) if ids in self.tokens[:i]), None)
        if twice is not None:
            other = self.answers[self.tokens.index(self.tokens[twice])]
            raise InputError(
                f"the choices {other!r} and {self.answers[twice]!r} are the same tokens, so they cannot be told apart."
            )

    @property
    def all_right(self) -> tuple[int, ...]:
        """Every choice that is right."""
        return (() if self.right is None else (self.right,)) + self.also_right

    @property
    def nested(self) -> bool:
        """Whether one choice is the beginning of another: it is then said only where the answer ends behind it."""
        return any(a != b and b[: len(a)] == a for a in self.tokens for b in self.tokens)

    @property
    def paths(self) -> list[Tokens]:
        """What must be said for every choice to be heard, the longest first: no path is the beginning of another.

        The last token of a choice is heard before it is said, unless the end behind it counts too.
        """
        needed = {ids if self.nested else ids[:-1] for ids in self.tokens}
        longest = [one for one in needed if not any(one != more and more[: len(one)] == one for more in needed)]
        return sorted(longest, key=lambda one: (-len(one), one))

    def first_tokens(self) -> Choices:
        """The same choices, each by its first token alone.

        Raises:
            InputError: two of them begin alike.
        """
        return Choices(self.answers, tuple(ids[:1] for ids in self.tokens), self.right, self.also_right)


def choices_of(model: HookedModel, question: Any, choices: Any = None, right: Any = None) -> list[Choices]:
    """The choices of each item.

    Args:
        model: the model, with its processor (without one, choices are ids).
        question: a question, a text, a list of either, or a prompt.
        choices: of one item a list of choices; of several, a list of them for each. None takes each question's own.
        right: the right one, one for all or one for each; None takes each question's own answer, where it has one.

    Raises:
        InputError: no choices; a right answer that is none of them; two choices of the same tokens.
    """
    items = asked_items(model, question)
    given = _given(items, choices)
    said = _right(items, right)
    spoken = [(i, one) for i, own in enumerate(given) for one in own]
    tokens = iter(tokens_of(model, items, spoken))
    found = []
    for item, own, answer in zip(items, given, said, strict=True):
        if answer is not None and answer not in own:
            raise InputError(f"the right answer {answer!r} is none of the choices {own}.")
        ids = tuple(next(tokens) for _ in own)
        others = () if right is not None else getattr(item, "answers", ())
        also = tuple(i for i, one in enumerate(own) if one in others and one != answer)
        found.append(Choices(tuple(own), ids, None if answer is None else own.index(answer), also))
    return found


def _given(items: Sequence[Any], choices: Any) -> list[list[Any]]:
    if choices is not None:
        return several_each(list(choices) if isinstance(choices, tuple) else choices, len(items))
    lacking = next((one for one in items if not getattr(one, "choices", ())), None)
    if lacking is not None:
        raise InputError(
            f"{type(lacking).__name__.lower()} {str(lacking)[:80]!r} brings no choices to score; say which: "
            "choices=['circle', 'square'], or a list of such lists, one for each."
        )
    return [list(one.choices) for one in items]


def _right(items: Sequence[Any], right: Any) -> list[Any]:
    """The right answer of each item; None where nobody said."""
    if right is None:
        return [getattr(one, "answer", None) or None for one in items]
    return one_each(plain(right), len(items))
