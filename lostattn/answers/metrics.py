"""Metrics of logits that know the answers: whatever takes a metric of logits can be judged by them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from jaxtyping import Float, Int
from torch import Tensor

from lostattn.answers.of_logits import check_tokens, last_position
from lostattn.answers.tokens import Tokens, asked_items, filled, is_answer, one_each, plain, tokens_of
from lostattn.arguments import checked_call
from lostattn.errors import InputError
from lostattn.points.hooked_model import HookedModel

KINDS = ("logit_difference", "logit", "probability", "log_probability", "correct")
"""What :func:`metric` can judge the answer by."""
COMPARING = ("logit_difference", "correct")
"""Those of them that need wrong answers too."""
TOKENS = ("whole", "first")
WHOLE = (
    "model.score_answers(question) and model.measure(data, …) judge whole answers; tokens='first' judges the first "
    "token, whatever follows it"
)


@checked_call
@dataclass(frozen=True, eq=False, repr=False)
class AnswerMetric:
    """How much logits favour right answers, at each item's last real position: ``metric(logits) -> [item]``.

    Made by :func:`metric`; goes wherever a metric of logits goes: ``run_with_cache(backward=)``, sweeps, attribution.

    Attributes:
        kind: one of :data:`KINDS`.
        right: the first token of each right answer.
        wrong: those of the wrong ones, filled up with -1; None where the kind needs none.
    """

    kind: str
    right: Int[Tensor, "batch"]
    wrong: Int[Tensor, "batch other"] | None = None

    def __call__(self, logits: Float[Tensor, "batch pos d_vocab"]) -> Float[Tensor, "batch"]:
        """The metric of each item.

        Raises:
            InputError: another number of items than the questions that it was made for.
        """
        if len(logits) != len(self.right):
            raise InputError(f"the metric was made for {len(self.right)} questions; the logits are of {len(logits)}.")
        check_tokens(logits, self.right)
        last = last_position(logits)
        if self.kind in ("probability", "log_probability"):
            last = last.log_softmax(-1)
        right = last.gather(-1, self.right.to(last.device)[:, None])[:, 0]
        if self.wrong is None:
            return right.exp() if self.kind == "probability" else right
        check_tokens(logits, self.wrong.flatten(1))
        there = self.wrong.to(last.device)
        best = last.gather(-1, there.clamp_min(0)).masked_fill(there < 0, float("-inf")).amax(-1)
        return (right > best).to(last.dtype) if self.kind == "correct" else right - best

    def __repr__(self) -> str:
        return f"AnswerMetric({self.kind!r}, {len(self.right)} questions)"


@checked_call
def metric(
    model: HookedModel,
    question: Any,
    kind: str = "logit_difference",
    wrong: Any = None,
    right: Any = None,
    tokens: str = "whole",
) -> AnswerMetric:
    """A metric of logits that knows the answers, by the tokens with which they would follow the prompt.

    ::

        prompt = model.prompt("What shape is the red object?", images=[picture])
        metric = la.answers.metric(model, prompt, right="circle", wrong=["square", "cross"])

    The logits of a prompt say what comes next, one token. An answer of several tokens is not judged by its first one
    unless you ask for that: see ``tokens``.

    Args:
        model: the model, with its processor (without one, answers are ids).
        question: a question with an ``answer`` (and ``choices``), a text, a list of either, or the prompt itself.
        kind: ``"logit_difference"``: the right answer's logit less that of the likeliest wrong one, at the first token,
            by which they must differ; ``"logit"``, ``"probability"``, ``"log_probability"``: the right answer's own;
            ``"correct"``: 1 where it is likelier than every wrong one, else 0 (which has no gradient).
        wrong: the wrong answers: one for all items, or a list with one, or a list of several, for each (of one item
            also the list of several itself). A text, or ids as in :func:`answer_tokens`. None takes each question's
            other choices.
        right: the right answer, one for all or a list of one for each; None takes each question's own.
        tokens: ``"whole"``: what the first token does not settle is refused: ``probability``, ``log_probability``,
            ``logit`` and ``correct`` of answers of several tokens. ``"first"``: they are judged by their first tokens.

    Raises:
        InputError: another kind; no right answer, or no wrong one where the kind needs it; a wrong answer that begins
            with the right one's first token, so that nothing here tells them apart; answers of several tokens, unless
            ``tokens="first"``.
    """
    if kind not in KINDS:
        raise InputError(f"kind is {kind!r}; expected one of {', '.join(map(repr, KINDS))}.")
    if tokens not in TOKENS:
        raise InputError(f"tokens is {tokens!r}; expected 'whole' or 'first'.")
    own, others = judged_answers(model, question, right, wrong, kind in COMPARING)
    if tokens == "whole" and kind != "logit_difference":
        check_single(kind, own, others)
    first = filled([one[:1] for one in own])[:, 0]
    if kind not in COMPARING:
        return AnswerMetric(kind, first)
    check_first_tokens(kind, own, others)
    return AnswerMetric(kind, first, filled([tuple(one[0] for one in beside) for beside in others]))


def judged_answers(
    model: HookedModel, question: Any, right: Any, wrong: Any, comparing: bool
) -> tuple[list[Tokens], list[list[Tokens]]]:
    """The tokens of each item's right answer and of its wrong ones (none where they are not asked for)."""
    items = asked_items(model, question)
    texts, beside = said_answers(items, right, wrong, comparing)
    spoken = list(enumerate(texts)) + [(i, one) for i, own in enumerate(beside) for one in own]
    found = tokens_of(model, items, spoken)
    others: list[list[Tokens]] = [[] for _ in items]
    for (i, _), ids in zip(spoken[len(items) :], found[len(items) :], strict=True):
        others[i].append(ids)
    return found[: len(items)], others


def said_answers(items: Sequence[Any], right: Any, wrong: Any, comparing: bool) -> tuple[list[Any], list[list[Any]]]:
    """Each item's right answer and its wrong ones, as they are given.

    Raises:
        InputError: there is none.
    """
    if right is None:
        lacking = next((one for one in items if not getattr(one, "answer", "")), None)
        if lacking is not None:
            what = "a text" if isinstance(lacking, str) else f"a {type(lacking).__name__.lower()}"
            raise InputError(
                f"the right answers are not known: {_short(lacking)} is {what}, which holds none; say which it is: "
                "right='circle', a text or the ids of its tokens."
            )
        right = [one.answer for one in items]
    texts = one_each(right, len(items))
    if not comparing:
        return texts, [[] for _ in items]
    if wrong is None:
        others = [
            [c for c in getattr(one, "choices", ()) if c != text and c not in getattr(one, "answers", ())]
            for one, text in zip(items, texts, strict=True)
        ]
    else:
        others = several_each(wrong, len(items))
    for one, own in zip(items, others, strict=True):
        if not own:
            raise InputError(
                f"{_short(one)} has no other choice whose first token differs from the right answer's: there is "
                "nothing to compare with; give wrong=, or take kind='probability'."
            )
    return texts, others


def several_each(wrong: Any, n: int) -> list[list[Any]]:
    """The wrong answers of each item, of one for all, one each, or several each.

    Raises:
        InputError: another number of them, or one that is none.
    """
    wrong = plain(wrong)
    if n == 1 and isinstance(wrong, list) and wrong and all(is_answer(one) and type(one) is not list for one in wrong):
        return [wrong]
    if isinstance(wrong, list) and len(wrong) == n and all(isinstance(own, list) for own in wrong):
        if all(own and all(map(is_answer, own)) for own in wrong):
            return wrong
        raise InputError(f"wrong is {wrong!r}; expected texts, or ids of tokens, in the list of each question.")
    return [[one] for one in one_each(wrong, n)]


def check_first_tokens(kind: str, own: Sequence[Tokens], others: Sequence[Sequence[Tokens]]) -> None:
    """Refuse answers that the first token does not tell apart: leaving one out would make a wrong answer a right one.

    Raises:
        InputError: as said.
    """
    for i, (right, beside) in enumerate(zip(own, others, strict=True)):
        alike = [one for one in beside if one[0] == right[0] and one != right]  # of itself, the difference is 0
        if alike:
            raise InputError(
                f"question {i}: the right answer, of the tokens {list(right)}, and a wrong one, of {list(alike[0])}, "
                f"begin alike, so logits at the prompt's last position do not tell them apart, and {kind!r} cannot be "
                "judged by them. model.score_answers(question) and model.measure(data, …) compare whole answers. For a "
                "metric of logits, put what they have in common into the prompt, model.prompt(question, answer='…'), "
                "and give right= and wrong= as they go on."
            )


def check_single(kind: str, own: Sequence[Tokens], others: Sequence[Sequence[Tokens]]) -> None:
    """Refuse answers of several tokens for a metric that would be of their first ones.

    Raises:
        InputError: as said.
    """
    every = [one for right, beside in zip(own, others, strict=True) for one in (right, *beside)]
    longer = max(every, key=len)
    if len(longer) > 1:
        raise InputError(
            f"an answer has {len(longer)} tokens {list(longer)}, and the logits of a prompt say how likely the first "
            f"of them is: that is not the {kind} of the answer. {WHOLE}. With the answer in the prompt, "
            "la.answers.answer_log_probability reads all of it off the logits."
        )


def _short(one: Any) -> str:
    text = repr(one).split("\n")[0]
    return text if len(text) <= 120 else f"{text[:117]}..."
