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

from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING, Any

from lostattn.arguments import checked_call
from lostattn.arguments.known_by import QuestionLike
from lostattn.data.scoring.asked_for import options_of, right_answers
from lostattn.data.scoring.lmms_letters import realworldqa_lmms, threedsr_lmms
from lostattn.data.scoring.mathvista import mathvista_official, mathvista_official_unguarded
from lostattn.data.scoring.mmmu_choice import GUESS, mmmu_lmms, mmmu_lmms_0_7_3, mmmu_official, vmcbench_lmms
from lostattn.data.scoring.set_scores import Judged, set_table
from lostattn.data.scoring.strict import strict
from lostattn.data.scoring.vlmevalkit_choice import vlmevalkit_choice
from lostattn.data.scoring.yes_no import pope_lmms, pope_official, yes_or_no_vlmevalkit
from lostattn.errors import InputError, UnknownName, nearest

if TYPE_CHECKING:
    import pandas

__all__ = ["GUESS", "PROTOCOLS", "credit", "read", "right", "right_answers", "scores", "strict"]

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


@checked_call
def read(protocol: str, said: Any, question: QuestionLike) -> tuple[str | None, str]:
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


@checked_call
def right(protocol: str, said: Any, question: QuestionLike) -> bool:
    """Whether what is read of a text under a protocol is one of the question's right answers."""
    return read(protocol, said, question)[0] in right_answers(question)


@checked_call
def credit(protocol: str, said: Any, question: QuestionLike, guesses: bool = False) -> float:
    """What a text earns under a protocol: 1 where it is right, else 0.

    Args:
        protocol: one of :data:`PROTOCOLS`.
        said: the raw text.
        question: the question.
        guesses: where the public scorer would draw one of the options at random, what that is worth on average (1 in
            4 for four options) instead of 0.
    """
    return _worth(*read(protocol, said, question), question, guesses)


def _worth(answer: str | None, rule: str, question: Any, guesses: bool) -> float:
    if rule == GUESS and guesses:
        choices = options_of(question).choices
        return sum(choice in right_answers(question) for choice in choices) / max(len(choices), 1)
    return float(answer in right_answers(question))


@checked_call
def scores(
    questions: Sequence[QuestionLike],
    said: Sequence[Any] | Mapping[str, Any],
    protocol: str = "strict",
    guesses: bool = False,
    by: Sequence[str] = (),
) -> pandas.DataFrame:
    """The scores of a whole set of answers under a protocol, each beside what guessing would give.

    Accuracy over all, by kind, and by what the source groups kinds into; of yes-and-no questions F1 in the ways in
    which it is quoted (pooled over all rows, pooled over those that were read, mean of the kinds) and the share of yes
    among the answers; of questions that must be right together the share of sets that are (HallusionBench's fAcc and
    qAcc, 3DSRBench's flip, circular and flip-circular).

    Args:
        questions: the questions.
        said: the raw texts, in the order of the questions, or by question id.
        protocol: one of :data:`PROTOCOLS`.
        guesses: count what a public scorer draws at random by its average; see :func:`credit`.
        by: facts of the questions to break accuracy down by, for example ``("grade", "skills")``.

    Returns:
        One row a score and part: ``score, part, value, n, chance, unread``.

    Raises:
        InputError: another number of texts than of questions, a question without its text, or half a set.
    """
    if isinstance(said, Mapping):
        lacking = [question.id for question in questions if question.id not in said]
        if lacking:
            raise InputError(
                f"nothing was said to question {lacking[0]!r} ({len(lacking)} such); give a text for each."
            )
        said = [said[question.id] for question in questions]
    if len(said) != len(questions):
        raise InputError(f"there are {len(said)} texts for {len(questions)} questions; give one for each.")
    judged = []
    for question, text in zip(questions, said, strict=True):
        choices, right_ones = tuple(question.choices), right_answers(question)
        chance = sum(choice in right_ones for choice in choices) / len(choices) if choices else 0.0
        answer, rule = read(protocol, text, question)
        judged.append(Judged(question, answer, _worth(answer, rule, question, guesses), chance))
    return set_table(judged, by)
