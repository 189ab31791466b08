"""Whether a model multiplies by just the weights that it stores: what somebody who reads them leans on."""

from __future__ import annotations

from collections.abc import Iterable

import torch
from torch import Tensor, nn
from torch.nn.utils import parametrize

from lostattn.errors import InputError
from lostattn.weights.dequantisation import FLOAT8, TRANSPOSED, holds_codes
from lostattn.weights.kinds import is_linear_layer
from lostattn.weights.linear_map import linear_map
from lostattn.weights.offload import keeps_weights


def why_not_as_stored(root: nn.Module, maps: Iterable[str]) -> str:
    """The first layer that does something else than its stored weights say, and what to do; empty where none does.

    Args:
        root: the model.
        maps: paths of layers that must be the linear maps that their weights are.
    """
    for path, module in root.named_modules():
        kind = type(module).__name__
        if keeps_weights(module):
            return (
                f"accelerate keeps the weights of {path or kind} elsewhere and brings them for each call; load it whole"
            )
        if "base_layer" in module._modules or "original_module" in module._modules:
            return f"{path} ({kind}) is a layer with an adapter; merge it first (merge_and_unload() of PEFT)"
        if _holds_codes(module):
            return (
                f"{path} ({kind}) keeps its weights in codes of few bits; load it without quantisation, or dequantised"
            )
        if parametrize.is_parametrized(module):
            return f"{path} is parametrised; make it plain first (remove_parametrizations of torch)"
    return next(filter(None, (_unlike(root, path) for path in maps)), "")


def _holds_codes(module: nn.Module) -> bool:
    own = [p for p in module.parameters(recurse=False) if p.dim() > 1]
    odd = any(not p.is_floating_point() or p.dtype in FLOAT8 or type(p.data) is not Tensor for p in own)
    return odd or (is_linear_layer(module) and holds_codes(module))


def _unlike(root: nn.Module, path: str) -> str:
    """How a layer differs from the linear map that its weight is; empty where it does not."""
    module = root.get_submodule(path)
    weight = module._parameters.get("weight")
    if weight is None:
        return f"{path} ({type(module).__name__}) is a module of its own, without a weight that could be read"
    stored = weight.detach().T if type(module).__name__ in TRANSPOSED else weight.detach()
    try:
        found = linear_map(root, path).weight
    except InputError as error:
        return str(error)
    eps = 8 * torch.finfo(stored.dtype).eps
    same = found.shape == stored.shape and bool((found - stored.to(found)).norm() <= eps * stored.to(found).norm())
    return (
        "" if same else f"{path} ({type(module).__name__}) multiplies by something else than the weight that it stores"
    )
