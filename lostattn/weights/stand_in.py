"""A copy of a layer that can be asked freely: in wide numbers, not training, its codes spelled out.

Asking a layer itself would round to its dtype, draw its dropout, and round once more where it rounds what it is given.
The copy shares the layer's code and leaves the layer as it is.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

from lostattn.weights.dequantisation import is_plain, spelled_out


def stand_in(module: nn.Module, as_stored: bool = False, known: dict[int, nn.Module] | None = None) -> nn.Module:
    """A copy of a module and all that is in it.

    Args:
        module: one whose weights are at hand.
        as_stored: keep every tensor as it is, in place of making floating-point ones wide and codes plain.
        known: copies made already, for parts that are held twice.
    """
    known = {} if known is None else known
    if id(module) in known:
        return known[id(module)]
    spelled = [] if as_stored or is_plain(module) else spelled_out(module)
    if spelled:
        known[id(module)] = plain = _plain(spelled[0], getattr(module, "bias", None))
        return plain
    copied: nn.Module = object.__new__(type(module))
    known[id(module)] = copied
    state = dict(module.__dict__)
    if "_hf_hook" in state or "__nnsight__" in state:
        # accelerate and nnsight put a forward of the original into the module; the class has the layer's own.
        for name in ("forward", "_old_forward", "_hf_hook", "__nnsight__"):
            state.pop(name, None)
    copied.__dict__.update(state)
    change = _same if as_stored else wide
    for name in ("_parameters", "_buffers"):
        copied.__dict__[name] = {k: None if v is None else change(v) for k, v in state[name].items()}
    copied.__dict__["_modules"] = {
        k: None if v is None else stand_in(v, as_stored, known) for k, v in state["_modules"].items()
    }
    copied.__dict__["training"] = False
    return copied


def wide_copy(module: nn.Module) -> nn.Module | None:
    """A copy in wide numbers, where a layer lets itself be copied."""
    try:
        return stand_in(module)
    except Exception:
        return None


def wide(tensor: Tensor) -> Any:
    """A tensor of floating-point numbers in float32 at the least, detached; others as they are."""
    value = tensor.detach()
    if not tensor.is_floating_point() or type(tensor.data) is not Tensor:
        return value if not isinstance(tensor, nn.Parameter) else tensor
    value = value.to(torch.promote_types(tensor.dtype, torch.float32))
    return nn.Parameter(value, requires_grad=False) if isinstance(tensor, nn.Parameter) else value


def _same(tensor: Tensor) -> Tensor:
    return tensor


def _plain(weight: Tensor, bias: Tensor | None) -> nn.Linear:
    with torch.device("meta"):
        made = nn.Linear(weight.shape[1], weight.shape[0], bias=bias is not None)
    made.weight = nn.Parameter(wide(weight), requires_grad=False)
    if bias is not None:
        made.bias = nn.Parameter(wide(bias.detach()), requires_grad=False)
    return made.eval()
