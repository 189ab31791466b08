"""What is added to the residual stream, in the order of the pass: every update of every family, as sums of hook points.

An update is a difference of the stream wherever the stream can be seen on both sides of it. In a layer whose attention
and FFN are added at once (parallel blocks) there is no stream between the two: attention's update is what its module
gives, and the FFN's is the rest of what the layer adds. A layer in which the two cannot be told apart (several lanes, a
module alone) has a single update, and what is added between layers is one of its own. Added up, they are telescoping:
the stream before the first layer and all updates are the stream after the last one.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from lostattn.architecture.structure import Block, Update
from lostattn.errors import InputError
from lostattn.points.sites import Sites

INSIDE = ("attn", "cross_attn", "mlp")  # a layer, where they can be told apart
KINDS = {
    "attn": "attn_out",
    "cross_attn": "cross_attn_out",
    "mlp": "mlp_out",
    "layer": "layer_out",
    "between": "between",
}


@dataclass(frozen=True)
class StreamUpdate:
    """One update: ``kind`` is ``"attn"``, ``"mlp"``, ``"layer"`` (a layer in one) or ``"between"`` (after the layer).

    ``"cross_attn"`` is that of cross-attention beside self-attention. ``terms`` are the hook points that an update is
    the sum of, each times a number.
    """

    kind: str
    layer: int
    terms: tuple[tuple[str, float], ...]

    @property
    def label(self) -> str:
        """``"3_attn_out"``, ``"3_cross_attn_out"``, ``"3_mlp_out"``, ``"3_layer_out"`` or ``"3_between"``."""
        return f"{self.layer}_{KINDS[self.kind]}"

    @property
    def needs(self) -> tuple[str, ...]:
        """The hook points that it is made from."""
        return tuple(name for name, _ in self.terms)

    def of(self, points: Mapping[str, Any]) -> Any:
        """Its value, from the values of the points that it needs."""
        return sum(points[name] * times if times != 1.0 else points[name] for name, times in self.terms)


def stream_updates(sites: Sites) -> tuple[StreamUpdate, ...]:
    """Every update of the decoder, in the order of the pass."""
    return tuple(update for i in range(len(sites.architecture.stack.blocks)) for update in layer_updates(sites, i))


def layer_updates(sites: Sites, layer: int) -> tuple[StreamUpdate, ...]:
    """The updates of one layer, and what is added after it where something is."""
    n = len(sites.architecture.stack.blocks)
    after = f"blocks.{layer + 1}.hook_resid_pre" if layer + 1 < n else "ln_final.hook_in"
    parts = [StreamUpdate(kind, layer, terms) for kind, terms in _inside(sites, layer).items()]
    if f"blocks.{layer}.hook_between" in sites.at:
        parts.append(StreamUpdate("between", layer, _difference(after, f"blocks.{layer}.hook_resid_post")))
    return tuple(parts)


def find_update(sites: Sites, kind: str, layer: int) -> StreamUpdate | None:
    """One update; ``None`` where nothing is added between this layer and the next.

    Raises:
        InputError: no such kind or layer, or a layer in which this update cannot be told apart.
    """
    if kind not in KINDS:
        raise InputError(f"update is {kind!r}; it must be 'attn', 'cross_attn', 'mlp', 'between' or 'layer'.")
    n = len(sites.architecture.stack.blocks)
    if not -n <= layer < n:
        raise InputError(f"layer is {layer}; the model has layers 0 to {n - 1}, or negative from the end.")
    at = layer % n
    if kind == "layer":
        return StreamUpdate("layer", at, _whole(at))
    parts = {update.kind: update for update in layer_updates(sites, at)}
    if kind in parts or kind == "between":
        return parts.get(kind)
    block = sites.architecture.stack.blocks[at]
    raise InputError(
        f"layer {at} ({block.kind}) has no {kind!r} update that can be told apart from the rest of the layer; "
        f"its updates are {', '.join(map(repr, parts))}. 'layer' is all that it adds."
    )


def before_and_after(update: StreamUpdate, points: Mapping[str, Any]) -> tuple[Any, Any]:
    """The stream before an update and after it; in parallel blocks, the layer's input without and with it alone."""
    if is_difference(update):
        return points[update.terms[1][0]], points[update.terms[0][0]]
    before = points[f"blocks.{update.layer}.hook_resid_pre"]
    return before, before + update.of(points)


def is_difference(update: StreamUpdate) -> bool:
    """Whether an update lies between two points at which the stream is seen."""
    return len(update.terms) == 2


def module_term(sites: Sites, kind: str, layer: int) -> tuple[str, float] | None:
    """The hook point whose value is what is added, and what it is multiplied by; ``None`` where no such point is."""
    block = sites.architecture.stack.blocks[layer]
    update = added_by(block, kind)
    name = f"blocks.{layer}.hook_{kind}_out"
    if update is None or not update.factor or name not in sites.at:
        return None
    path = sites.slots[sites.at[name]].path
    return (name, update.factor) if _same_value(block, path, update.path) else None


def added_by(block: Block, kind: str) -> Update | None:
    """The module that gives an update of a layer, as its source says."""
    if kind == "cross_attn":
        return None if block.cross is None or block.cross.ahead else block.cross.update
    return block.attn_update if kind == "attn" else block.mlp_update


def _same_value(block: Block, seen: str, added: str) -> bool:
    """Whether what a slot holds is what is added: a plain FFN is met at its last linear map."""
    return seen == added or (added == block.mlp and seen == block.mlp_out)


def _inside(sites: Sites, layer: int) -> dict[str, tuple[tuple[str, float], ...]]:
    at = f"blocks.{layer}"
    block = sites.architecture.stack.blocks[layer]
    pre, mid, post = (f"{at}.hook_resid_{end}" for end in ("pre", "mid", "post"))
    crossed = f"{at}.hook_resid_mid_cross"
    if mid in sites.at and crossed in sites.at:
        parts = {"attn": (mid, pre), "cross_attn": (crossed, mid), "mlp": (post, crossed)}
        return {kind: _difference(*ends) for kind, ends in parts.items()}
    if mid in sites.at:
        return {"attn": _difference(mid, pre), "mlp": _difference(post, mid)}
    if block.kind == "one update":
        return {"attn": _whole(layer)}
    attn = module_term(sites, "attn", layer)
    if attn is None or block.mlp_update is None:
        return {"layer": _whole(layer)}
    return {"attn": (attn,), "mlp": (*_whole(layer), (attn[0], -attn[1]))}


def _whole(layer: int) -> tuple[tuple[str, float], ...]:
    return _difference(f"blocks.{layer}.hook_resid_post", f"blocks.{layer}.hook_resid_pre")


def _difference(after: str, before: str) -> tuple[tuple[str, float], ...]:
    return ((after, 1.0), (before, -1.0))
