"""Turns through a processor's chat template, as transformers renders them, within bounds."""

from __future__ import annotations

import functools
import threading
import warnings
from collections.abc import Mapping, Sequence
from typing import Any

import jinja2
from jinja2.meta import find_undeclared_variables

from lostattn.checkpoint.templates.budget import budget, current
from lostattn.checkpoint.templates.environment import Bounded, compiled
from lostattn.errors import InputError
from lostattn.saved.text import printable

_PLACE = "_compile_jinja_template"  # in transformers.utils.chat_template_utils: where every template is compiled
_LOCK = threading.Lock()


def apply_chat_template(processor: Any, turns: Sequence[Any], **keywords: Any) -> str:
    """The text that a processor's chat template makes of turns.

    Args:
        processor: a processor or tokenizer of transformers.
        turns: messages of ``role`` and ``content``.
        keywords: as the processor's own ``apply_chat_template`` takes them, less ``tokenize``.

    Raises:
        InputError: the template refuses the turns, cannot be read, or asks for more steps, text or time than a
            template needs.
    """
    _bound_transformers()
    try:
        with budget([list(turns), keywords]):
            return str(processor.apply_chat_template(turns, tokenize=False, **keywords))
    except Exception as error:  # a template is somebody's program, and may fail in any way
        told = printable(str(error) or type(error).__name__)[:500]
        raise InputError(
            f"The processor's chat template refuses this prompt: {told}. Set another processor.chat_template, or make "
            "the text yourself and pass the processor's output: model.prompt(inputs=…)."
        ) from error


def template_names(processor: Any) -> set[str] | None:
    """The names that a processor's chat template reads from outside; None where that cannot be told."""
    source = getattr(processor, "chat_template", None) or getattr(
        getattr(processor, "tokenizer", None), "chat_template", None
    )
    if isinstance(source, Mapping):
        source = source.get("default")
    if not isinstance(source, str):
        return None
    try:
        return set(find_undeclared_variables(Bounded().parse(source)))
    except jinja2.TemplateError:
        return None


def _bound_transformers() -> None:
    """See to it that transformers compiles templates within a budget in the bounded environment, and others as ever."""
    from transformers.utils import chat_template_utils as place

    with _LOCK:
        own = getattr(place, _PLACE, None)
        if own is None:
            warnings.warn(
                "this version of transformers compiles chat templates in another place than is known, so they run "
                "without bounds in time and output; use templates that you trust.",
                stacklevel=4,
            )
        elif not getattr(own, "is_bounded", False):

            @functools.wraps(own)
            def compile_template(source: Any) -> Any:
                return own(source) if current() is None else compiled(source)

            compile_template.is_bounded = True  # type: ignore[attr-defined]
            setattr(place, _PLACE, compile_template)
