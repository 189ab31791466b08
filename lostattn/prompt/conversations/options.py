"""Options of a chat template (``enable_thinking``, ``tools``), and which of them it knows."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from lostattn.checkpoint.templates.chat import template_names
from lostattn.errors import InputError, UnknownName, nearest

_ENDS = ("add_generation_prompt", "continue_final_message")
_OURS = ("messages",)


def check_template_options(processor: Any, options: Any) -> dict[str, Any]:
    """Options for a processor's chat template, as they are given.

    Raises:
        InputError: no dict, or a name that the template makes nothing of, where it can be told what it reads.
    """
    if options is None:
        return {}
    if not isinstance(options, Mapping) or not all(isinstance(name, str) for name in options):
        raise InputError(
            f"chat_template_kwargs is {options!r}; expected a dict of names and values, such as "
            '{"enable_thinking": False}.'
        )
    known = template_names(processor)
    for name in options:
        if name in _OURS or (known is not None and name not in known and name not in _ENDS):
            told = sorted({*(known or ()), *_ENDS} - {*_OURS, "raise_exception", "strftime_now"})
            raise UnknownName(
                f"the chat template of this {type(processor).__name__} makes nothing of {name!r}; it reads "
                f"{', '.join(told)}.{nearest(name, told)}"
            )
    return dict(options)
