"""What a norm does, for any norm: its statistics, and the weight that it multiplies by."""

from __future__ import annotations

import torch
from jaxtyping import Float
from torch import Tensor, nn

from lostattn.weights.kinds import acting


def centres(norm: nn.Module) -> bool:
    """Whether a norm takes the mean away, as a LayerNorm does; families have classes of their own that do (Cohere)."""
    weight, inner = next(norm.parameters(), None), acting(norm)
    if isinstance(inner, nn.LayerNorm) or weight is None or weight.is_meta:
        return isinstance(inner, nn.LayerNorm)
    probe = _probe(weight)
    with torch.no_grad():
        there, here = norm(probe[None] + 2.0), norm(probe[None])
        return bool((there - here).norm() < 0.05 * here.norm())


def centred(x: Float[Tensor, "*rest d"], norm: nn.Module) -> Float[Tensor, "*rest d"]:
    """``x`` less its mean where the norm takes it away (a LayerNorm); ``x`` itself where it does not."""
    return x - x.mean(-1, keepdim=True) if centres(norm) else x


def root_mean_square(x: Float[Tensor, "*rest d"], norm: nn.Module) -> Float[Tensor, "*rest 1"]:
    """TransformerLens' ``hook_scale``: the root mean square, after centring for a LayerNorm. float32 at least."""
    inner = acting(norm)
    eps = getattr(inner, "variance_epsilon", None) or getattr(inner, "eps", None) or 1e-6
    wide = centred(_wide(x), norm)
    return (wide.pow(2).mean(-1, keepdim=True) + eps).sqrt()


def normalized(x: Float[Tensor, "*rest d"], norm: nn.Module) -> Float[Tensor, "*rest d"]:
    """TransformerLens' ``hook_normalized``: centred and scaled, before weight and bias."""
    return centred(_wide(x), norm) / root_mean_square(x, norm)


def gain(norm: nn.Module) -> Float[Tensor, "d"]:
    """The weight that a norm multiplies by, whichever way it stores it (``weight`` here, ``1 + weight`` there).

    It is seen from outside, on one vector and its negative, so that a bias drops out.
    """
    weight = next(norm.parameters(), None)
    if weight is None:
        return torch.ones(1)
    probe = _probe(weight)
    with torch.no_grad():
        odd = _wide(norm(probe[None])[0] - norm(-probe[None])[0]) / 2
        return odd / normalized(probe[None], norm)[0]


def offset(norm: nn.Module) -> Float[Tensor, "d"]:
    """The bias that a norm adds, seen from outside in the same way."""
    weight = next(norm.parameters(), None)
    if weight is None:
        return torch.zeros(1)
    probe = _probe(weight)
    with torch.no_grad():
        return _wide(norm(probe[None])[0] + norm(-probe[None])[0]) / 2


def _probe(weight: Tensor) -> Float[Tensor, "d"]:
    """A vector of ones with signs that take turns; no value is zero after its mean is taken away."""
    probe = torch.ones(weight.shape[-1], dtype=weight.dtype, device=weight.device)
    probe[::2] = -1.0
    return probe


def _wide(x: Tensor) -> Tensor:
    return x.to(torch.promote_types(x.dtype, torch.float32))
