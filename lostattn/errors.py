"""The errors that lostattn raises for what a caller can put right.

Every message says three things: what was received, what was expected, how to fix it.
"""

from __future__ import annotations

import difflib
from collections.abc import Iterable

LONGEST = 1000  # characters of a line of a message: what was received may be a whole file


class LostAttnError(Exception):
    """The base of every error that this package raises on purpose."""

    def __str__(self) -> str:
        # Not Exception's own: KeyError, which one of these is, would show the message quoted, as if it were the key.
        text = str(self.args[0]) if self.args else ""
        return text if len(text) <= LONGEST else "\n".join(map(_shortened, text.split("\n")))


class InputError(LostAttnError, ValueError):
    """An argument cannot be what was meant; raised where it is given, before anything runs."""


class UnknownName(InputError, KeyError):
    """A name (a hook point, a model, a data set) that nothing answers to."""


class UnknownArgument(InputError, TypeError):
    """A keyword that a function does not take; the message names the nearest that it does."""


class OutOfRange(InputError, IndexError):
    """A number of an item that is not there."""


class HookFailed(InputError):
    """A hook of the caller's raised an error, or returned what is no new value; the message says in which line."""


class UnsupportedModel(LostAttnError):
    """A model has no such part, or fails the self-test: it would be edited in vain."""


class NoRoom(LostAttnError, OSError):
    """A disk, or a quota, has no room for what is to be written."""


class ChangedModel(LostAttnError, RuntimeError):
    """A model's modules are others than those that were proved when it was loaded."""


def nearest(name: str, known: Iterable[str], n: int = 3) -> str:
    """The known names closest to ``name``, ready to end an error message (empty where none is close)."""
    close = difflib.get_close_matches(name, list(known), n=n, cutoff=0.5)
    return f" Did you mean {', '.join(repr(c) for c in close)}?" if close else ""


def _shortened(line: str) -> str:
    """A line whose middle is left out where it is too long to be read."""
    half = LONGEST // 2
    return line if len(line) <= LONGEST else f"{line[:half]} … ({len(line) - LONGEST} characters) … {line[-half:]}"
