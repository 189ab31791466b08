"""What a text says to a question: named protocols that read an answer off it, or say that there is none to be read.

>>> import lostattn as la
>>> question = la.data.load("shapes", n=7, seed=0).only("existence")[0]
>>> la.data.scoring.read("strict", "Yes, there is.", question)
('yes', 'named')
>>> la.data.scoring.read("strict", "I cannot tell.", question)
(None, 'nothing named')
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from lostattn.data.scoring.strict import strict
from lostattn.errors import InputError, UnknownName, nearest

__all__ = ["PROTOCOLS", "read", "strict"]

Reader = Callable[[str, Any], tuple[str | None, str]]

PROTOCOLS: dict[str, Reader] = {"strict": strict}
"""Every protocol by its name."""


def read(protocol: str, said: Any, question: Any) -> tuple[str | None, str]:
    """The answer that a text gives to a question under a protocol, and the rule by which it was read.

    Args:
        protocol: one of :data:`PROTOCOLS`.
        said: the raw text.
        question: with its ``choices`` (and the ``text`` in which lettered options stand).

    Returns:
        One of the choices, or None where none can be read; and why.

    Raises:
        UnknownName: no such protocol.
        InputError: what was said is no text.
    """
    if protocol not in PROTOCOLS:
        raise UnknownName(
            f"no protocol of scoring is called {protocol!r}; there are {', '.join(PROTOCOLS)}."
            f"{nearest(str(protocol), PROTOCOLS)}"
        )
    if not isinstance(said, str):
        raise InputError(f"what was said is {type(said).__name__}; expected a text.")
    return PROTOCOLS[protocol](said, question)
