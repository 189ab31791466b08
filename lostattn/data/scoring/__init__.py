"""What a text says to a question: named protocols that read an answer off it, or say that there is none to be read.

>>> import lostattn as la
>>> question = la.data.load("shapes", n=7, seed=0).only("existence")[0]
>>> la.data.scoring.read("strict", "Yes, there is.", question)
('yes', 'named')
>>> la.data.scoring.read("strict", "I cannot tell.", question)
(None, 'nothing named')

The public protocols read as the public scorers do, their faults included, so that a number can be set beside a
published one; where a public scorer draws at random, nothing is read, and :func:`credit` gives what the draw is worth
on average.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from lostattn.data.scoring.asked_for import options_of, right_answers
from lostattn.data.scoring.lmms_letters import realworldqa_lmms, threedsr_lmms
from lostattn.data.scoring.mathvista import mathvista_official, mathvista_official_unguarded
from lostattn.data.scoring.mmmu_choice import GUESS, mmmu_lmms, mmmu_lmms_0_7_3, mmmu_official, vmcbench_lmms
from lostattn.data.scoring.strict import strict
from lostattn.data.scoring.vlmevalkit_choice import vlmevalkit_choice
from lostattn.data.scoring.yes_no import pope_lmms, pope_official, yes_or_no_vlmevalkit
from lostattn.errors import InputError, UnknownName, nearest

__all__ = ["GUESS", "PROTOCOLS", "credit", "read", "right", "right_answers", "strict"]

Reader = Callable[[str, Any], tuple[str | None, str]]

PROTOCOLS: dict[str, Reader] = {
    "strict": strict,
    "pope-official": pope_official,
    "pope-lmms": pope_lmms,
    "pope-vlmevalkit": yes_or_no_vlmevalkit,
    "hallusion-vlmevalkit": yes_or_no_vlmevalkit,
    "mmmu-official": mmmu_official,
    "mmmu-lmms": mmmu_lmms,
    "mmmu-lmms-0.7.3": mmmu_lmms_0_7_3,
    "vmcbench-lmms": vmcbench_lmms,
    "realworldqa-lmms": realworldqa_lmms,
    "3dsrbench-lmms": threedsr_lmms,
    "vlmevalkit-choice": vlmevalkit_choice,
    "mathvista-official": mathvista_official,
    "mathvista-official-unguarded": mathvista_official_unguarded,
}
"""Every protocol by its name."""


def read(protocol: str, said: Any, question: Any) -> tuple[str | None, str]:
    """The answer that a text gives to a question under a protocol, and the rule by which it was read.

    Args:
        protocol: one of :data:`PROTOCOLS`.
        said: the raw text; a number, as an extractor may give it, is taken as Python writes it.
        question: with its ``choices`` (and the ``text`` in which lettered options stand).

    Returns:
        One of the choices (of an open question, the answer as a text: a right one as the question spells it), or None
        where none can be read; and why.

    Raises:
        UnknownName: no such protocol.
        InputError: what was said is no text.
    """
    if protocol not in PROTOCOLS:
        raise UnknownName(
            f"no protocol of scoring is called {protocol!r}; there are {', '.join(PROTOCOLS)}."
            f"{nearest(str(protocol), PROTOCOLS)}"
        )
    if isinstance(said, int | float) and not isinstance(said, bool):
        said = str(said)
    if not isinstance(said, str):
        raise InputError(f"what was said is {type(said).__name__}; expected a text.")
    return PROTOCOLS[protocol](said, question)


def right(protocol: str, said: Any, question: Any) -> bool:
    """Whether what is read of a text under a protocol is one of the question's right answers."""
    return read(protocol, said, question)[0] in right_answers(question)


def credit(protocol: str, said: Any, question: Any, guesses: bool = False) -> float:
    """What a text earns under a protocol: 1 where it is right, else 0.

    Args:
        protocol: one of :data:`PROTOCOLS`.
        said: the raw text.
        question: the question.
        guesses: where the public scorer would draw one of the options at random, what that is worth on average (1 in
            4 for four options) instead of 0.
    """
    answer, rule = read(protocol, said, question)
    if rule == GUESS and guesses:
        choices = options_of(question).choices
        return sum(choice in right_answers(question) for choice in choices) / max(len(choices), 1)
    return float(answer in right_answers(question))
