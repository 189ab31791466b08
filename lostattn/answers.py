"""Answers as tokens, and how much a model favours them: what lenses, patching and knockouts are judged by."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import torch
from jaxtyping import Float, Int
from torch import Tensor

from lostattn.errors import InputError

if TYPE_CHECKING:
    from lostattn.model import LVLM


def answer_tokens(model: LVLM, question: Any, answer: str | Sequence[str] | None = None) -> Int[Tensor, "batch"]:
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


def logit_difference(
    logits: Float[Tensor, "batch pos d_vocab"], right: Int[Tensor, "batch"], wrong: Int[Tensor, "batch"]
) -> Float[Tensor, "batch"]:
    """``logit(right) - logit(wrong)`` at the last position (batches are padded on the left)."""
    last = logits[:, -1].float()
    picked = last.gather(-1, torch.stack([right, wrong], -1).to(last.device))
    return picked[:, 0] - picked[:, 1]


def answer_probability(
    logits: Float[Tensor, "batch pos d_vocab"], right: Int[Tensor, "batch"]
) -> Float[Tensor, "batch"]:
    """The probability of the right token at the last position."""
    return logits[:, -1].float().softmax(-1).gather(-1, right.to(logits.device)[:, None])[:, 0]
