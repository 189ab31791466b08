"""Whole answers scored: the model is made to say each choice, step by step, and what it would have said is read off.

The passes are those of :meth:`lostattn.LVLM.generate`: the prompt's, and one for each further token, with keys and
values kept between them. So an intervention does what it does in a generation: ``"last"`` is the row that each token is
chosen at, ``steps`` count as there, noise is drawn as there. All choices of one token are heard in the prompt's pass
alone, and what several choices begin with is said once; each other beginning takes a generation.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import torch
from jaxtyping import Float
from torch import Tensor

from lostattn.answers.choices import Choices
from lostattn.answers.metrics import COMPARING, KINDS, TOKENS, check_first_tokens
from lostattn.answers.tokens import Tokens
from lostattn.errors import InputError
from lostattn.plan.intervention import Intervention
from lostattn.plan.touch_record import Touched
from lostattn.points.hooked_model import HookedModel
from lostattn.prompt.batch import Prompt
from lostattn.prompt.padded_logits import padded_ends
from lostattn.remote.dispatch import carry_out
from lostattn.run.calls import Remote
from lostattn.run.make_calls import generate_call

if TYPE_CHECKING:
    import pandas


@dataclass(frozen=True, eq=False, repr=False)
class AnswerScores:
    """How likely each choice of each question is, whole; by item, a number a choice.

    Attributes:
        choices: the choices of each item, and which is right.
        log_probability: of all tokens of a choice, summed: the chance that sampling says these tokens next.
        first: of its first token alone.
        compared: what choices are compared by. It is ``log_probability``; where one choice of an item is the beginning
            of another ("red", "red square") and so is always the likelier of the two, that an answer ends there counts
            in all choices of the item.
        ids: which item each is.
        touched: where the edits acted, in the generation that said most; None without interventions.
    """

    choices: tuple[Choices, ...]
    log_probability: tuple[Float[Tensor, "_"], ...]
    first: tuple[Float[Tensor, "_"], ...]
    compared: tuple[Float[Tensor, "_"], ...]
    ids: tuple[str, ...]
    touched: Touched | None = field(default=None)

    def __len__(self) -> int:
        return len(self.choices)

    def __repr__(self) -> str:
        said = [f"{best!r} {p:.3f}" for best, p in zip(self.best, self.value_of_best(), strict=True)]
        return f"AnswerScores of {len(self)}: likeliest {', '.join(said[:8])}{', …' if len(said) > 8 else ''}"

    @property
    def best(self) -> tuple[Any, ...]:
        """The likeliest choice of each item; the first of several that are equally likely."""
        return tuple(own.answers[int(score.argmax())] for own, score in zip(self.choices, self.compared, strict=True))

    def value_of_best(self) -> list[float]:
        """The probability of each item's likeliest choice."""
        pairs = zip(self.log_probability, self.compared, strict=True)
        return [float(whole[int(score.argmax())].exp()) for whole, score in pairs]

    @property
    def correct(self) -> Float[Tensor, "item"]:
        """1 where the right choice is likelier than every other, else 0."""
        return self.value("correct")

    def value(self, kind: str = "log_probability", tokens: str = "whole") -> Float[Tensor, "item"]:
        """One number an item, of one of the kinds of :func:`lostattn.answers.metric`.

        Args:
            kind: ``"log_probability"`` and ``"probability"`` of the right answer; ``"logit_difference"``: its
                log-probability less that of the likeliest wrong choice (of answers of one token, the difference of
                their logits); ``"correct"``: 1 where that is above 0. Of several right answers, both take the
                likeliest, and the first two the question's ``.answer``.
            tokens: ``"whole"``, or ``"first"`` for the first token of each alone.

        Raises:
            InputError: another kind, ``"logit"`` among them, which a whole answer has none of; an item whose right
                answer nobody said; choices that the first token does not tell apart.
        """
        if kind not in KINDS or kind == "logit":
            raise InputError(f"kind is {kind!r}; of whole answers there are log_probability, probability, "
                             "logit_difference and correct (a logit is of one token).")  # fmt: skip
        if tokens not in TOKENS:
            raise InputError(f"tokens is {tokens!r}; expected 'whole' or 'first'.")
        right = [own.right for own in self.choices]
        if None in right:
            raise InputError(f"the right answer of item {right.index(None)} is not known; score with right=.")
        scores = self.first if tokens == "first" else self.compared if kind in COMPARING else self.log_probability
        own = torch.stack([score[i] for score, i in zip(scores, right, strict=True)])
        if kind == "log_probability":
            return own
        if kind == "probability":
            return own.exp()
        if tokens == "first":
            check_first_tokens(kind, *_sides(self.choices))
        pairs = list(zip(scores, self.choices, strict=True))
        right_most = torch.stack([score[list(of.all_right)].amax() for score, of in pairs])
        wrong_most = torch.stack([_wrong(score, of).amax() for score, of in pairs])
        return (right_most > wrong_most).to(own) if kind == "correct" else right_most - wrong_most

    def table(self) -> pandas.DataFrame:
        """One row an item and choice: ``id, choice, n_tokens, log_probability, probability, first_token, right``.

        ``first_token`` is the log-probability of the first token alone.
        """
        import pandas as pd

        return pd.DataFrame(
            {
                "id": name,
                "choice": choice,
                "n_tokens": len(own.tokens[i]),
                "log_probability": float(whole[i]),
                "probability": float(whole[i].exp()),
                "first_token": float(first[i]),
                "right": None if own.right is None else own.right == i,
            }
            for name, own, whole, first in zip(self.ids, self.choices, self.log_probability, self.first, strict=True)
            for i, choice in enumerate(own.answers)
        )


def score_choices(
    model: HookedModel,
    prompt: Prompt,
    choices: Sequence[Choices],
    interventions: Intervention | None = None,
    remote: Remote = False,
) -> AnswerScores:
    """:meth:`lostattn.LVLM.score_answers`, of a prompt and choices whose tokens are known."""
    if len(choices) != len(prompt):
        raise InputError(f"there are choices for {len(choices)} questions, and the prompt holds {len(prompt)}.")
    if padded_ends(prompt):  # a generation goes on from the last column
        alone = [
            score_choices(model, one, [own], interventions, remote) for one, own in zip(prompt, choices, strict=True)
        ]
        return _joined(alone)
    paths = [own.paths for own in choices]
    n_steps = 1 + max(len(one) for own in paths for one in own)
    if remote is not False and n_steps > 1:
        raise InputError(
            "answers of several tokens are said step by step by the model here, which cannot be sent: leave remote= "
            "out and load the weights, or judge by first tokens, la.answers.metric(…, tokens='first')."
        )
    heard: list[dict[Tokens, Tensor]] = [{} for _ in choices]
    touched: Touched | None = None
    for k in range(max(map(len, paths))):
        said = [own[min(k, len(own) - 1)] for own in paths]
        call = generate_call(model, prompt, interventions, n_steps, **_forcing(model, said, n_steps))
        generation = carry_out(model, call, remote)
        touched = generation.touched if k == 0 else touched
        rows = generation.logits.double().log_softmax(-1)  # [batch, step, d_vocab]
        for i, path in enumerate(said):
            heard[i] |= {path[:step]: rows[i, step] for step in range(len(path) + 1)}
    ends = _ends(model)
    found = [_scores(own, rows, ends) for own, rows in zip(choices, heard, strict=True)]
    whole, first, compared = (tuple(one[i] for one in found) for i in range(3))
    return AnswerScores(tuple(choices), whole, first, compared, prompt.ids, touched)


def _forcing(model: HookedModel, said: Sequence[Tokens], n_steps: int) -> dict[str, Any]:
    """Settings of a generation that says given tokens, and tells what each step would have said."""
    settings: dict[str, Any] = {"do_sample": False, "num_beams": 1, "num_return_sequences": 1, "output_logits": True}
    if n_steps > 1:  # nothing that is said ends an answer here, whatever ends one elsewhere
        settings |= {"logits_processor": [_Forced(said)], "eos_token_id": -1, "stop_strings": None, "max_time": None}
    return settings


def _ends(model: HookedModel) -> tuple[int, ...]:
    """The tokens that end an answer."""
    found = getattr(getattr(model.hf, "generation_config", None), "eos_token_id", None)
    return () if found is None else (int(found),) if isinstance(found, int) else tuple(int(one) for one in found)


class _Forced:
    """A logits processor by which given tokens are chosen, one a step; behind them, whatever was chosen last."""

    def __init__(self, said: Sequence[Tokens]) -> None:
        self.said = said
        self.step = 0

    def __call__(self, input_ids: Tensor, scores: Tensor) -> Tensor:
        rows = [(*path, *path[-1:]) or (0,) for path in self.said]
        wanted = torch.tensor([row[min(self.step, len(row) - 1)] for row in rows], device=scores.device)
        self.step += 1
        return torch.full_like(scores, float("-inf")).scatter(1, wanted[:, None], 0.0)


def _scores(own: Choices, rows: dict[Tokens, Tensor], ends: Sequence[int]) -> tuple[Tensor, Tensor, Tensor]:
    """Of one item's choices: whole log-probability, that of the first token, and what they are compared by."""
    whole = torch.stack([torch.stack([rows[ids[:j]][ids[j]] for j in range(len(ids))]).sum() for ids in own.tokens])
    first = torch.stack([rows[()][ids[0]] for ids in own.tokens])
    if not own.nested:
        return whole, first, whole
    if not ends:
        raise InputError(
            f"one of the choices {list(own.answers)} is the beginning of another, and the model names no token that "
            "ends an answer, by which they could be told apart: set model.hf.generation_config.eos_token_id."
        )
    over = torch.stack([rows[ids][list(ends)].logsumexp(-1) for ids in own.tokens])
    return whole, first, whole + over


def _sides(choices: Sequence[Choices]) -> tuple[list[Tokens], list[list[Tokens]]]:
    """The tokens of each item's right choice, and those of the others."""
    right = [own.tokens[own.right or 0] for own in choices]
    return right, [[ids for i, ids in enumerate(own.tokens) if i not in own.all_right] for own in choices]


def _wrong(scores: Float[Tensor, "choice"], of: Choices) -> Float[Tensor, "other"]:
    """The scores of the wrong choices.

    Raises:
        InputError: there is none.
    """
    others = [score for i, score in enumerate(scores) if i not in of.all_right]
    if not others:
        raise InputError("the right answer is the only choice, so there is nothing to compare with; give choices=.")
    return torch.stack(others)


def _joined(parts: Sequence[AnswerScores]) -> AnswerScores:
    """The scores of several prompts as those of one; where edits acted is told of none of them."""
    fields = ("choices", "log_probability", "first", "compared", "ids")
    joined: dict[str, Any] = {name: tuple(one for part in parts for one in getattr(part, name)) for name in fields}
    return AnswerScores(**joined)
