"""The weight of one layer as its library spells it out: plain, or dequantised from the codes that it keeps.

Only what a library says itself is read here: its own function, method or scales. What it comes to is put to the test by
:mod:`lostattn.weights.linear_map`, since a stored weight need not be what a layer multiplies by.
"""

from __future__ import annotations

import copy
from collections.abc import Iterator
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor, nn

FLOAT8 = tuple(getattr(torch, name) for name in dir(torch) if name.startswith("float8_"))
TRANSPOSED = ("Conv1D",)  # classes that keep [in, out]: GPT-2's linear map


def is_plain(module: nn.Module) -> bool:
    """Whether a layer is a plain linear map with its weight in floating point, and nothing hung onto it."""
    weight = module._parameters.get("weight")
    return (
        (type(module) is nn.Linear or type(module).__name__ in TRANSPOSED)
        and weight is not None
        and type(weight.data) is Tensor
        and weight.is_floating_point()
        and weight.dtype not in FLOAT8
    )


def spelled_out(module: nn.Module) -> list[Float[Tensor, "out in"]]:
    """What a layer's own library makes of the weight that it stores; several where it does not say which way round.

    Empty where the layer is not one that is known, or where its parts are layers themselves.
    """
    if is_plain(module):
        weight: Any = module.weight
        return [weight.detach().T if type(module).__name__ in TRANSPOSED else weight.detach()]
    if module._modules:
        return []
    for read in (_by_its_tensor, _bitsandbytes, _float8, _by_its_method):
        found = list(read(module))
        if found:
            return found
    return []


def holds_codes(module: nn.Module) -> bool:
    """Whether a layer keeps its weights in codes of few bits, so that it may round what it is given too."""
    tensors = [*module.parameters(), *module.buffers()]
    return any(t.dim() > 1 and (not t.is_floating_point() or t.dtype in FLOAT8 or _is_packed(t)) for t in tensors)


def _is_packed(tensor: Tensor) -> bool:
    return type(tensor.data) is not Tensor and callable(getattr(tensor.data, "dequantize", None))


def _by_its_tensor(module: nn.Module) -> Iterator[Tensor]:
    """torchao, optimum-quanto: the weight is a tensor of a class of its own that dequantises itself."""
    weight = getattr(module, "weight", None)
    if isinstance(weight, Tensor) and _is_packed(weight) and weight.dim() == 2:
        found: Tensor = weight.data.dequantize()
        yield found.detach()


def _bitsandbytes(module: nn.Module) -> Iterator[Tensor]:
    weight: Any = module._parameters.get("weight")
    kind = type(weight).__name__
    if kind == "Int8Params" and weight.dtype == torch.int8:
        state: Any = getattr(module, "state", None)
        scales = getattr(state, "SCB", None)  # there once the layer has run, at the weight until then
        scales = getattr(weight, "SCB", None) if scales is None else scales
        if scales is not None:
            yield weight.data.float() * (scales.float().to(weight.device)[:, None] / 127.0)
    if kind == "Params4bit" and getattr(weight, "quant_state", None) is not None:
        import bitsandbytes.functional as bnb

        codes, state = weight.data, weight.quant_state
        if getattr(state, "packing_format_for_cpu", False):
            codes, state = _unpacked_for_cpu(codes, state)
        found: Tensor = bnb.dequantize_4bit(codes, state)
        yield found.T if found.shape[0] == 1 and tuple(found.shape) != tuple(state.shape) else found


def _unpacked_for_cpu(codes: Tensor, state: Any) -> tuple[Tensor, Any]:
    """The codes and scales of a 4-bit weight that a pass on some processors has laid out anew.

    bitsandbytes' own way back leaves the scales of weights that are not doubly quantised as they lie, so they are put
    back here. They stay rounded to bfloat16, which is what the layer multiplies by.
    """
    import bitsandbytes.functional as bnb

    state = copy.copy(state)
    scales = state.absmax.T.reshape(-1).float()
    state.original_nested = False
    codes, state = bnb._convert_weight_packed_for_cpu_inverse(codes, state)
    state.absmax, state.dtype = scales, torch.float32
    return codes.reshape(-1, 1), state


def _float8(module: nn.Module) -> Iterator[Tensor]:
    """Codes in float8 beside their scales: one for all, one a row, or one a block (transformers' FP8Linear)."""
    weight = getattr(module, "weight", None)
    if not isinstance(weight, Tensor) or weight.dtype not in FLOAT8 or weight.dim() != 2:
        return
    for name in ("weight_scale_inv", "weight_scale"):  # either way the codes are multiplied by them
        scale = getattr(module, name, None)
        if isinstance(scale, Tensor):
            yield weight.detach().float() * _spread(scale.detach().float(), weight.shape, _block(module))
            return


def _block(module: nn.Module) -> tuple[int, int] | None:
    size: Any = getattr(module, "block_size", None)
    return None if size is None else (int(size[0]), int(size[1]))


def _spread(scale: Tensor, shape: torch.Size, block: tuple[int, int] | None) -> Tensor:
    """Scales as wide as the weight, or as broadcast over it."""
    if scale.numel() == 1:
        return scale.reshape(1, 1)
    if block is None and scale.numel() == shape[0]:
        return scale.reshape(-1, 1)
    rows, columns = block or (-(-shape[0] // scale.shape[0]), -(-shape[1] // scale.shape[1]))
    return scale.repeat_interleave(rows, 0)[: shape[0]].repeat_interleave(columns, 1)[:, : shape[1]]


def _by_its_method(module: nn.Module) -> Iterator[Tensor]:
    """GPTQModel, HQQ: the layer has a method that gives its weight, some of them the other way round."""
    for name in ("dequantize_weight", "dequantize"):
        method = getattr(module, name, None)
        if not callable(method):
            continue
        try:
            found = method()
        except Exception:
            continue  # a layer that cannot is asked by what it answers
        if isinstance(found, Tensor) and found.dim() == 2:
            yield found.detach()
            yield found.detach().T
