"""The finest decomposition of the stream: heads, neurons, the beginning, biases."""

from __future__ import annotations

from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor

from lostattn.architecture.norms import centred, gain, root_mean_square
from lostattn.cache.output_maps import Passage, attention_passage, ffn_passage, head_parts, why_no_heads
from lostattn.cache.stream import StreamReader
from lostattn.errors import InputError
from lostattn.weights.linear_map import LinearMap


def full_decomposition(
    cache: StreamReader,
    end: int,
    mlp_input: bool,
    expand_neurons: bool,
    apply_ln: bool,
    pos_slice: Any,
    onto: Float[Tensor, "d_model *out"] | None,
) -> tuple[Float[Tensor, "component *rest"], list[str]]:
    """See :meth:`lostattn.cache.decomposition.Decomposition.get_full_resid_decomposition`."""
    beginning = cache._at(cache["resid_pre", 0], pos_slice)
    reader = _Reader(cache, end, mlp_input, apply_ln, pos_slice, onto)
    heads, neurons, whole = _Parts(), _Parts(), _Parts()
    bias = torch.zeros_like(beginning)
    for update in cache._updates(end, mlp_input):
        i, kind = update.layer, update.kind
        if kind == "attn" and not why_no_heads(cache, i):
            path, passage = attention_passage(cache, i, pos_slice)
            found = head_parts(cache, i, pos_slice)
            heads.add(reader(found), [f"L{i}H{h}" for h in range(len(found))])
            bias = bias + _bias(cache._map(path), passage, beginning)
        elif kind == "mlp" and expand_neurons:
            path, passage = ffn_passage(cache, i, pos_slice)
            post = cache._at(cache["post", i], pos_slice)
            written = cache._map(path)
            neurons.add(
                reader.neurons(post, written.weight.to(post.dtype), passage),
                [f"L{i}N{n}" for n in range(post.shape[-1])],
            )
            bias = bias + _bias(written, passage, beginning)
        else:
            value = cache._at(cache._value(update), pos_slice)
            (neurons if kind == "mlp" else whole).add(reader(value[None]), [update.label])
    whole.add(reader(torch.stack([beginning, bias])), ["embed", "bias"])
    return torch.cat([*heads.values, *neurons.values, *whole.values]), [*heads.labels, *neurons.labels, *whole.labels]


class _Parts:
    """Parts of one kind, with their labels."""

    def __init__(self) -> None:
        self.values: list[Tensor] = []
        self.labels: list[str] = []

    def add(self, values: Tensor, labels: list[str]) -> None:
        self.values.append(values)
        self.labels += labels


class _Reader:
    """What becomes of a part: scaled by the norm, projected, or left as it is. All three are linear in it."""

    def __init__(
        self, cache: StreamReader, end: int, mlp_input: bool, apply_ln: bool, pos_slice: Any, onto: Tensor | None
    ) -> None:
        self.cache, self.layer, self.mlp_input = cache, end, mlp_input
        self.apply_ln, self.pos_slice = apply_ln, pos_slice
        self.scale: Tensor | None = None
        self.onto = onto
        if onto is None:
            return
        d_model = cache._sites.architecture.stack.d_model
        if onto.dim() not in (1, 2) or onto.shape[0] != d_model:
            raise InputError(
                f"project_output_onto has shape {tuple(onto.shape)}; expected [{d_model}] or [{d_model}, out]."
            )
        norm = cache._norm(end, mlp_input) if apply_ln else None
        if norm is not None:
            # part / scale * gain @ onto = part @ (gain * onto) / scale: the norm moves into the directions.
            weight = gain(norm).to(onto)
            folded = onto * (weight if onto.dim() == 1 else weight[:, None])
            self.onto = centred(folded, norm) if onto.dim() == 1 else centred(folded.T, norm).T
            stream = cache._at(cache._stream(end, mlp_input), pos_slice)
            scale = root_mean_square(stream, norm)
            self.scale = scale.squeeze(-1) if onto.dim() == 1 else scale

    def __call__(self, parts: Tensor) -> Tensor:
        if self.onto is not None:
            projected = parts @ self.onto.to(parts.dtype)
            return projected if self.scale is None else projected / self.scale
        if self.apply_ln:
            return self.cache.apply_ln_to_stack(parts, self.layer, self.mlp_input, self.pos_slice)
        return parts

    def neurons(
        self, post: Float[Tensor, "*rest d_mlp"], weight: Float[Tensor, "d_model d_mlp"], passage: Passage
    ) -> Tensor:
        """Each neuron's part; projected first, where it is projected, so that the large tensor is never made."""
        if self.onto is None:
            return self(passage(torch.einsum("...n,mn->n...m", post, weight)))
        towards = weight.T @ passage.towards(self.onto).to(weight.dtype)  # [d_mlp, *out]
        post = post if passage.scale is None else (post / passage.scale).to(post.dtype)
        projected = torch.einsum("...n,n->n..." if towards.dim() == 1 else "...n,no->n...o", post, towards)
        return projected if self.scale is None else projected / self.scale


def _bias(written: LinearMap, passage: Passage, like: Float[Tensor, "*rest d_model"]) -> Tensor | float:
    """What an output map and the norm after it add whatever they are given."""
    constant = passage.constant
    if written.bias is not None:
        constant = constant + passage(written.bias.to(like).expand_as(like)[None])[0]
    return constant if isinstance(constant, float) else constant.to(like)
