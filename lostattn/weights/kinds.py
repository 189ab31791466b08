"""What kind of layer stands at a place, seen through what adapters and wrappers put around it."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import torch
from torch import nn

from lostattn.weights.dequantisation import FLOAT8, holds_codes
from lostattn.weights.offload import device_of, is_described_only

_NO_MAPS = ("norm", "dropout", "embedding", "identity", "droppath", "conv")  # in names of classes


def acting_path(module: nn.Module) -> str:
    """Where the layer lies inside what PEFT put around it: the one adapted, or the copy that acts in its place.

    Empty where nothing was put around it.
    """
    path: list[str] = []
    while True:
        inner = _inside(module)
        if not inner:
            return ".".join(path)
        path.append(inner)
        module = module.get_submodule(inner)


def _inside(module: nn.Module) -> str:
    if "base_layer" in module._modules:
        return "base_layer"
    if "original_module" not in module._modules:
        return ""
    active: Any = [] if getattr(module, "_disable_adapters", False) else getattr(module, "active_adapters", [])
    copies: Any = module._modules.get("modules_to_save")
    if active and copies is not None and active[0] in copies:
        return f"modules_to_save.{active[0]}"
    return "original_module"


def acting(module: nn.Module) -> nn.Module:
    """The layer inside what PEFT put around it; see :func:`acting_path`."""
    return module.get_submodule(acting_path(module))


def acting_modules(module: nn.Module, path: str = "") -> Iterator[tuple[str, nn.Module]]:
    """Every module below one with its path, as ``named_modules`` gives them, without the copies that do not act."""
    yield path, module
    inside = _inside(module)
    children = [(inside, module.get_submodule(inside))] if inside else module.named_children()
    for name, child in children:
        yield from acting_modules(child, f"{path}.{name}" if path else name)


def is_norm(module: nn.Module) -> bool:
    """Whether a module is a norm, by the name of its class."""
    return "norm" in type(acting(module)).__name__.lower()


def is_linear_layer(module: nn.Module) -> bool:
    """Whether a layer is a linear map by its class, or says like one how wide its input and output are.

    A layer of somebody's own says neither; see :func:`may_be_linear`.
    """
    inner = acting(module)
    if isinstance(inner, nn.Linear) or type(inner).__name__ == "Conv1D":
        return True
    if isinstance(inner, nn.Embedding | nn.Bilinear | nn.modules.conv._ConvNd):
        return False
    return _said(inner) is not None


def may_be_linear(module: nn.Module) -> bool:
    """Whether a layer might be a linear map: it has weights, and is no norm, dropout, embedding or list."""
    if is_linear_layer(module):
        return True
    inner = acting(module)
    name = type(inner).__name__.lower()
    if isinstance(inner, nn.ModuleList | nn.ModuleDict) or any(word in name for word in _NO_MAPS):
        return False
    return any(t.dim() > 1 for t in (*inner.parameters(), *inner.buffers()))


def widths(module: nn.Module) -> tuple[int, int] | None:
    """How wide what a linear layer is given and gives is: as it says, or as it answers; ``None`` where it does not."""
    said = _said(acting(module))
    if said is not None:
        return said
    sizes = {n for t in (*module.parameters(), *module.buffers()) if t.dim() > 1 for n in t.shape}
    there = any(not p.is_meta for p in module.parameters()) or any("_hf_hook" in m.__dict__ for m in module.modules())
    device = device_of(module) if there else torch.device("meta")
    floats = [t.dtype for t in (*module.parameters(), *module.buffers()) if t.is_floating_point()]
    found = set()
    for size in sorted(sizes):
        try:
            with torch.no_grad():
                answer = module(torch.zeros(1, 2, size, device=device, dtype=floats[0] if floats else torch.float32))
        except Exception:
            continue  # it takes another width
        if isinstance(answer, torch.Tensor) and answer.shape[:2] == (1, 2):
            found.add((size, answer.shape[-1]))
    return found.pop() if len(found) == 1 else None


def takes(root: nn.Module, module: nn.Module) -> tuple[torch.device, torch.dtype]:
    """Where a layer of a model takes its input, and in which numbers."""
    inner = acting(module)
    tensors = [*inner.parameters(), *inner.buffers(), *module.parameters()]
    device = next((t.device for t in tensors), torch.device("cpu"))
    if device.type == "meta" and not is_described_only(root):
        device = device_of(root)
    kinds = [t.dtype for t in tensors if t.is_floating_point() and t.dtype not in FLOAT8]
    whole = getattr(root, "dtype", None)
    if holds_codes(module) and isinstance(whole, torch.dtype) and whole.is_floating_point and whole not in FLOAT8:
        return device, whole
    return device, kinds[0] if kinds else torch.float32


def _said(module: nn.Module) -> tuple[int, int] | None:
    for given, made in (("in_features", "out_features"), ("nx", "nf")):
        pair = getattr(module, given, None), getattr(module, made, None)
        if all(isinstance(n, int) for n in pair):
            return int(pair[0]), int(pair[1])  # type: ignore[arg-type]
    return None
