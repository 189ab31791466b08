"""The tokens of an answer, as they would follow a prompt."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from jaxtyping import Int
from torch import Tensor

from lostattn.answers.continued import tokens_behind, tokens_behind_texts
from lostattn.arguments import checked_call
from lostattn.errors import InputError
from lostattn.points.hooked_model import HookedModel
from lostattn.prompt.batch import Prompt

Tokens = tuple[int, ...]


@checked_call
def answer_tokens(model: HookedModel, question: Any, answer: Any = None) -> Int[Tensor, "batch"]:
    """The first token of each answer, as it would follow the prompt.

    Found by writing the answer after the prompt with the model's own template, so that whether a blank belongs to the
    token is the template's doing and no guess. Behind an answer so far, and where there is no template, a blank is put
    between two words.

    Args:
        model: the model, with its processor.
        question: a question, a text (then one answer, and no picture is needed), a list of either, or a prompt.
        answer: what to look up: a text, or the ids of its tokens (an int, or a tuple of several); one for all or a
            list of one for each. None takes each question's own ``.answer``.

    Raises:
        InputError: an empty answer, or a number of answers other than that of the questions.
    """
    return torch.tensor([own[0] for own in answers_of(model, question, answer)])


@checked_call
def whole_answer_tokens(model: HookedModel, question: Any, answer: Any = None) -> Int[Tensor, "batch token"]:
    """All tokens of each answer, shorter ones filled up with -1; otherwise as :func:`answer_tokens`."""
    return filled(answers_of(model, question, answer))


def answers_of(model: HookedModel, question: Any, answer: Any = None) -> list[Tokens]:
    """All tokens of each answer; see :func:`answer_tokens`."""
    items = asked_items(model, question)
    if answer is None:
        answer = [getattr(one, "answer", "") for one in items]
    given = one_each(answer, len(items))
    return tokens_of(model, items, list(enumerate(given)))


def asked_items(model: HookedModel, question: Any) -> list[Any]:
    """What is asked, one by one: questions, texts, or prompts of one item."""
    single = isinstance(question, str) or not isinstance(question, Sequence)
    items = [question] if single else list(question)
    if not items:
        raise InputError("question is an empty list; expected a question, or several.")
    if isinstance(question, Prompt) or not all(isinstance(one, str) or hasattr(one, "text") for one in items):
        return list(model._prompted(question))
    return items


def one_each(answer: Any, n: int) -> list[Any]:
    """One answer an item, of one for all or a list.

    Raises:
        InputError: another number of them, or one that is none.
    """
    answer = plain(answer)
    answers = answer if isinstance(answer, list) else [answer] * n
    if len(answers) != n or not all(map(is_answer, answers)):
        raise InputError(
            f"answers are {answers!r} for {n} questions; give one text for each, or one str; or the ids of its tokens: "
            "an int, or a tuple of them."
        )
    return answers


def plain(answer: Any) -> Any:
    """Answers without tensors and arrays: a text, an id, a tuple of ids, or a list."""
    if isinstance(answer, Tensor | np.ndarray | np.integer):
        answer = answer.tolist()
        rows = answer if isinstance(answer, list) else [answer]
        told = [tuple(t for t in row if t >= 0) if isinstance(row, list) else row for row in rows]
        return told if isinstance(answer, list) else answer
    if isinstance(answer, tuple) and not all(type(one) is int for one in answer):
        answer = list(answer)  # of texts; a tuple of ids is one answer
    return [plain(one) for one in answer] if isinstance(answer, list) else answer


def is_answer(value: Any) -> bool:
    """Whether something can be an answer: a text that is not blank, or ids."""
    if isinstance(value, str):
        return bool(value.strip())
    ids = value if isinstance(value, tuple | list) else (value,)
    return bool(ids) and all(type(token) is int and token >= 0 for token in ids)


def tokens_of(model: HookedModel, items: Sequence[Any], spoken: Sequence[tuple[int, Any]]) -> list[Tokens]:
    """The tokens of answers to some items: of ``(item, answer)``, in their order.

    Raises:
        InputError: an id outside the vocabulary; a text, of a model without a tokenizer.
    """
    found: dict[int, Tokens] = {}
    n = model.cfg.d_vocab
    of_texts: list[int] = []
    of_prompts: list[int] = []
    for k, (i, answer) in enumerate(spoken):
        if not isinstance(answer, str):
            found[k] = tuple(answer) if isinstance(answer, tuple | list) else (answer,)
            if max(found[k]) >= n:
                raise InputError(f"the answer {answer!r} holds an id outside the model's vocabulary of {n}.")
            continue
        if model.processor is None:
            raise InputError(f"the answer is the text {answer!r}, and the model has no tokenizer: give ids of tokens.")
        (of_prompts if isinstance(items[i], Prompt) else of_texts).append(k)
    texts = [getattr(items[spoken[k][0]], "text", items[spoken[k][0]]) for k in of_texts]
    found |= zip(of_texts, tokens_behind_texts(model, texts, [spoken[k][1] for k in of_texts]), strict=True)
    for k in of_prompts:
        found[k] = tokens_behind(model, items[spoken[k][0]], spoken[k][1])
    return [found[k] for k in range(len(spoken))]


def filled(rows: Sequence[Tokens]) -> Int[Tensor, "batch token"]:
    """Rows of unequal length as one tensor, filled up with -1."""
    widest = max(map(len, rows))
    return torch.tensor([[*own, *[-1] * (widest - len(own))] for own in rows])
