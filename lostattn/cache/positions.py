"""Choosing positions and items of what a cache holds."""

from __future__ import annotations

from typing import Any

import torch
from jaxtyping import Int
from torch import Tensor

from lostattn.errors import InputError, OutOfRange
from lostattn.points.names import is_square
from lostattn.prompt.batch import Prompt
from lostattn.prompt.token_map import TokenMap


def position_index(token_map: TokenMap, spec: Any) -> Int[Tensor, "batch chosen"]:
    """The columns that a spec names, in each item.

    A list of ints keeps its order; everything else comes in the order of the sequence.

    Raises:
        InputError: it names nothing, or not equally many positions in every item.
    """
    if isinstance(spec, list) and spec and all(type(i) is int for i in spec):
        return torch.cat([position_index(token_map, i) for i in spec], dim=1)
    mask = token_map.resolve(spec, need=True)
    counts = mask.sum(-1).tolist()
    if len(set(counts)) != 1:
        raise InputError(
            f"{spec!r} names {counts} positions in the items of this batch; a tensor needs equally many in each. "
            "Take the items one by one, or a part that all have, such as 'last'."
        )
    return mask.nonzero()[:, 1].reshape(len(mask), counts[0])


def at_positions(
    value: Tensor,
    spec: Any,
    prompt: Prompt | None,
    has_batch_dim: bool,
    trailing: int = 1,
    batch_axis: int | None = None,
) -> Tensor:
    """A tensor ``[…, *batch, pos, *trailing]`` at some positions; an int takes the axis away.

    The batch axis stands before that of the positions, or at ``batch_axis``.

    Raises:
        InputError: see :func:`position_index`; or a name where the cache knows no prompt.
    """
    if spec is None:
        return value
    axis = value.dim() - trailing - 1
    if prompt is None:
        if isinstance(spec, str):
            raise InputError(f"positions are named {spec!r}, but this cache knows no prompt; give an int or a slice.")
        return value[(slice(None),) * axis + (spec,)]
    index = position_index(prompt.token_map, spec).to(value.device)
    if has_batch_dim:
        batch = axis - 1 if batch_axis is None else batch_axis
        items = torch.arange(len(index), device=value.device)[:, None]
        picked = value.movedim((batch, axis), (0, 1))[items, index].movedim((0, 1), (batch, axis))
    else:
        picked = value.index_select(axis, index[0])
    return picked.squeeze(axis) if _is_int(spec) else picked


def at_items(value: Tensor, items: Any) -> Tensor:
    """A tensor ``[batch, …]`` of some items; an int takes the axis away."""
    try:
        return value if items is None else value[items]
    except IndexError as error:
        raise OutOfRange(f"batch_slice is {items!r}; there are {len(value)} items, counted from 0.") from error


def choose(
    name: str,
    value: Tensor,
    prompt: Prompt | None,
    has_batch_dim: bool,
    positions: Any,
    heads: Any,
    keys: Any,
    crosses: bool = False,
    by_key: bool = False,
) -> Tensor:
    """See :meth:`lostattn.cache.ActivationCache.at`."""
    square = is_square(name)
    by_head = name.rpartition(".")[0].endswith("attn") and not square
    if name.startswith("vision"):
        raise InputError(f"{name!r} goes by patch; positions of the sequence choose among decoder points.")
    for what, asked, there in (("heads", heads, square or by_head), ("keys", keys, square or by_key)):
        if asked is not None and not there:
            raise InputError(f"{name!r} of shape {tuple(value.shape)} has no axis of {what}; leave {what}= out.")
    if by_key and positions is not None:
        raise InputError(f"{name!r} goes by the keys of cross-attention and not by position; choose with keys=.")
    if crosses and keys is not None:
        value = _at_keys(name, value, keys, prompt, has_batch_dim, int(has_batch_dim) if by_key else -1)
        keys = None
    if square:
        value = at_positions(value, keys, prompt, has_batch_dim, 0, 0)
        value = at_positions(value, positions, prompt, has_batch_dim, 0 if _is_int(keys) else 1, 0)
        axis = int(has_batch_dim)
    else:
        value = at_positions(value, positions, prompt, has_batch_dim, 2 if by_head else 1)
        axis = value.dim() - 2
    return value if heads is None else value[(slice(None),) * axis + (heads,)]


def _at_keys(name: str, value: Tensor, spec: Any, prompt: Prompt | None, has_batch_dim: bool, axis: int) -> Tensor:
    """A tensor of cross-attention at some of its keys, equally many in each item."""
    cross = None if prompt is None else prompt.token_map.cross
    if cross is None:
        raise InputError(f"what the keys of {name!r} are is not known of this prompt; leave keys= out.")
    chosen = cross.chosen(spec)
    counts = chosen.sum(-1).tolist()
    if len(set(counts)) != 1 or not counts[0]:
        raise InputError(f"keys={spec!r} names {counts} keys of cross-attention; expected equally many in each item.")
    index = chosen.nonzero()[:, 1].reshape(len(chosen), -1).to(value.device)
    if not has_batch_dim:
        return value.index_select(axis, index[0])
    items = torch.arange(len(index), device=value.device)[:, None]
    return value.movedim(axis, 1)[items, index].movedim(1, axis)


def _is_int(spec: Any) -> bool:
    return isinstance(spec, int) and not isinstance(spec, bool)
