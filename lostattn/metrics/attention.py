"""Where attention goes: mass on a set of keys, spread over keys, and sinks.

All read patterns, the weights after the softmax, ``[*batch, head, query, key]``, of which the queries are the
*last* rows of the sequence (all of them, or only the last row of a prefill). A padding mask is
``[*batch, key]``, True at real tokens: padded keys count for nothing, and the rows of padded queries come out
as 0. Results are float64.

Two uses of the word *sink* are common, and both are here. Xiao et al. (StreamingLLM, ICLR 2024) keep the
first few positions, four of them, because attention rests there whatever they say: ``sink_mass`` is the
weight on the first k. Gu et al. ("When Attention Sink Emerges", ICLR 2025) call a key a sink of a head when
the weight it gets, averaged over the queries that may see it, is above a threshold of 0.3: ``sink_positions``
finds those, wherever they stand.
"""

from __future__ import annotations

from jaxtyping import Bool, Float
from torch import Tensor

from lostattn.arguments import checked_call
from lostattn.errors import InputError
from lostattn.kernels import metrics as _kernels
from lostattn.metrics._checks import check_keys, check_pattern


@checked_call
def attention_mass(
    pattern: Float[Tensor, "*batch head query key"],
    keys: Bool[Tensor, "*batch key"],
    mask: Bool[Tensor, "*batch key"] | None = None,
) -> Float[Tensor, "*batch head query"]:
    """The weight that each head's queries put on ``keys``, in [0, 1]: Σ of the row over those keys.

    Raises:
        InputError: pattern is not finite weights, or keys or mask is not boolean ``[*batch, key]``.
    """
    check_pattern(pattern, mask)
    check_keys(keys, pattern)
    return _kernels.masked_pattern(pattern, keys, mask).sum(-1)


@checked_call
def attention_entropy(
    pattern: Float[Tensor, "*batch head query key"],
    keys: Bool[Tensor, "*batch key"] | None = None,
    mask: Bool[Tensor, "*batch key"] | None = None,
) -> Float[Tensor, "*batch head query"]:
    """``-Σ p ln p`` of each row in nats; given ``keys``, of the row cut to them and brought back to sum one.

    0 where all weight is on one key, ln n where it is even over n, and 0 too where a row has no weight on
    ``keys`` (ask ``attention_mass``). Raises InputError as ``attention_mass`` does.
    """
    check_pattern(pattern, mask)
    if keys is not None:
        check_keys(keys, pattern)
    return _kernels.attention_entropy(_kernels.masked_pattern(pattern, keys, mask))


@checked_call
def sink_mass(
    pattern: Float[Tensor, "*batch head query key"],
    k: int = 1,
    mask: Bool[Tensor, "*batch key"] | None = None,
) -> Float[Tensor, "*batch head query"]:
    """The weight on the first k real positions, in [0, 1], per head and query.

    k = 1 is the usual sink, the begin-of-sequence token or whatever stands there; Xiao et al. use 4. Note
    that early queries see little else: the first row of a causal pattern is 1 by construction.

    Raises:
        InputError: as ``attention_mass``, or k is not from 1 to the number of keys.
    """
    check_pattern(pattern, mask)
    if not 1 <= k <= pattern.shape[-1]:
        raise InputError(f"k={k!r}; expected from 1 to the {pattern.shape[-1]} keys of the pattern.")
    return _kernels.masked_pattern(pattern, _kernels.first_keys(pattern, mask, k), mask).sum(-1)


@checked_call
def sink_positions(
    pattern: Float[Tensor, "*batch head query key"],
    threshold: float = 0.3,
    mask: Bool[Tensor, "*batch key"] | None = None,
    *,
    causal: bool = True,
) -> Bool[Tensor, "*batch head key"]:
    """Which keys are sinks of a head: mean weight over the real queries that may see them above
    ``threshold``.

    Args:
        pattern: all query rows, or the last few: then the mean is over those, and one row makes it a plain
            comparison.
        threshold: 0.3 in Gu et al.
        mask: True at real tokens.
        causal: a query sees itself and what stands before it. False for a vision tower: every query sees
            every key.

    The last keys of a causal pattern are seen by few queries, so a token that attends to itself at the end of
    the prompt can pass for a sink; Gu et al. look at early keys for that reason.

    Raises:
        InputError: as ``attention_mass``, threshold outside (0, 1), or more queries than keys.
    """
    check_pattern(pattern, mask)
    if not 0 < threshold < 1:
        raise InputError(f"threshold={threshold!r}; expected a weight between 0 and 1, such as 0.3.")
    weights = _kernels.masked_pattern(pattern, None, mask)
    return _kernels.attention_received(weights, mask, causal) > threshold
