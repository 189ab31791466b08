"""Tiny random models whose vision tower mixes nothing between tokens, so that each shows its own pixels alone."""

from __future__ import annotations

import functools
from typing import Any

import torch
from torch import nn

from lostattn.architecture import resolve
from lostattn.conformance.models import build

OUT = ("out_proj", "o_proj", "proj", "proj_out")  # what an attention's result goes through
GATES = ("semodule", "squeezeexcite")  # channels weighed by the mean over the whole picture
POOLS = ("image_pooling_2d",)  # attention of a token over its own patches alone


@functools.cache
def silenced(family: str) -> nn.Module:
    """The family's tiny model without attention, its convolutions within their own cell, norms a place at a time."""
    model = build(family, "eager")
    decoder = {module for block in blocks(model) for module in block.modules()}
    for path, module in model.named_modules():
        if module in decoder or path.endswith(POOLS):
            continue
        kind = type(module).__name__.lower()
        if isinstance(module, nn.Conv2d | nn.Conv3d):
            own_cell(module)
        elif isinstance(module, nn.modules.batchnorm._BatchNorm):
            module.running_mean.zero_(), module.bias.data.zero_()
        elif isinstance(module, nn.GroupNorm):
            module.forward = lambda x, *_: x * x.square().mean(1, keepdim=True).add(1e-6).rsqrt()  # of each place alone
        elif kind in GATES:
            module.forward = lambda x: x
        elif "att" in kind:
            for name in OUT + ("output",) * (kind == "multiqueryattention2d"):
                if isinstance(out := getattr(module, name, None), nn.Module):
                    with torch.no_grad():
                        [parameter.zero_() for parameter in out.parameters()]
    return model


def blocks(model: nn.Module) -> list[nn.Module]:
    """The layers of the decoder."""
    return [model.get_submodule(block.path) for block in resolve(model).stack.blocks]


@torch.no_grad()
def own_cell(conv: Any) -> None:
    """Zero the taps of a convolution that reach out of the square of pixels that its output stands for."""
    for axis in (-2, -1):
        size, stride, pad = conv.kernel_size[axis], conv.stride[axis], conv.padding
        left = (
            pad[axis] if not isinstance(pad, str) and pad[axis] else (size - stride) // 2
        )  # else padded by its caller
        taps = torch.arange(size) - left
        keep = ((taps >= 0) & (taps < stride)).to(conv.weight.dtype)
        keep *= (size / keep.sum()) ** 0.5  # the signal keeps its size
        conv.weight.mul_(keep if axis == -1 else keep[:, None])
    if conv.bias is not None:
        conv.bias.zero_()  # with fewer taps it would drown the picture


@torch.no_grad()
def embedded(model: nn.Module, inputs: dict[str, Any]) -> torch.Tensor:
    """What the first layer of the decoder is handed: ``[position, width]`` of the first item."""
    kept = []
    hook = blocks(model)[0].register_forward_pre_hook(
        lambda m, a, k: kept.append((a[0] if a else k["hidden_states"])[0].clone()), with_kwargs=True
    )
    try:
        model(**inputs)
    finally:
        hook.remove()
    return kept[0]
