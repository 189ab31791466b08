"""A conversation as the text that the tokenizer is given, through the processor's chat template, with its turns.

Where words are is found by rendering stand-ins in their place: what the template makes of these shows where it puts
what, and which words it drops (thoughts of earlier turns).
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

from lostattn.checkpoint.templates.chat import apply_chat_template
from lostattn.errors import InputError
from lostattn.prompt.conversations.messages import Conversation
from lostattn.prompt.conversations.reading import read_turns, turn_content
from lostattn.prompt.framing import special_tokens
from lostattn.prompt.rendered import Rendered
from lostattn.prompt.rendering import has_template
from lostattn.prompt.turns import ROLES, THOUGHT_MARKS, Span, Turn, trimmed

_STAND_IN = re.compile(r"lostattn(\d+)stands(\d+)here")
_KEPT = ("<tool_call>", "</tool_call>", "<tool_response>", "</tool_response>", *THOUGHT_MARKS)
"""Marks that templates look for in texts."""
_ENDS = ("add_generation_prompt", "continue_final_message")


@dataclass(frozen=True)
class _Written:
    """What a template makes of a conversation.

    Attributes:
        text: of its words.
        words: for each message, where its words are; empty where it has none, or the template drops them.
        known: whether that could be told.
    """

    text: str
    words: tuple[Span | None, ...]
    known: bool


def write_conversation(
    processor: Any, told: Conversation, marks: tuple[str, str], options: Mapping[str, Any], name: str
) -> Rendered:
    """A conversation through the chat template, followed by the opening of an answer, or gone on with.

    Args:
        processor: the model's processor.
        told: the conversation.
        marks: the processor's image and video placeholder; empty where it has none.
        options: for the template, such as ``{"enable_thinking": False}``.
        name: how an error names the conversation.

    Raises:
        InputError: there is no template; it refuses the messages, drops words, or writes another number of pictures
            than there are.
    """
    if not has_template(processor):
        raise InputError(
            "This processor has no chat template to write messages with; set processor.chat_template, or give a text "
            "with its pictures: model.prompt(text, images=[…])."
        )
    ends = {"continue_final_message": True} if told.is_answered else {"add_generation_prompt": True}
    ends["add_generation_prompt"] = (
        ends.get("add_generation_prompt", False) and told.messages[-1]["role"] != "assistant"
    )
    given = {name: value for name, value in {**ends, **options}.items() if name not in _ENDS or value}
    made = _in_any_form(processor, told.messages, given, marks, name)
    for mark, held, kind in ((marks[0], told.images, "image"), (marks[1], told.videos, "video")):
        written = made.text.count(mark) if mark else 0
        if written != len(held) and (mark != marks[0] or kind == "image"):
            raise InputError(
                f"{name} holds {len(held)} {kind}{'s' * (len(held) != 1)}, but the processor's chat template writes "
                f"{mark!r} {written} times. Some templates show {kind}s in turns of the user alone."
            )
    bos = getattr(processor.tokenizer, "bos_token", None)
    adds = not (bos and made.text.startswith(bos))
    return replace(_located(processor, told, made, marks, given), add_specials=adds)


def _in_any_form(
    processor: Any, messages: Sequence[dict[str, Any]], given: dict[str, Any], marks: tuple[str, str], name: str
) -> _Written:
    """What the template makes of messages as they are, or with all texts as parts, or with parts as texts.

    Some templates read texts alone, some parts alone, and drop the other, or fail.
    """
    refused: InputError | None = None
    dropped = None
    for form in (list, _as_parts, _as_texts):
        try:
            made = _written(processor, form(messages), given, marks)
        except InputError as error:
            refused = refused or error
            continue
        dropped = _dropped(messages, made)
        if dropped is None:
            return made
    if dropped is None and refused is not None:
        raise refused
    raise InputError(
        f"the processor's chat template drops the words of message {dropped} of {name}, by "
        f"{messages[dropped or 0]['role']!r}; leave it out, or set another processor.chat_template."
    )


def _dropped(messages: Sequence[dict[str, Any]], made: _Written) -> int | None:
    """The first message whose words are not in the text, as far as that can be told; thoughts need not be."""
    if not made.known:  # the template writes them in words of its own
        return None
    for k, message in enumerate(messages):
        said = "".join(_texts(message))
        for mark in THOUGHT_MARKS:
            said = said.rpartition(mark)[2]
        if said.strip() and made.words[k] is None:
            return k
    return None


def _as_parts(messages: Sequence[dict[str, Any]]) -> list[dict[str, Any]]:
    return [
        {**one, "content": [{"type": "text", "text": one["content"]}]} if isinstance(one.get("content"), str) else one
        for one in messages
    ]


def _as_texts(messages: Sequence[dict[str, Any]]) -> list[dict[str, Any]]:
    return [
        {**one, "content": "".join(_texts(one))}
        if isinstance(one.get("content"), list) and all(part["type"] == "text" for part in one["content"])
        else one
        for one in messages
    ]


def _texts(message: Mapping[str, Any]) -> list[str]:
    content = message.get("content")
    if isinstance(content, str):
        return [content]
    return [part["text"] for part in content or () if part["type"] == "text"]


def _written(
    processor: Any, messages: Sequence[dict[str, Any]], given: dict[str, Any], marks: tuple[str, str]
) -> _Written:
    """The text of messages, and where the words of each are, by what becomes of stand-ins for them."""
    text = apply_chat_template(processor, messages, **given)
    words: list[str] = []
    kept = re.compile(
        "(" + "|".join(map(re.escape, sorted({*filter(None, marks), *_KEPT}, key=len, reverse=True))) + ")"
    )

    def stand_in(k: int, said: str) -> str:
        pieces = kept.split(said)
        for i in range(0, len(pieces), 2):
            core = pieces[i].strip()
            if core:
                pieces[i] = pieces[i].replace(core, f"lostattn{k}stands{len(words)}here")
                words.append(core)
        return "".join(pieces)

    standing: list[dict[str, Any]] = []
    for k, one in enumerate(messages):
        content = one.get("content")
        if isinstance(content, str):
            standing.append({**one, "content": stand_in(k, content)})
        elif content is not None:
            parts = [{**p, "text": stand_in(k, p["text"])} if p["type"] == "text" else p for p in content]
            standing.append({**one, "content": parts})
        else:
            standing.append(one)
    nowhere = (None,) * len(messages)
    try:
        shown = apply_chat_template(processor, standing, **given)
    except InputError:
        return _Written(text, nowhere, False)
    spans: list[Span | None] = list(nowhere)
    whole, at = "", 0
    for found in _STAND_IN.finditer(shown):
        whole += shown[at : found.start()]
        k, core = int(found[1]), words[int(found[2])]
        was = spans[k]
        spans[k] = (len(whole) if was is None else was[0], len(whole) + len(core))
        whole, at = whole + core, found.end()
    whole += shown[at:]
    return _Written(text, tuple(spans), True) if whole == text else _Written(text, nowhere, False)


def _located(
    processor: Any, told: Conversation, made: _Written, marks: tuple[str, str], given: dict[str, Any]
) -> Rendered:
    """The text with its turns: as it would be read from its ids, where that is what the messages say."""
    read = read_turns(processor, made.text)
    roles = [message["role"] for message in told.messages]
    if read is not None and _agree(processor, told, made, read, marks):
        return read
    if not made.known:
        return Rendered(made.text, 0, None)
    turns: list[Turn] = []
    at = 0
    for role, span in zip(roles, _with_pictures(made, told, marks), strict=True):
        start, end = span or (at, at)
        at = max(at, end)
        turns.append(Turn(role if role in ROLES else "system", start, end))
    answer = None
    if roles[-1] == "assistant":
        answer = _begins(processor, told.messages, made.text, given, turns[-1].start)
        turns[-1] = Turn("assistant", answer, len(made.text))
    first = min(turn.start for turn in turns if turn.role in ROLES)
    asked = [(turn.start, turn.end) for turn in turns if turn.role == "user"]
    # Words of the system before the first turn are all that is before it; others stand among those of the turns.
    kept = sorted((turn for turn in turns if turn.role in ROLES or turn.start > first), key=lambda turn: turn.start)
    content = turn_content(processor, made.text, first)
    return Rendered(made.text, content, asked[-1] if asked else (first, first), answer, turns=tuple(kept))


def _agree(processor: Any, told: Conversation, made: _Written, read: Rendered, marks: tuple[str, str]) -> bool:
    """Whether turns that were read from a text are those of the messages that it was written of."""
    spoken = [k for k, message in enumerate(told.messages) if message["role"] in ROLES]
    if [told.messages[k]["role"] for k in spoken] != [turn.role for turn in read.turns]:
        return False
    if not made.known:
        return all(
            all(said.strip() in made.text[turn.start : turn.end] for said in _texts(told.messages[k]))
            for k, turn in zip(spoken, read.turns, strict=True)
        )
    specials = [*special_tokens(processor), *marks]
    for k, turn in zip(spoken, read.turns, strict=True):
        words = made.words[k]
        if words is None:
            continue
        start, end = trimmed(made.text, words, specials)
        if start < turn.start or end > turn.end:
            return False
    # Words of the system that stand within somebody's turn are not that speaker's.
    others = [words for k, words in enumerate(made.words) if words is not None and k not in spoken]
    return all(end <= read.turns[0].start for _, end in others)


def _with_pictures(made: _Written, told: Conversation, marks: tuple[str, str]) -> list[Span | None]:
    """Where each message is in the text, its pictures too, whose order is that of the messages."""
    known = "|".join(re.escape(mark) for mark in dict.fromkeys(filter(None, marks)))
    places = iter([found.span() for found in re.finditer(known, made.text)] if known else [])
    out: list[Span | None] = []
    for words, n in zip(made.words, told.shown, strict=True):
        spans = [next(places) for _ in range(n)] + ([words] if words else [])
        out.append((min(start for start, _ in spans), max(end for _, end in spans)) if spans else None)
    return out


def _begins(
    processor: Any, messages: Sequence[dict[str, Any]], text: str, given: dict[str, Any], otherwise: int
) -> int:
    """Where an answer that is gone on with begins: behind what the template writes before one that is to come."""
    options = {name: value for name, value in given.items() if name not in _ENDS}
    for form in (list, _as_parts, _as_texts):
        try:
            asked = apply_chat_template(processor, form(messages[:-1]), add_generation_prompt=True, **options)
        except InputError:
            continue
        if text.startswith(asked):
            return min(len(asked), otherwise)
    return otherwise
