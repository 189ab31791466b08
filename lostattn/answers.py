"""Answers as tokens, and how much a model favours them: what lenses, patching and knockouts are judged by."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from jaxtyping import Float, Int
from torch import Tensor

from lostattn.errors import InputError
from lostattn.points.hooked_model import HookedModel
from lostattn.prompt.padded_logits import last_rows


def answer_tokens(model: HookedModel, question: Any, answer: str | Sequence[str] | None = None) -> Int[Tensor, "batch"]:
    """The first token of each answer, as it would follow the prompt.

    Found by writing the answer after the prompt with the model's own template, so that whether a blank belongs to the
    token is the template's doing and no guess.

    Args:
        model: the model, with its processor.
        question: a question, a text (then one answer, and no picture is needed), or a list of either.
        answer: what to look up; None takes each question's own ``.answer``.

    Raises:
        InputError: an empty answer, or a number of answers other than that of the questions.
    """
    items = list(question) if isinstance(question, list | tuple) else [question]
    if answer is None:
        answer = [getattr(one, "answer", "") for one in items]
    answers = [answer] * len(items) if isinstance(answer, str) else list(answer)
    if len(answers) != len(items) or not all(isinstance(a, str) and a.strip() for a in answers):
        raise InputError(f"answers are {answers!r} for {len(items)} questions; give one text for each, or one str.")
    texts = [getattr(one, "text", one) for one in items]
    prompt = model.prompt(texts, answer=answers)
    said = prompt.token_map["answer"]
    first = said & (said.cumsum(-1) == 1)
    return prompt.inputs["input_ids"][first]


KINDS = ("logit_difference", "logit", "probability", "log_probability", "correct")
"""What :func:`metric` can judge the answer by."""
COMPARING = ("logit_difference", "correct")
"""Those of them that need wrong answers too."""


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
        last = _last(logits)
        if self.kind in ("probability", "log_probability"):
            last = last.log_softmax(-1)
        right = last.gather(-1, self.right.to(last.device)[:, None])[:, 0]
        if self.wrong is None:
            return right.exp() if self.kind == "probability" else right
        there = self.wrong.to(last.device)
        best = last.gather(-1, there.clamp_min(0)).masked_fill(there < 0, float("-inf")).amax(-1)
        return (right > best).to(last.dtype) if self.kind == "correct" else right - best

    def __repr__(self) -> str:
        return f"AnswerMetric({self.kind!r}, {len(self.right)} questions)"


def metric(
    model: HookedModel, question: Any, kind: str = "logit_difference", wrong: str | Sequence[str] | None = None
) -> AnswerMetric:
    """A metric of logits that knows the answers: by the first token of each, as it would follow the prompt.

    Args:
        model: the model, with its processor.
        question: a question with an ``answer`` (and ``choices``), or a list of them, as in the prompt.
        kind: ``"logit_difference"``: the right answer's logit less that of the likeliest wrong one; ``"logit"``,
            ``"probability"``, ``"log_probability"``: the right answer's own; ``"correct"``: 1 where it is likelier than
            every wrong one, else 0 (which has no gradient).
        wrong: the wrong answer, one for all or one for each; None takes each question's other choices.

    Raises:
        InputError: another kind, a question without an answer, or one that has no wrong answer where the kind needs it.
    """
    if kind not in KINDS:
        raise InputError(f"kind is {kind!r}; expected one of {', '.join(map(repr, KINDS))}.")
    items: list[Any] = [question] if isinstance(question, str) or not isinstance(question, Sequence) else list(question)
    right = answer_tokens(model, items)
    if kind not in COMPARING:
        return AnswerMetric(kind, right)
    if wrong is not None:
        return AnswerMetric(kind, right, answer_tokens(model, items, wrong)[:, None])
    others = [[c for c in getattr(one, "choices", ()) if c != one.answer] for one in items]
    spoken = [(i, choice) for i, own in enumerate(others) for choice in own]
    tokens = answer_tokens(model, [items[i] for i, _ in spoken], [c for _, c in spoken]).tolist() if spoken else []
    found: list[list[int]] = [[] for _ in items]
    for (i, _), token in zip(spoken, tokens, strict=True):
        if token != int(right[i]):  # an answer that begins as the right one does cannot be told from it
            found[i].append(token)
    lacking = next((one for one, own in zip(items, found, strict=True) if not own), None)
    if lacking is not None:
        raise InputError(
            f"{lacking!r} has no other choice whose first token differs from the right answer's, so {kind!r} has "
            "nothing to compare with; give wrong=, or take kind='probability'."
        )
    widest = max(map(len, found))
    padded = torch.tensor([own + [-1] * (widest - len(own)) for own in found], device=right.device)
    return AnswerMetric(kind, right, padded)


def _last(logits: Float[Tensor, "batch pos d_vocab"]) -> Float[Tensor, "batch d_vocab"]:
    """The last real position of each item, in single precision at least."""
    last = last_rows(logits)
    return last if last.dtype == torch.float64 else last.float()


def logit_difference(
    logits: Float[Tensor, "batch pos d_vocab"], right: Int[Tensor, "batch"], wrong: Int[Tensor, "batch"]
) -> Float[Tensor, "batch"]:
    """``logit(right) - logit(wrong)`` at each item's last real position."""
    last = _last(logits)
    picked = last.gather(-1, torch.stack([right, wrong], -1).to(last.device))
    return picked[:, 0] - picked[:, 1]


def answer_probability(
    logits: Float[Tensor, "batch pos d_vocab"], right: Int[Tensor, "batch"]
) -> Float[Tensor, "batch"]:
    """The probability of the right token at each item's last real position."""
    return _last(logits).softmax(-1).gather(-1, right.to(logits.device)[:, None])[:, 0]
