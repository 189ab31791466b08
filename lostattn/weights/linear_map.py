"""The linear map that a layer is, whatever it stores: the one place from which weights are taken.

What a layer's library spells out, or what a copy of the layer answers to unit vectors, is held to what the layer
itself gives for random vectors; only what agrees is handed on. So adapters (merged or not, several, none active), codes
of few bits with their scales, parametrisations, weights that are kept elsewhere and modules of one's own all come the
same way.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import suppress
from dataclasses import dataclass
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor, nn

from lostattn.errors import InputError
from lostattn.weights.dequantisation import holds_codes, is_plain, spelled_out
from lostattn.weights.kinds import takes, widths
from lostattn.weights.offload import fetched
from lostattn.weights.probes import Asked, Unanswered, asking, by_unit_vectors, gap, why_not
from lostattn.weights.stand_in import wide_copy

# How far a layer that keeps codes of few bits may be from the map that they spell, since some round what they are
# given: to 8 bits of a row's largest value, or to float8's three bits after the first. Misread codes are further off.
ROUNDED_INPUT = 0.1


@dataclass(frozen=True)
class LinearMap:
    """``x -> weight @ x + bias``, for what stands at each position.

    Attributes:
        weight: ``[out, in]``. Of a plain layer its own weight, in its dtype; else in float32 at the least.
        bias: ``[out]``, or ``None``.
        rounds: how far what the layer gives for random vectors is from this, relative to its size, where it rounds what
            it is given (to 8 bits, say); 0 where only its dtype rounds.
    """

    weight: Float[Tensor, "out in"]
    bias: Float[Tensor, "out"] | None
    rounds: float = 0.0

    def __call__(self, x: Float[Tensor, "*rest in"]) -> Float[Tensor, "*rest out"]:
        """What it gives, in the dtype of ``x``."""
        return nn.functional.linear(x, self.weight.to(x), None if self.bias is None else self.bias.to(x))


def head_results(z: Float[Tensor, "*rest head d_head"], written: LinearMap) -> Float[Tensor, "*rest head d_model"]:
    """What each head writes, of what the output map of its attention is given; their sum is that map's without bias."""
    weight = written.weight.to(z.dtype).unflatten(1, (z.shape[-2], -1))  # [d_model, head, d_head]
    return torch.einsum("...hd,mhd->...hm", z, weight)


def linear_map(root: nn.Module, path: str) -> LinearMap:
    """The map that the layer at ``path`` of a model is, adapters, scales and weights kept elsewhere included.

    Raises:
        InputError: the model is described without its weights; the layer is no linear map, and what shows it.
    """
    with fetched(root, path) as module, asking(module):
        found = found_map(root, module)
    if isinstance(found, LinearMap):
        return found
    raise InputError(
        f"{path!r} ({_kind(module)}) is not a linear map: {found}. What multiplies by its weight (results of heads, "
        "attributions, noise in weights) is not to be had of it; passes and edits do without."
    )


def _kind(module: nn.Module) -> str:
    """The class of a layer, with its module where it is no layer of torch's own."""
    kind = type(module)
    return kind.__name__ if kind.__module__.startswith("torch.") else f"{kind.__module__}.{kind.__qualname__}"


def found_map(root: nn.Module, module: nn.Module) -> LinearMap | str:
    """The map of a layer whose weights are at hand, or why there is none."""
    size = widths(module)
    if size is None:
        return "how wide its input is cannot be told"
    layer = Asked(module, size[0], *takes(root, module))
    codes = holds_codes(module)
    limit = ROUNDED_INPUT if codes else layer.rounding
    unheard: LinearMap | None = None
    for weight, bias in _candidates(module, layer):
        try:
            off = gap(layer, weight, bias)
        except Unanswered as error:
            if not codes:
                return str(error)
            # A layer whose kernel is not at hand on this machine: what its library spells out stands unchallenged.
            unheard = unheard or LinearMap(weight, bias, ROUNDED_INPUT)
            continue
        if off <= limit:
            return LinearMap(weight, bias, off if off > layer.rounding else 0.0)
    return unheard or why_not(layer)


def _candidates(module: nn.Module, layer: Asked) -> Iterator[tuple[Tensor, Tensor | None]]:
    """Weight and bias, the surest first: as stored, as a copy in wide numbers answers, as the layer itself answers."""
    bias: Any = getattr(module, "bias", None)
    for weight in spelled_out(module):
        yield weight, bias.detach() if isinstance(bias, Tensor) else None
    copied = None if is_plain(module) else wide_copy(module)
    wide = torch.promote_types(layer.dtype, torch.float32)
    freely = [] if copied is None else [Asked(copied, layer.width, layer.device, wide)]
    for asked in (*freely, layer):
        with suppress(Unanswered):
            yield by_unit_vectors(asked)
