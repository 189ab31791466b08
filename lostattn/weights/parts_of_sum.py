"""Whether what a layer gives for the parts of an input adds up to what it gave for the whole, in a real pass.

That is what every result of a head and every attribution leans on. Random vectors do not show everything: a layer that
clips what it is given, say, is linear up to some size.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
from jaxtyping import Float
from torch import Tensor, nn

from lostattn.weights.dequantisation import holds_codes, is_plain, spelled_out
from lostattn.weights.kinds import takes, widths
from lostattn.weights.linear_map import ROUNDED_INPUT, LinearMap, found_map
from lostattn.weights.offload import fetched
from lostattn.weights.probes import Asked, Unanswered, asking, probes, shown
from lostattn.weights.stand_in import wide_copy

Function = Callable[[Tensor], Tensor]


def off_by(
    root: nn.Module, path: str, given: Float[Tensor, "*rest in"], gave: Float[Tensor, "*rest out"], parts: int
) -> tuple[float, str]:
    """How far the parts are from adding up, relative to their sizes, and what is wrong where that is too far.

    Each part is brought to the size of a unit vector first, and what it gives is multiplied by as much.

    Args:
        root: the model.
        path: of the layer.
        given: what it was given in a pass.
        gave: what it gave then.
        parts: into how many equal parts each position of the input is cut; heads, of an output map.
    """
    with fetched(root, path) as module, asking(module):
        size = widths(module)
        if size is None:
            return float("inf"), "how wide its input is cannot be told"
        layer = Asked(module, size[0], *takes(root, module))
        try:
            found = _function(root, module, layer)
            return (float("inf"), found) if isinstance(found, str) else _held(layer, *found, given, gave, parts)
        except Unanswered as error:
            return float("inf"), str(error)


def _function(root: nn.Module, module: nn.Module, layer: Asked) -> tuple[Function, float] | str:
    """What answers for a layer, and how far the layer itself is from it; the reason where it is no linear map.

    Its map where that costs nothing; where the layer must be asked for it, the layer, copied into wide numbers.
    """
    if spelled_out(module):
        found = found_map(root, module)
        return found if isinstance(found, str) else (found, found.rounds)
    copy = None if is_plain(module) else wide_copy(module)
    freely = layer if copy is None else Asked(copy, layer.width, layer.device, _wide(layer))
    reason = shown(freely)
    if reason or copy is None:
        return reason or (layer, 0.0)
    rows = probes(layer.width)
    answers = freely(rows)
    off = float((layer(rows) - answers).double().norm() / answers.double().norm().clamp_min(1e-30))
    if off > (ROUNDED_INPUT if holds_codes(module) else layer.rounding):
        return shown(layer) or (layer, 0.0)  # the copy is something else
    return freely, off if off > layer.rounding else 0.0


def _wide(layer: Asked) -> torch.dtype:
    return torch.promote_types(layer.dtype, torch.float32)


def _held(
    layer: Asked, function: Function, rounds: float, given: Tensor, gave: Tensor, parts: int
) -> tuple[float, str]:
    rows = given.flatten(0, -2).to(layer.device, _wide(layer))
    expected = gave.flatten(0, -2).to(rows)
    bias = function(torch.zeros_like(rows[:1])).to(rows)
    total, size = bias.expand_as(expected).clone(), bias.double().norm() * len(rows) ** 0.5
    step = -(-rows.shape[-1] // (1 if isinstance(function, LinearMap) else parts))  # of a map they add up by themselves
    for start in range(0, rows.shape[-1], step):
        part = torch.zeros_like(rows)
        part[:, start : start + step] = rows[:, start : start + step]
        largest = part.abs().amax(-1, keepdim=True)
        wrote = (function(part / largest.clamp_min(1e-30)).to(rows) - bias) * largest
        total += wrote
        size = size + wrote.double().norm()
    size = max(size, expected.double().norm())
    off = float((total.double() - expected.double()).norm() / size.clamp_min(1e-30))
    allowed = max(1e-5, 8 * torch.finfo(layer.dtype).eps)
    if rounds:  # what it rounds goes with the largest value of a row, and that of a random one is above one
        usual = float((function(probes(layer.width)).to(rows) - bias).double().norm(dim=-1).mean())
        allowed += rounds * usual * float(rows.abs().amax(-1).double().norm() / size.clamp_min(1e-30))
    if off <= allowed:
        return off, ""
    return off, (
        f"what it gives for the parts of what it is given in a pass does not add up to what it gave (off by {off:.1%} "
        "of their sizes), as where values beyond some size are clipped"
    )
