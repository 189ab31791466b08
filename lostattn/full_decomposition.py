"""The finest decomposition of the stream: heads, neurons, the beginning, biases."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import torch
from jaxtyping import Float
from torch import Tensor, nn

from lostattn.errors import InputError
from lostattn.norms import gain, root_mean_square
from lostattn.updates import find_update

if TYPE_CHECKING:
    from lostattn.decomposition import Decomposition


def full_decomposition(
    cache: Decomposition,
    end: int,
    mlp_input: bool,
    expand_neurons: bool,
    apply_ln: bool,
    pos_slice: Any,
    onto: Float[Tensor, "d_model *out"] | None,
) -> tuple[Float[Tensor, "component *rest"], list[str]]:
    """See :meth:`lostattn.decomposition.Decomposition.get_full_resid_decomposition`."""
    beginning = cache._at(cache["resid_pre", 0], pos_slice)
    reader = _Reader(cache, end, mlp_input, apply_ln, pos_slice, onto)
    parts: list[Tensor] = []
    labels: list[str] = []
    if end + mlp_input:
        heads, labels = cache.stack_head_results(end + mlp_input, return_labels=True, pos_slice=pos_slice)
        parts.append(reader(heads))
    bias = torch.zeros_like(beginning)
    for i in range(end + mlp_input):
        bias = bias + _bias(cache._model, cache._plain(i)[0])
    for i in range(end):
        if not expand_neurons:
            update = find_update(cache._sites, "mlp", i)
            assert update is not None
            parts.append(reader(cache._at(cache._value(update), pos_slice)[None]))
            labels.append(f"{i}_mlp_out")
            continue
        path = cache._plain(i)[1]
        if path is None:
            raise InputError(f"layer {i} has no single output map of its FFN; pass expand_neurons=False.")
        post = cache._at(cache["post", i], pos_slice)
        module: Any = cache._model.get_submodule(path)
        parts.append(reader.neurons(post, module.weight.detach().to(post.dtype)))
        labels += [f"L{i}N{n}" for n in range(post.shape[-1])]
        bias = bias + _bias(cache._model, path)
    parts += [reader(beginning[None]), reader(bias[None])]
    return torch.cat(parts), [*labels, "embed", "bias"]


class _Reader:
    """What becomes of a part: scaled by the norm, projected, or left as it is. All three are linear in it."""

    def __init__(
        self, cache: Decomposition, end: int, mlp_input: bool, apply_ln: bool, pos_slice: Any, onto: Tensor | None
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
        if apply_ln:
            # part / scale * gain @ onto = part @ (gain * onto) / scale: the norm moves into the directions.
            norm = cache._norm(end, mlp_input)
            weight = gain(norm).to(onto)
            folded = onto * (weight if onto.dim() == 1 else weight[:, None])
            self.onto = folded - folded.mean(0) if isinstance(norm, nn.LayerNorm) else folded
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

    def neurons(self, post: Float[Tensor, "*rest d_mlp"], weight: Float[Tensor, "d_model d_mlp"]) -> Tensor:
        """Each neuron's part; projected first, where it is projected, so that the large tensor is never made."""
        if self.onto is None:
            return self(torch.einsum("...n,mn->n...m", post, weight))
        towards = weight.T @ self.onto.to(weight.dtype)  # [d_mlp, *out]
        projected = torch.einsum("...n,n->n..." if towards.dim() == 1 else "...n,no->n...o", post, towards)
        return projected if self.scale is None else projected / self.scale


def _bias(model: nn.Module, path: str) -> Tensor | float:
    bias: Any = getattr(model.get_submodule(path), "bias", None)
    return 0.0 if bias is None else bias.detach()
