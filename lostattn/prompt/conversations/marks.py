"""What a chat template writes between turns, learned from what it makes of stand-ins for words."""

from __future__ import annotations

import re
import weakref
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from lostattn.checkpoint.templates.chat import apply_chat_template
from lostattn.errors import InputError
from lostattn.prompt.framing import special_tokens
from lostattn.prompt.turns import THOUGHT_MARKS

_WORD = "lostattn{}stands{}here"
_PROBES = (
    ("user",),
    ("user", "assistant", "user"),
    ("user", "assistant", "user", "assistant", "user"),
    ("user", "assistant", "tool"),
    ("user", "assistant", "tool", "assistant", "user"),
    ("user", "assistant", "tool", "tool"),
    ("user", "assistant", "tool", "user"),
    ("user", "user"),
    ("user", "assistant"),
)
"""Who speaks in each. Where the last one is the model, it is to be gone on with."""


@dataclass(frozen=True)
class Mark:
    """What stands between the words of one speaker and those of the next.

    Attributes:
        before, after: whose words; nobody's (empty) before the first turn.
        text: as the template writes it.
    """

    before: str
    after: str
    text: str

    def pattern(self, leading: str = "", closing: str = "") -> re.Pattern[str]:
        """The mark with any white space within and before it, and what it is followed by where that is there.

        Args:
            leading: what it begins with and may be left out, as what closes a turn is in texts written by hand.
            closing: white space behind it.
        """
        kept = self.text.strip()
        optional = ""
        if leading and kept.startswith(leading):
            kept, optional = kept[len(leading) :].lstrip(), f"(?:{re.escape(leading)})?\\s*"
        words = r"\s*".join(re.escape(piece) for piece in kept.split())
        return re.compile(f"\\s*{optional}{words}" + (f"(?:{re.escape(closing)})?" if closing else ""))

    @property
    def white(self) -> str:
        """The white space that it ends in."""
        return self.text[len(self.text.rstrip()) :]


@dataclass(frozen=True)
class Joint:
    """Where a template puts the words of the system before those of the user, in one turn (Gemma 3, Pixtral).

    Attributes:
        text: between the two.
        last: whether in the last turn of the user; otherwise in the first.
    """

    text: str
    last: bool


@dataclass(frozen=True)
class Marks:
    """All marks of a template.

    Attributes:
        openings: what it writes before the first words of a user, without pictures and with one behind them.
        first: of that, what opens any user's turn.
        joint: where the system's words stand in a turn of the user; None where they stand by themselves.
        between: two speakers; what comes before an answer that is still to be given stands first.
        specials: the tokens of the tokenizer that are no text.
    """

    openings: tuple[str, ...]
    first: str
    joint: Joint | None
    between: tuple[Mark, ...]
    specials: tuple[str, ...]

    def leading(self, mark: Mark) -> str:
        """The special token that a mark begins with, if there is more to it: what closes a turn."""
        text = mark.text.strip()
        found = next((one for one in self.specials if text.startswith(one)), "")
        return found if text[len(found) :].strip() else ""


_LEARNED: weakref.WeakKeyDictionary[Any, tuple[Any, Marks | None]] = weakref.WeakKeyDictionary()


def learn_marks(processor: Any) -> Marks | None:
    """The marks of a processor's chat template; None where it does not write a conversation so that they are told.

    They are learned once for a processor, and again where its template or its special tokens have become others.
    """
    specials = tuple(special_tokens(processor))
    own = [getattr(one, "chat_template", None) for one in (processor, getattr(processor, "tokenizer", None))]
    known = (repr(own), specials)
    try:
        held, marks = _LEARNED.get(processor, (None, None))
    except TypeError:  # a processor that no table can hold
        return _learned(processor, specials)
    if held != known:
        marks = _learned(processor, specials)
        _LEARNED[processor] = (known, marks)
    return marks


def _learned(processor: Any, specials: tuple[str, ...]) -> Marks | None:
    bare = _pieces(processor, ("user",))
    if bare is None:
        return None
    opening, asks = bare[0], _before_thought(bare[1])
    found = [Mark("user", "assistant", asks)] if asks.strip() else []
    told, shown = _pieces(processor, ("system", "user")), _pieces(processor, ("user",), picture=True)
    openings = [opening]
    # One that has the picture before the words says nothing new.
    if shown is not None and not any(mark in shown[0] and mark not in opening for mark in specials):
        openings.append(shown[0])
    opened = [*openings, *([told[0]] if told else [])]
    for speakers in _PROBES[1:]:
        pieces = _pieces(processor, speakers)
        if pieces is None:
            continue
        last = speakers[-1] != "assistant"
        following = [*speakers[1:], *(["assistant"] if last else [])]
        for before, after, piece in zip(speakers, following, pieces[1:], strict=False):
            mark = Mark(before, after, _before_thought(piece))
            plain = before == after and not any(one in piece for one in specials)  # as a user may write it
            if mark.text.strip() and mark not in found and not plain:
                found.append(mark)
        if speakers == ("user", "assistant", "user"):
            opened.append(pieces[2])
    if not _are_told_apart(found):
        return None
    # A template that puts the system's words into the first user's turn says no more of what opens one.
    first = _common_end(opened, specials).strip() and _common_end(opened, specials)
    if not first:
        first = _common_end([*openings, opened[-1]], specials)
    return Marks(tuple(openings), first, _joint(processor, first), tuple(found), specials)


def _are_told_apart(marks: Sequence[Mark]) -> bool:
    """Whether what comes before an answer is always the same, and another than what comes before a question."""

    def core(mark: Mark) -> str:
        return "".join(mark.text.split())

    answers = {core(mark) for mark in marks if (mark.before, mark.after) == ("user", "assistant")}
    questions = {core(mark) for mark in marks if (mark.before, mark.after) == ("assistant", "user")}
    return len(answers) == 1 and bool(questions) and not answers & questions


def joint_of(processor: Any) -> Joint | None:
    """See :class:`Joint`; None where the template writes no conversation."""
    marks = learn_marks(processor)
    return None if marks is None else marks.joint


def _joint(processor: Any, first: str) -> Joint | None:
    """See :class:`Joint`; `first` opens a turn of the user."""
    written = _written(processor, ("system", "user", "assistant", "user"))
    if written is None or not first.strip():
        return None
    text, (system, *asked) = written
    place = text.find(system)
    follows = [text.find(word) for word in asked if text.find(word) > place]
    between = text[place + len(system) : min(follows, default=0)]
    if not between or between.strip() or first.strip() not in text[:place]:
        return None
    return Joint(between, place > text.find(asked[0]))


def _pieces(processor: Any, speakers: Sequence[str], picture: bool = False) -> list[str] | None:
    """What a template writes before, between and behind the words of some speakers; None where it does not.

    The words of the system are left where they are. With `picture`, the first speaker shows one behind the words.
    """
    written = _written(processor, speakers, picture)
    if written is None:
        return None
    text, words = written
    said = words[1:] if speakers[0] == "system" else words
    pieces = re.split("|".join(map(re.escape, said)), text)
    return pieces if len(pieces) == len(said) + 1 else None


def _written(processor: Any, speakers: Sequence[str], picture: bool = False) -> tuple[str, list[str]] | None:
    """What a template makes of words that stand for those of some speakers, and these; None where it drops any."""
    words = [_WORD.format(role, k) for k, role in enumerate(speakers)]
    turns = [
        {"role": role, "content": [{"type": "text", "text": word}]} for role, word in zip(speakers, words, strict=True)
    ]
    plain = [{"role": role, "content": word} for role, word in zip(speakers, words, strict=True)]
    ends = {"continue_final_message": True} if speakers[-1] == "assistant" else {"add_generation_prompt": True}
    if picture:
        turns[0] = {**turns[0], "content": [*turns[0]["content"], {"type": "image"}]}
    for form in (turns,) if picture else (turns, plain):
        try:
            text = apply_chat_template(processor, form, **ends)
        except InputError:
            continue
        if all(word in text for word in words):
            return text, words
    return None


def _before_thought(text: str) -> str:
    """A mark without what the template writes of a thought behind it: that is the model's."""
    return text[: min((text.find(mark) for mark in THOUGHT_MARKS if mark in text), default=len(text))]


def _common_end(texts: Sequence[str], specials: Sequence[str]) -> str:
    """What all of these end in, by whole words and special tokens."""
    known = "|".join([*map(re.escape, specials), r"\s", r"\w+", "."])
    split = [re.findall(known, text, re.DOTALL) for text in texts]
    n = 0
    while all(len(own) > n for own in split) and len({own[-1 - n] for own in split}) == 1:
        n += 1
    return "".join(split[0][len(split[0]) - n :])
