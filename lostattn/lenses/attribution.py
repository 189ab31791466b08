"""Direct logit attribution: how much each part of the stream writes towards the answer, as a table."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import torch

from lostattn.arguments import checked_call
from lostattn.cache.activation_cache import ActivationCache
from lostattn.errors import InputError

if TYPE_CHECKING:
    import pandas


@checked_call
def direct_attribution(
    cache: ActivationCache, tokens: Any, incorrect_tokens: Any = None, position: Any = "last", by: str = "layer"
) -> pandas.DataFrame:
    """What each update or head of a position's stream writes towards a token's logit (or a difference of two).

    The final norm's scale is held at what it was, so the parts add up to the logit (without an unembedding's bias).
    What a part does through later layers is not in it: for that, patch (:mod:`lostattn.patching`).

    Args:
        cache: one that kept the residual stream (and ``z`` for heads).
        tokens: ids, one or one an item.
        incorrect_tokens: subtract what is written towards these.
        position: one position an item: ``"last"`` or an int.
        by: ``"layer"`` (the beginning, each attention, each FFN) or ``"head"`` (each head, and the rest together).

    Returns:
        One row a part and item: ``item, component, layer, head, logit``; layer and head are -1 where there is none.

    Raises:
        InputError: ``position`` names several positions, or ``by`` is another word.
    """
    import pandas as pd

    if by not in ("layer", "head"):
        raise InputError(f"by is {by!r}; expected 'layer' or 'head'.")
    if by == "layer":
        stack, labels = cache.decompose_resid(pos_slice=position, return_labels=True)
    else:
        stack, labels = cache.stack_head_results(pos_slice=position, incl_remainder=True, return_labels=True)
    found = cache.logit_attrs(stack, tokens, incorrect_tokens, pos_slice=position)
    found = found.reshape(len(labels), 1 if not cache.has_batch_dim else stack.shape[1], -1)
    if found.shape[-1] != 1:
        raise InputError(f"position {position!r} names {found.shape[-1]} positions; expected one, such as 'last'.")
    items = torch.arange(found.shape[1]).tolist()
    rows = [
        {"item": b, "component": label, **_place(label), "logit": float(found[c, b, 0])}
        for b in items
        for c, label in enumerate(labels)
    ]
    return pd.DataFrame(rows)


def _place(label: str) -> dict[str, int]:
    if label.startswith("L"):
        layer, head = label[1:].split("H")
        return {"layer": int(layer), "head": int(head)}
    first = label.split("_")[0]
    return {"layer": int(first) if first.isdigit() else -1, "head": -1}
