"""How what an output map gives comes into the stream: as it is, times a factor, or through a norm that comes after.

A norm after a module (Gemma 3, GLM-4V) is no linear map, but with its scale held at what it was in the pass it is one,
just as TransformerLens treats the final norm. Then what each head or neuron wrote is told apart, and the parts add up
to the update. Behind a gate they are not told apart; its layers are refused.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from jaxtyping import Float
from torch import Tensor, nn

from lostattn.architecture.norms import centred, gain, offset, root_mean_square
from lostattn.architecture.structure import Block, Update
from lostattn.cache.stream import StreamReader
from lostattn.errors import InputError
from lostattn.points.stream_updates import added_by
from lostattn.weights.kinds import acting_path


@dataclass(frozen=True)
class Passage:
    """From a module's output into the stream: ``part -> factor * (part - mean) / scale * gain``, linear in the part."""

    factor: float
    norm: nn.Module | None = None
    scale: Float[Tensor, "*rest 1"] | None = None

    def __call__(self, parts: Float[Tensor, "component *rest d_model"]) -> Float[Tensor, "component *rest d_model"]:
        """What parts of the module's output write into the stream."""
        if self.norm is None or self.scale is None:
            return parts * self.factor if self.factor != 1.0 else parts
        wide = centred(parts.to(self.scale.dtype), self.norm) / self.scale * gain(self.norm).to(self.scale)
        return (wide * self.factor).to(parts.dtype)

    def towards(self, onto: Float[Tensor, "d_model *out"]) -> Float[Tensor, "d_model *out"]:
        """Directions of the stream as directions of the module's output, but for the division by the scale."""
        if self.norm is None:
            return onto * self.factor
        weight = gain(self.norm).to(onto)
        folded = onto * (weight if onto.dim() == 1 else weight[:, None]) * self.factor
        return centred(folded.T, self.norm).T if onto.dim() == 2 else centred(folded, self.norm)

    @property
    def constant(self) -> Float[Tensor, "d_model"] | float:
        """What the norm adds whatever it is given."""
        return 0.0 if self.norm is None else offset(self.norm) * self.factor


def attention_passage(
    cache: StreamReader, layer: int, pos_slice: Any = None, which: str = "attn"
) -> tuple[str, Passage]:
    """The output map of a layer's attention, and how what it gives comes into the stream.

    ``which`` is ``"attn"``, or ``"cross_attn"`` for cross-attention beside it.

    Raises:
        InputError: its heads cannot be told apart; the message says what stands between.
    """
    block = cache._sites.architecture.stack.blocks[layer]
    reason = why_no_heads(cache, layer, which)
    if reason:
        raise InputError(
            f"the heads of layer {layer} ({block.kind}) cannot be told apart in the stream: {reason}. decompose_resid "
            "and accumulated_resid hold for every layout."
        )
    o = block.attentions[which].o
    assert o is not None
    return o, _passage(cache, which, layer, pos_slice)


def head_parts(cache: StreamReader, layer: int, pos_slice: Any = None) -> Float[Tensor, "head *rest d_model"]:
    """What each head of a layer wrote into the stream.

    Raises:
        InputError: see :func:`attention_passage`.
    """
    _, passage = attention_passage(cache, layer, pos_slice)
    return passage(cache._at(cache["result", layer], pos_slice, trailing=2).movedim(-2, 0))


def why_no_heads(cache: StreamReader, layer: int, which: str = "attn") -> str:
    """What keeps a layer's heads from being told apart; empty where nothing does."""
    block = cache._sites.architecture.stack.blocks[layer]
    attn = block.attentions.get(which)
    if attn is None:
        return "it makes no call of the attention interface" if which == "attn" else "it has no cross-attention"
    if attn.o is None or f"blocks.{layer}.hook_{which}_out" not in cache._sites.at:
        return "no output map of its attention was found"
    out = block.attn_out if block.cross is None or which == "attn" else block.cross.out
    update = block.attn_update if block.cross is None or which == "attn" else block.cross.update
    inside = out and f"{out}.{acting_path(cache._model.get_submodule(out))}".rstrip(".")  # of a copy that PEFT keeps
    if attn.o in cache._sites.no_maps:
        return f"{attn.o!r} is not a linear map: {cache._sites.no_maps[attn.o]}"
    if not attn.gives_o or not {out, inside} & {attn.path, attn.o}:
        return "something stands between the output map and what its attention gives"
    return _why_not(block, update, (out,))


def ffn_passage(cache: StreamReader, layer: int, pos_slice: Any = None) -> tuple[str, Passage]:
    """The output map of a layer's FFN, and how what it gives comes into the stream.

    Raises:
        InputError: its neurons cannot be told apart.
    """
    block = cache._sites.architecture.stack.blocks[layer]
    reason = "" if block.mlp_post is not None else "its FFN has no single output map (experts)"
    if block.mlp_out in cache._sites.no_maps:
        reason = f"{block.mlp_out!r} is not a linear map: {cache._sites.no_maps[block.mlp_out]}"
    reason = reason or _why_not(block, block.mlp_update, (block.mlp, block.mlp_out))
    if reason:
        raise InputError(
            f"the neurons of layer {layer} ({block.kind}) cannot be told apart in the stream: {reason}. Pass "
            "expand_neurons=False."
        )
    assert block.mlp_out is not None
    return block.mlp_out, _passage(cache, "mlp", layer, pos_slice)


def _why_not(block: Block, update: Update | None, outputs: tuple[str | None, ...]) -> str:
    if update is None:
        return "more happens to the stream at the end of the layer than that it is added"
    if update.factor is None:
        return "it is added behind a gate"
    if update.source not in outputs:
        return f"{update.path} stands between it and the stream"
    return ""


def _passage(cache: StreamReader, kind: str, layer: int, pos_slice: Any) -> Passage:
    block = cache._sites.architecture.stack.blocks[layer]
    update = added_by(block, kind)
    assert update is not None and update.factor is not None
    if update.source == update.path or update.path == block.mlp_out:
        return Passage(update.factor)
    norm = cache._layer_at(update.path)
    given = cache._at(cache[f"{kind}_out", layer], pos_slice) * update.inner
    return Passage(update.factor * update.inner, norm, root_mean_square(given, norm))
