"""One layer of a stack, read from its source: norms, attention, FFN, and what adds to the stream."""

from __future__ import annotations

from typing import Any

from torch import nn

from lostattn.architecture.attention import attention_in, held_attention, map_behind
from lostattn.architecture.config_fields import of_layer, one_for_all
from lostattn.architecture.cross_attention import cross_of
from lostattn.architecture.dataflow import INPUT, Call, Flow, flow
from lostattn.architecture.ffn import ffn_of
from lostattn.architecture.stream_sums import is_stream, middle_of, update_of
from lostattn.architecture.structure import Block, Stack, Update
from lostattn.errors import UnsupportedModel
from lostattn.weights.kinds import is_norm

HEADS = ("num_attention_heads", "num_heads", "attention_heads", "encoder_attention_heads", "n_heads")


def tells_heads(config: Any) -> bool:
    """Whether a config says how many heads its layers have, for all or for each."""
    return any(of_layer(config, 0, name) for name in HEADS)


def stack_of(prefix: str, path: str, layers: list[nn.Module], config: Any) -> Stack:
    """A list of layers with its sizes; ``prefix`` is what its hook names begin with.

    Heads belong to a layer: ``config`` says how many where the layer's own modules do not.
    """
    blocks = []
    for i, layer in enumerate(layers):
        heads = of_layer(config, i, *HEADS)
        if heads is None:
            raise UnsupportedModel(f"{type(config).__name__} says none of {', '.join(HEADS)} of layer {i}.")
        blocks.append(block_of(f"{path}.{i}", layer, heads, of_layer(config, i, "num_key_value_heads") or heads))
    return Stack(
        prefix=prefix,
        blocks=tuple(blocks),
        d_model=_first(config, "hidden_size", "embed_dim", "d_model", "width"),
        d_mlp=_first(config, "intermediate_size", "mlp_dim", "ffn_dim", "d_ff", "decoder_ffn_dim", default=0),
    )


def _first(config: Any, *names: str, default: int | None = None) -> int:
    for name in names:
        value = one_for_all(config, name)
        if isinstance(value, int):
            return value
    if default is not None:
        return default
    raise UnsupportedModel(f"{type(config).__name__} says none of {', '.join(names)} as one number for all layers.")


def block_of(path: str, layer: nn.Module, n_heads: int, n_kv: int) -> Block:
    """Read a layer: what mixes positions, where the stream stands between the updates, and what adds them."""
    read = flow(layer, opened=True)
    holding = [i for i, c in enumerate(read.calls) if attention_in(layer.get_submodule(c.child)) is not None]
    at = holding[0] if holding else None
    middle = middle_of(read, at)
    mixer = at if at is not None else _mixer(layer, read, middle)
    first = read.calls[mixer] if mixer is not None else None
    beside = None if middle is None or len(holding) < 2 else cross_of(path, layer, read, middle, holding[1], n_heads)
    cross, ffn_from = (None, middle) if beside is None else beside
    attn_update, mlp_update = _updates(path, layer, read, mixer, middle, ffn_from)
    ln1 = None if first is None else _norm_before(layer, read, first)
    start = ffn_from if ffn_from is not None else len(read.calls) if mixer is None else mixer + 1
    mid = None if middle is None else read.calls[middle].child
    outer = None if at is None else map_behind(layer, read, at)
    return Block(
        path=path,
        ln1=_below(path, ln1),
        attn=None if at is None else held_attention(path, layer, read, at, n_heads, n_kv),
        attn_out=_below(path, outer or (None if first is None else first.child)),
        mid=_below(path, mid),
        ln2=_below(path, mid if mid and is_norm(layer.get_submodule(mid)) else None),
        attn_update=attn_update,
        mlp_update=mlp_update,
        cross=cross,
        **ffn_of(path, layer, read.calls[start:]),
    )


def _below(path: str, child: str | None) -> str | None:
    return f"{path}.{child}" if child else None


def _mixer(layer: nn.Module, read: Flow, middle: int | None) -> int | None:
    """In a layer without attention: what stands in its place, the last module before the middle that is no norm."""
    before = [
        i
        for i, call in enumerate(read.calls[:middle] if middle is not None else ())
        if not is_norm(layer.get_submodule(call.child))
    ]
    return before[-1] if before else None


def _norm_before(layer: nn.Module, read: Flow, first: Call) -> str | None:
    """The norm of the stream whose output the attention is given."""
    sources = {value.child for value in first.given if value.kind == "child"}
    for call in read.calls:
        if call.child in sources and call.given[:1] == (INPUT,) and is_norm(layer.get_submodule(call.child)):
            return call.child
    return None


def _updates(
    path: str, layer: nn.Module, read: Flow, mixer: int | None, middle: int | None, ffn_from: int | None
) -> tuple[Update | None, Update | None]:
    """The children whose outputs are added to the stream, by attention (or what is in its place) and by the FFN.

    The FFN is given the stream at ``middle``, or later, where cross-attention stands between the two.
    """
    if mixer is None:
        return None, None
    if middle is not None and ffn_from is not None:
        added = [part for part in read.calls[middle].given[0].parts if part != INPUT]
        before = read.calls[ffn_from].given[0].parts
        rest = [p for p in read.result.parts if p not in before]
        whole = is_stream(read.result) and len(read.result.parts) == len(rest) + len(before)
        rest = rest if whole and len(added) == 1 else []
    elif is_stream(read.result):
        parts = [part for part in read.result.parts if part != INPUT]
        added = [p for p in parts if p.child == read.calls[mixer].child]
        rest = [p for p in parts if p not in added]
    else:
        return None, None
    return update_of(path, layer, read, added), update_of(path, layer, read, rest)
