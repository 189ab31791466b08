"""How likely answers are, read off the logits of a pass."""

from __future__ import annotations

import torch
from jaxtyping import Float, Int
from torch import Tensor

from lostattn.arguments import checked_call
from lostattn.errors import InputError
from lostattn.prompt.padded_logits import ending_last, last_rows


def last_position(logits: Float[Tensor, "batch pos d_vocab"]) -> Float[Tensor, "batch d_vocab"]:
    """The last real position of each item, in single precision at least."""
    return _wide(last_rows(logits))


@checked_call
def logit_difference(
    logits: Float[Tensor, "batch pos d_vocab"], right: Int[Tensor, "batch"], wrong: Int[Tensor, "batch"]
) -> Float[Tensor, "batch"]:
    """``logit(right) - logit(wrong)`` at each item's last real position."""
    last = last_position(logits)
    check_tokens(logits, right, wrong)
    picked = last.gather(-1, torch.stack([right, wrong], -1).to(last.device))
    return picked[:, 0] - picked[:, 1]


@checked_call
def answer_probability(
    logits: Float[Tensor, "batch pos d_vocab"], right: Int[Tensor, "item"] | Int[Tensor, "item token"]
) -> Float[Tensor, "batch"]:
    """The probability of the right answer: ``exp`` of :func:`answer_log_probability`, which says what is read where."""
    check_tokens(logits, right)
    if right.dim() == 2:
        return answer_log_probability(logits, right).exp()
    return last_position(logits).softmax(-1).gather(-1, right.to(logits.device)[:, None])[:, 0]


@checked_call
def answer_log_probability(
    logits: Float[Tensor, "batch pos d_vocab"], right: Int[Tensor, "item"] | Int[Tensor, "item token"]
) -> Float[Tensor, "batch"]:
    """The log-probability of the right answer; it has a gradient.

    Args:
        logits: of a pass.
        right: one token an item, ``[batch]``: that token behind the prompt, read at each item's last real position. Or
            whole answers, ``[batch, token]`` filled up with -1 (:func:`lostattn.answers.whole_answer_tokens`): then the
            logits are those of prompts that *end* with these answers (``model.prompt(question, answer=…)``), and the
            log-probability of each token is read at the position before it and summed.

    Raises:
        InputError: another number of answers than items; an answer longer than what the logits are of.
    """
    if len(right) != len(logits):
        raise InputError(f"there are {len(right)} right answers for logits of {len(logits)} items; expected one each.")
    check_tokens(logits, right)
    right = right.to(logits.device)
    if right.dim() == 1:
        return last_position(logits).log_softmax(-1).gather(-1, right[:, None])[:, 0]
    length = right.shape[1]
    if length >= logits.shape[1]:
        raise InputError(
            f"the answers have up to {length} tokens, and the logits are of {logits.shape[1]} positions: expected "
            "those of prompts that end with the answers, model.prompt(question, answer=…)."
        )
    # Row -1 stands on the last token of the answer, so what chose an answer of n tokens are the n rows before it.
    rows = _wide(ending_last(logits)[:, -1 - length : -1]).log_softmax(-1)
    said = right >= 0
    places = (torch.arange(length, device=right.device) + said.sum(-1, keepdim=True)) % length
    tokens = right.gather(-1, places)  # the filling first, so that every answer ends in the last column
    each = rows.gather(-1, tokens.clamp_min(0)[..., None])[..., 0]
    return torch.where(tokens >= 0, each, torch.zeros_like(each)).sum(-1)


def check_tokens(logits: Tensor, *answers: Tensor) -> None:
    """Refuse token ids that the logits have no column for; -1 fills whole answers up."""
    n = logits.shape[-1]
    for tokens in answers:
        lowest = 0 if tokens.dim() == 1 else -1
        if tokens.numel() and not (lowest <= int(tokens.min()) and int(tokens.max()) < n):
            raise InputError(
                f"the answers hold the token ids {int(tokens.min())} to {int(tokens.max())}; the logits are of {n} "
                f"tokens, 0 to {n - 1}. Are they of this model?"
            )


def _wide(logits: Float[Tensor, "*any d_vocab"]) -> Float[Tensor, "*any d_vocab"]:
    """In single precision at least."""
    return logits if logits.dtype == torch.float64 else logits.float()
