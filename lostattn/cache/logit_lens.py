"""The logit lens: each layer's stream read through the final norm and the unembedding."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Annotated, Any

import torch
from jaxtyping import Float, Int
from torch import Tensor

from lostattn.arguments import checked_call
from lostattn.arguments.kinds import Count
from lostattn.arguments.known_by import AtLeastOne
from lostattn.cache.decomposition import Decomposition
from lostattn.errors import InputError, OutOfRange, UnknownName, nearest
from lostattn.points.hooked_model import HookedModel

if TYPE_CHECKING:
    import pandas


@checked_call
@dataclass(frozen=True, eq=False, repr=False)
class Readout:
    """Streams as the unembedding reads them.

    Attributes:
        logits: one row a stream, ``[stream, *batch, pos, token]``; all tokens, or those of ``token_ids``.
        log_total: the logarithm of the softmax's denominator, so that probabilities are over the whole vocabulary.
        labels: which stream each row is: ``"0_pre"``, ``"0_mid"``, …, ``"final_post"``.
        token_ids: the tokens kept; None for all.
    """

    logits: Float[Tensor, "stream *rest token"]
    log_total: Float[Tensor, "stream *rest"]
    labels: tuple[str, ...]
    token_ids: Int[Tensor, "token"] | None = None

    def __repr__(self) -> str:
        return f"Readout of {len(self.labels)} streams, {tuple(self.logits.shape)} [stream, …, token]: {self.labels}"

    @property
    def probabilities(self) -> Float[Tensor, "stream *rest token"]:
        """The softmax over the whole vocabulary, at the tokens kept."""
        return (self.logits - self.log_total[..., None]).exp()

    def rank(self, token: int) -> Int[Tensor, "stream *rest"]:
        """How many tokens have a higher logit than this one: 0 where it is the most likely.

        Raises:
            InputError: only some tokens were kept.
        """
        if self.token_ids is not None:
            raise InputError("this readout kept only some tokens, so a rank among all is not known; leave tokens= out.")
        if not 0 <= token < self.logits.shape[-1]:
            raise OutOfRange(f"token is {token}; expected an id from 0 to {self.logits.shape[-1] - 1}.")
        return (self.logits > self.logits[..., token : token + 1]).sum(-1)

    def table(self, model: HookedModel, k: Count = 3) -> pandas.DataFrame:
        """The ``k`` most likely tokens of every stream, item and position, as text.

        Columns ``stream, item, position, rank, token, text, logit, probability``; positions are counted as kept.
        """
        import pandas as pd

        shown = self.logits if self.logits.dim() == 4 else self.logits[:, None]
        total = self.log_total if self.log_total.dim() == 3 else self.log_total[:, None]
        best = shown.topk(min(k, shown.shape[-1]), dim=-1)
        kept = best.indices if self.token_ids is None else self.token_ids[best.indices]
        probability = (best.values - total[..., None]).exp()
        rows = [
            {
                "stream": self.labels[s],
                "item": b,
                "position": p,
                "rank": r,
                "token": int(kept[s, b, p, r]),
                "text": model.processor.tokenizer.decode([int(kept[s, b, p, r])]),
                "logit": float(best.values[s, b, p, r]),
                "probability": float(probability[s, b, p, r]),
            }
            for s, b, p, r in torch.cartesian_prod(*map(torch.arange, best.values.shape)).tolist()
        ]
        return pd.DataFrame(rows)


@checked_call
def logit_lens(
    cache: Decomposition,
    positions: Any = "last",
    streams: Annotated[str | Iterable[str] | None, AtLeastOne] = None,
    incl_mid: bool = False,
    tokens: Iterable[int] | None = None,
) -> Readout:
    """Read the stream before each layer through the final norm and the unembedding.

    Each stream is normed with its own statistics, by the model's own modules, and its logits are scaled and capped as
    the model does it; the last row is the model's own logits.

    Args:
        cache: one that kept the residual stream.
        positions: which positions; a name, a slice, a list. All of a long prompt times a large vocabulary is a lot:
            say which you need, or give ``tokens``.
        streams: only these (``"3_pre"``, ``"final_post"``, …).
        incl_mid: also the streams between attention and FFN.
        tokens: keep only these tokens' logits; probabilities stay those over the whole vocabulary.

    Raises:
        UnknownName: a stream of another name.
        InputError: a token that is no id.
    """
    kept = [positions] if isinstance(positions, int) else positions  # an int, too, keeps its axis
    stack, labels = cache.accumulated_resid(incl_mid=incl_mid, pos_slice=kept, return_labels=True)
    if streams is not None:
        chosen = [streams] if isinstance(streams, str) else list(streams)
        for name in chosen:
            if name not in labels:
                raise UnknownName(f"no stream is called {name!r}; there are {labels}.{nearest(name, labels)}")
        stack, labels = stack[[labels.index(name) for name in chosen]], chosen
    ids = None if tokens is None else _ids(list(tokens), cache)
    return read(cache, stack, labels, ids)


def read(
    cache: Decomposition, stack: Float[Tensor, "stream *rest d_model"], labels: list[str], ids: Tensor | None = None
) -> Readout:
    """Streams as the model reads its logits off the last, one at a time so that only what is kept is ever whole."""
    logits, totals = [], []
    with torch.no_grad():
        for stream in stack:
            every = cache.to_logits(stream).float()
            totals.append(every.logsumexp(-1))
            logits.append(every if ids is None else every[..., ids])
    return Readout(torch.stack(logits), torch.stack(totals), tuple(labels), ids)


def _ids(tokens: list[int], cache: Decomposition) -> Tensor:
    n = cache._d_vocab
    if not tokens or any(type(t) is not int or not 0 <= t < n for t in tokens):
        raise InputError(f"tokens is {tokens!r}; expected ids from 0 to {n - 1}.")
    return torch.tensor(tokens)
