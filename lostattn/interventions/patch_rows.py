"""What patches are made of: rows of values, matched between two prompts by what their tokens are."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import torch
from jaxtyping import Int
from torch import Tensor

from lostattn.errors import InputError
from lostattn.kernels.workbench import put_cells, put_rows
from lostattn.plan.checks import Layers, checked_layers
from lostattn.plan.heads import Heads, heads_of
from lostattn.plan.program import Edit
from lostattn.points.names import get_act_name, is_square, split_block
from lostattn.points.sites import Sites
from lostattn.prompt.parts import PARTS
from lostattn.prompt.token_map import TokenMap

BY_HEAD = ("attn.hook_q", "attn.hook_z", "attn.hook_rot_q", "attn.hook_pattern", "attn.hook_attn_scores")
BY_KV_HEAD = ("attn.hook_k", "attn.hook_v", "attn.hook_rot_k")


def row_edit(
    name: str,
    mask: Tensor,
    items: Int[Tensor, "row"],
    places: Int[Tensor, "row"],
    values: Tensor,
    base: Tensor | None,
    heads: Tensor | None,
) -> Edit:
    """The edit that puts rows of values at places of items; ``mask [batch, pos]`` holds them all."""
    params = {"items": items, "places": places, "values": values, "base": base, "heads": heads}
    square = is_square(name)
    return Edit(name, put_cells if square else put_rows, params, (0, 1), (mask, False) if square else None)


def point_names(sites: Sites, points: str | Iterable[str], layers: Layers = None) -> list[str]:
    """The canonical names of decoder points, each of which can be edited and goes by position.

    Raises:
        InputError: a point of the vision tower or outside the layers, or one that cannot be edited; no point at all.
    """
    asked = [points] if isinstance(points, str) else list(points)
    n = len(sites.architecture.stack.blocks)
    chosen = checked_layers(layers)
    bad = [i for i in chosen or () if not -n <= i < n]
    if bad or not asked:
        raise InputError(f"layer {bad[0]} is out of range: there are {n}." if bad else "points is empty; name one.")
    names = []
    for point in asked:
        full = "." in point or point.startswith("hook_")
        spelled = [point] if full else [get_act_name(point, i % n) for i in (range(n) if chosen is None else chosen)]
        names += [sites.editable(name) for name in spelled]
    for name in names:
        inside = split_block(name)
        if inside is None or inside[0] != "blocks":
            raise InputError(f"{name!r} is no point of a decoder layer; patch those, such as 'resid_pre' or 'z'.")
        if sites.goes_by_key(name):
            raise InputError(
                f"{name!r} goes by the keys of cross-attention and not by position; patch 'cross_attn_out'."
            )
    return names


def by_query(name: str, value: Tensor) -> Tensor:
    """A point with its positions on the second axis: patterns as ``[batch, query, head, key]``."""
    return value.transpose(1, 2) if is_square(name) else value


_STEP = 8
"""Between the numbers of one image's positions and the next one's, as saved patches have it. Positions of images are of
the part ``"image"``, so their numbers are none of those of a part alone, though there are more parts than this by now.
"""


def layout_of(token_map: TokenMap) -> Int[Tensor, "batch pos"]:
    """What each position is, as one number: its part, and which image."""
    return (token_map.part + _STEP * (token_map.image_index + 1)).cpu()


def matched_positions(
    source: Int[Tensor, "a"], chosen: Tensor, target: Int[Tensor, "b"], mask: Tensor, spec: Any, reduce: str = "none"
) -> tuple[Int[Tensor, "n"], Int[Tensor, "n"]]:
    """Which position of the source goes to which of the target, for one item.

    Raises:
        InputError: they differ in number or kind; the message names what can be done instead.
    """
    come, go = chosen.nonzero().flatten(), mask.nonzero().flatten()
    if reduce == "mean":
        return come[:1].expand(len(go)), go
    if len(come) != len(go):
        raise InputError(
            f"the two prompts have an unequal layout: {spec!r} names {len(come)} positions in one and {len(go)} in the "
            f"other. {_INSTEAD}"
        )
    kinds, others = source[come], target[go]
    if spec != "last" and not torch.equal(kinds, others):
        i = int((kinds != others).nonzero()[0])
        raise InputError(
            f"the two prompts have an unequal layout: position {int(go[i])} is {_kind(others[i])} in one, but what "
            f"would go there is {_kind(kinds[i])} in the other. {_INSTEAD}"
        )
    return come, go


def same_keys(source: Tensor, target: Tensor, name: str) -> None:
    """Refuse scores or patterns of a prompt of another layout: their columns would mean other tokens."""
    if source.shape[1:] != target.shape[1:] or not (source == target).all():
        raise InputError(
            f"the two prompts have an unequal layout, so the keys of {name!r} are not the same tokens. Patch q, k or z "
            "by token group instead (positions='image', 'question' or 'last')."
        )


_INSTEAD = (
    "Patch by token group instead: positions='image', 'question' or 'last', whose tokens correspond one to one, or "
    "reduce='mean' for a group of unequal size."
)


def _kind(code: Tensor) -> str:
    number = int(code)
    return PARTS[number] if number < len(PARTS) else f"image {number // _STEP - 1}"


def head_mask(sites: Sites, name: str, heads: Heads, n_rows: int) -> Tensor | None:
    """``[row, head]`` of the heads meant; None for all.

    Raises:
        InputError: heads of a point that has none, or out of range.
    """
    heads = heads_at(sites, name, heads)
    if heads is None:
        return None
    n = n_heads_of(sites, name)
    asked = list(heads)
    if n is None or any(not -n <= h < n for h in asked):
        there = "has no heads" if n is None else f"has heads 0 to {n - 1}"
        raise InputError(f"heads is {asked}, but {name!r} {there}.")
    mask = torch.zeros(n_rows, n, dtype=torch.bool)
    mask[:, asked] = True
    return mask


def heads_at(sites: Sites, name: str, heads: Any) -> tuple[int, ...] | None:
    """The heads meant at a point of a layer, of those that hold for all layers or of heads by layer; None for all."""
    inside = split_block(name)
    return heads_of(heads, -1 if inside is None else inside[1], len(sites.architecture.stack.blocks))


def n_heads_of(sites: Sites, name: str) -> int | None:
    """How many heads a point has: query heads, key/value heads, or None."""
    inside = split_block(name)
    attentions = {} if inside is None else sites.architecture.stack.blocks[inside[1]].attentions
    attn = None if inside is None else attentions.get(inside[2].partition(".")[0])
    if attn is None:
        return None
    return attn.n_heads if name.endswith(BY_HEAD) else attn.n_key_value_heads if name.endswith(BY_KV_HEAD) else None
