"""Cross-attention beside a layer's self-attention: after it in the same layer, or in a list of layers of its own."""

from __future__ import annotations

from torch import nn

from lostattn.anatomy import Cross
from lostattn.attention_parts import held_attention, map_behind
from lostattn.dataflow import Flow, Value
from lostattn.stream_sums import is_norm, update_of


def cross_of(
    path: str, layer: nn.Module, read: Flow, middle: int, at: int, n_heads: int
) -> tuple[Cross, int | None] | None:
    """The second attention of a layer, called at ``at``, and the call that is given the stream with its part in it.

    ``None`` where something else than norms stands between it and the stream after the first (``middle``).
    """
    if not all(is_norm(layer.get_submodule(call.child)) for call in read.calls[middle:at]):
        return None
    made = {call.child for call in read.calls[at:]}
    outer = map_behind(layer, read, at)
    attn = held_attention(path, layer, read, at, n_heads, n_heads)
    end = next((i for i, call in enumerate(read.calls) if i > at and call.given and _adds(call.given[0], made)), None)
    out = f"{path}.{outer or read.calls[at].child}"
    if end is None:
        return Cross(attn, out), None
    stream = read.calls[end].given[0]
    added = [part for part in stream.parts if part.child in made]
    normed = read.calls[middle].child in {part.child for part in stream.parts}  # the norm's output is the stream
    mid = read.calls[end].child
    cross = Cross(
        attn,
        out,
        mid=f"{path}.{mid}",
        ln=f"{path}.{mid}" if is_norm(layer.get_submodule(mid)) else None,
        update=update_of(path, layer, read, added),
        added_to="ln2.hook_out" if normed else "hook_resid_mid",
    )
    return cross, end


def _adds(value: Value, made: set[str]) -> bool:
    """Whether a value is a sum in which one of these children's outputs is added to something else."""
    return value.kind == "sum" and value.factor == 1.0 and len({part.child in made for part in value.parts}) == 2
