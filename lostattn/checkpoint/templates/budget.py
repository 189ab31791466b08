"""What a template may use up: steps, text, and time. Everything that it does is charged here."""

from __future__ import annotations

import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from typing import Any

from jinja2.exceptions import TemplateRuntimeError

SECONDS = 10.0  # of this thread on a processor; real templates take milliseconds
STEPS = 500_000  # turns of loops, calls and operations
DEEPEST = 60  # calls within calls; lists within lists
TEXT = 1 << 20  # characters of one value beside what the turns themselves hold
NODES = 100_000  # values in one list or dict, likewise
BITS = 4096  # of a whole number
LARGER = 16  # times what the turns hold, that one value may be
IN_ALL = 32  # times as much text as one value may have, that a template may make in all


class TooMuch(TemplateRuntimeError):
    """A template asks for more than a template needs."""


class Budget:
    """One rendering's."""

    def __init__(self, given: Any = None) -> None:
        text, nodes = measured(given)
        self.text = TEXT + LARGER * text
        self.nodes = NODES + LARGER * nodes
        self.left = IN_ALL * self.text
        self.steps = STEPS + LARGER * nodes
        self.depth = 0
        self.until = time.thread_time() + SECONDS

    def step(self, made: int = 0) -> None:
        """One step, which made so many characters or values.

        Raises:
            TooMuch: there have been too many, or they took too long.
        """
        self.steps -= 1
        self.left -= made
        if self.steps < 0:
            raise TooMuch(f"takes more than {STEPS} steps")
        if self.left < 0:
            raise TooMuch(f"makes more than {IN_ALL * self.text} characters in all")
        if time.thread_time() > self.until:
            raise TooMuch(f"takes longer than {SECONDS:g} s")

    def allow(self, n: int) -> int:
        """Room for a text or list of so many characters or values.

        Raises:
            TooMuch: it is more than one value may have.
        """
        if n > self.text:
            raise TooMuch(f"makes a value of {n} characters, and up to {self.text} are allowed")
        self.step(n)
        return n

    def weigh(self, value: Any) -> Any:
        """A value that is about to be written out or compared, once it is found to be of a size that can be.

        Raises:
            TooMuch: it is larger or deeper, counted as it would be written out, or a number of too many digits.
        """
        if value is None or type(value) in (bool, float):
            return value
        text, nodes = measured(value, self.text, self.nodes)
        self.step(text // 64 + nodes)
        return value


_BUDGET: ContextVar[Budget | None] = ContextVar("lostattn_template_budget", default=None)


def current() -> Budget | None:
    """The budget of the rendering that is under way; ``None`` outside of one."""
    return _BUDGET.get()


@contextmanager
def budget(given: Any) -> Iterator[Budget]:
    """Bound what templates use up while this is open.

    Args:
        given: what the template is given, from which follows how much it may make.
    """
    own = Budget(given)
    token = _BUDGET.set(own)
    try:
        yield own
    finally:
        _BUDGET.reset(token)


def measured(value: Any, most_text: int = sys.maxsize, most_nodes: int = sys.maxsize) -> tuple[int, int]:
    """Characters and values in a value, counted as often as they would be written out.

    Raises:
        TooMuch: they are more than they may be, or nest deeper.
    """
    text = nodes = 0
    todo: list[tuple[Any, int]] = [(value, 0)]
    while todo:
        one, depth = todo.pop()
        nodes += 1
        if isinstance(one, str | bytes):
            text += len(one)
        elif isinstance(one, dict):
            todo += [(part, depth + 1) for pair in one.items() for part in pair]
        elif isinstance(one, list | tuple | set | frozenset):
            todo += [(part, depth + 1) for part in one]
        elif isinstance(one, int) and one.bit_length() > BITS:
            raise TooMuch(f"makes a number of more than {BITS} bits")
        if text > most_text or nodes + len(todo) > most_nodes:
            raise TooMuch(f"makes a value of more than {most_text} characters or {most_nodes} parts")
        if depth > DEEPEST:
            raise TooMuch(f"makes lists within lists, more than {DEEPEST} deep")
    return text, nodes
