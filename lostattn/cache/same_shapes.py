"""Values of several layers as one tensor, where the layers are alike."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from lostattn.errors import InputError


def stacked(values: Sequence[Tensor], layers: Sequence[int], what: str) -> Tensor:
    """``[layer, …]`` of one value a layer.

    Raises:
        InputError: layers differ in their heads (or head sizes), so that no one tensor holds them; with which layers
            are alike.
    """
    shapes: dict[tuple[int, ...], list[int]] = {}
    for layer, value in zip(layers, values, strict=True):
        shapes.setdefault(tuple(value.shape), []).append(layer)
    if len(shapes) > 1:
        found = "; ".join(f"{list(shape)} in layers {own}" for shape, own in shapes.items())
        raise InputError(
            f"the layers differ in the shape of {what}, so that they make no one tensor: {found}. "
            "Take layers that are alike, or one layer at a time."
        )
    return torch.stack(list(values))
