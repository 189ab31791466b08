"""What a norm does, for any norm: its statistics, and the weight that it multiplies by."""

from __future__ import annotations

import torch
from jaxtyping import Float
from torch import Tensor, nn


def centred(x: Float[Tensor, "*rest d"], norm: nn.Module) -> Float[Tensor, "*rest d"]:
    """``x`` less its mean where the norm takes it away (a LayerNorm); ``x`` itself where it does not."""
    return x - x.mean(-1, keepdim=True) if isinstance(norm, nn.LayerNorm) else x


def root_mean_square(x: Float[Tensor, "*rest d"], norm: nn.Module) -> Float[Tensor, "*rest 1"]:
    """TransformerLens' ``hook_scale``: the root mean square, after centring for a LayerNorm. float32 at least."""
    eps = getattr(norm, "variance_epsilon", None) or getattr(norm, "eps", None) or 1e-6
    wide = centred(x.to(torch.promote_types(x.dtype, torch.float32)), norm)
    return (wide.pow(2).mean(-1, keepdim=True) + eps).sqrt()


def normalized(x: Float[Tensor, "*rest d"], norm: nn.Module) -> Float[Tensor, "*rest d"]:
    """TransformerLens' ``hook_normalized``: centred and scaled, before weight and bias."""
    return centred(x.to(torch.promote_types(x.dtype, torch.float32)), norm) / root_mean_square(x, norm)


def gain(norm: nn.Module) -> Float[Tensor, "d"]:
    """The weight that a norm multiplies by, whichever way it stores it (``weight`` here, ``1 + weight`` there).

    It is seen from outside, on one vector and its negative, so that a bias drops out.
    """
    weight = next(norm.parameters(), None)
    if weight is None:
        return torch.ones(1)
    probe = torch.ones(weight.shape[-1], dtype=weight.dtype, device=weight.device)
    probe[::2] = -1.0
    with torch.no_grad():
        odd = (norm(probe[None])[0] - norm(-probe[None])[0]).float() / 2
        return odd / normalized(probe[None], norm)[0]
