"""What a chat template writes between turns, by which a text of several turns is known."""

from __future__ import annotations

from typing import Any

from lostattn.errors import InputError
from lostattn.prompt.framing import special_tokens
from lostattn.prompt.rendering import NOTHING, around, between_turns


def several_turns(processor: Any, said: str) -> bool:
    """Whether a text holds what the template writes between turns, and so is not what one speaker says."""
    written = "".join(around(processor, NOTHING, None))
    marks = {mark for mark in special_tokens(processor) if mark in written}
    marks |= {str(mark) for mark in (getattr(processor.tokenizer, "eos_token", None),) if mark}
    # White space differs from hand to hand.
    return any(_close_up(mark) in _close_up(said) for mark in marks | _openers(processor))


def model_speaks(processor: Any, text: str) -> bool:
    """Whether a text holds what the template writes before an answer."""
    opening = around(processor, NOTHING, None)[1].strip()
    return bool(opening) and opening in text


def _close_up(text: str) -> str:
    return "".join(text.split())


def _openers(processor: Any) -> set[str]:
    """What the template writes before an answer and before the next question, without white space around it."""
    written: tuple[str, ...] = ()
    try:
        written = between_turns(processor)
    except (InputError, TypeError, ValueError, KeyError):  # a template of one turn, or of words alone
        pass
    opening = around(processor, NOTHING, None)[1]
    return {mark.strip() for mark in (*written, opening) if mark.strip()}
