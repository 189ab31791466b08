"""The errors that lostattn raises for what a caller can put right.

Every message says three things: what was received, what was expected, how to fix it.
"""

from __future__ import annotations

import difflib
from collections.abc import Iterable


class LostAttnError(Exception):
    """The base of every error that this package raises on purpose."""


class InputError(LostAttnError, ValueError):
    """An argument cannot be what was meant; raised where it is given, before anything runs."""


class UnknownName(InputError, KeyError):
    """A name (a hook point, a model, a data set) that nothing answers to."""

    def __str__(self) -> str:
        # KeyError would show the message quoted, as if it were the key.
        return str(self.args[0]) if self.args else ""


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
