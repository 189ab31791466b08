"""A layer asked what it does: its answers to unit vectors, and whether they say all there is.

A linear map with a bias is known by what it answers to each unit vector and to its negative. Whether a layer is one
shows in its answers to random vectors: they must be what the unit vectors' answers add up to.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Tensor, nn

PROBES = 3
AT_ONCE = 2**26  # numbers that are asked and answered in one call


class Unanswered(Exception):
    """A layer that takes no rows of numbers, or answers with something else than rows of numbers."""


@dataclass(frozen=True)
class Asked:
    """A layer, and what it is to be asked with: the width of its input, where, and in which numbers."""

    layer: Callable[..., object]
    width: int
    device: torch.device
    dtype: torch.dtype

    def __call__(self, rows: Float[Tensor, "row in"]) -> Float[Tensor, "row out"]:
        """The answers to some rows, as one item of as many positions.

        Raises:
            Unanswered: with what came in their place.
        """
        try:
            found = self.layer(rows.to(self.device, self.dtype)[None])
        except Exception as error:
            first = str(error).strip().splitlines()
            said = f"{type(error).__name__}: {first[0] if first else ''}"
            raise Unanswered(f"it cannot be run by itself ({said})") from error
        if not isinstance(found, Tensor) or found.shape[:-1] != (1, len(rows)):
            what = list(found.shape) if isinstance(found, Tensor) else type(found).__name__
            raise Unanswered(f"to [1, {len(rows)}, {self.width}] it answers with {what}")
        return found[0].to(torch.promote_types(found.dtype, torch.float32))

    @property
    def rounding(self) -> float:
        """How far answers may be off for the rounding of their numbers alone, relative to their size."""
        return max(1e-4, 8 * torch.finfo(self.dtype).eps)


@contextmanager
def asking(*layers: nn.Module) -> Iterator[None]:
    """While layers are asked: no gradients, no dropout, no autocast, and no random number of the caller's used up."""
    training = [module for layer in layers for module in layer.modules() if module.training]
    kinds = {p.device.type for layer in layers for p in layer.parameters()} - {"meta"}
    with ExitStack() as stack:
        stack.enter_context(torch.no_grad())
        stack.enter_context(torch.random.fork_rng(devices=range(torch.cuda.device_count()) if "cuda" in kinds else ()))
        for kind in kinds:
            stack.enter_context(torch.autocast(kind, enabled=False))
        for module in training:
            module.training = False
            stack.callback(setattr, module, "training", True)
        yield


def by_unit_vectors(layer: Asked) -> tuple[Float[Tensor, "out in"], Float[Tensor, "out"] | None]:
    """The weight and the bias that a layer's answers to unit vectors come to; ``None`` where they tell of no bias."""
    unit = torch.eye(1, layer.width)
    there, back = layer(unit)[0], layer(-unit)[0]
    bias = (there + back) / 2
    weight = there.new_empty(layer.width, len(there))
    rows = max(1, AT_ONCE // (layer.width + len(there)))
    for start in range(0, layer.width, rows):
        n = min(rows, layer.width - start)
        units = torch.zeros(n, layer.width)
        units[torch.arange(n), start + torch.arange(n)] = 1.0
        weight[start : start + n] = layer(units) - bias
    return weight.T, bias if bool(bias.any()) else None


def probes(width: int) -> Float[Tensor, "row in"]:
    """Random vectors to ask a layer with; the same ones each time."""
    return torch.randn(PROBES, width, generator=torch.Generator().manual_seed(0))


def gap(layer: Asked, weight: Tensor, bias: Tensor | None) -> float:
    """How far a layer's answers to random vectors are from those of a weight and a bias, relative to their size.

    Raises:
        Unanswered: see :class:`Asked`.
    """
    rows = probes(layer.width)
    answers = layer(rows)
    if weight.shape != (answers.shape[-1], layer.width):
        return float("inf")
    rows = rows.to(layer.device, layer.dtype).to(answers.dtype)
    offset = 0.0 if bias is None else bias.to(answers)
    expected = rows @ weight.to(answers).T
    return _relative(answers - offset, expected)


def why_not(layer: Asked) -> str:
    """What shows that a layer is no linear map of each position; what could not be asked where nothing shows."""
    try:
        found = shown(layer)
    except Unanswered as error:
        return str(error)
    return found or "its answers to random vectors are not what its answers to unit vectors add up to"


def shown(layer: Asked) -> str:
    """What shows that a layer is no linear map of each position; empty where nothing does.

    Raises:
        Unanswered: see :class:`Asked`.
    """
    rows = probes(layer.width)
    allowed = layer.rounding
    answers = layer(rows)
    if _relative(layer(rows), answers) > allowed:
        return "it gives something else each time that it is given the same (random numbers?)"
    alone = torch.cat([layer(row[None]) for row in rows])
    if _relative(alone, answers) > allowed:
        return "what it gives at one position depends on the positions before or beside it"
    bias = (layer(rows) + layer(-rows)) / 2
    if not torch.isfinite(answers).all():
        return "it gives numbers that are not finite"
    if _size(bias - bias[:1]) > allowed * _size(answers):
        return "the negative of what it is given does not give the negative of what it gives, its bias aside"
    twice = _relative(layer(2 * rows) - bias, 2 * (answers - bias))
    if twice > allowed:
        return f"twice what it is given does not give twice what it gives (off by {twice:.1%})"
    together = layer(rows[:1] + rows[1:2]) - bias[:1]
    added = _relative(together, answers[:1] + answers[1:2] - 2 * bias[:1])
    return f"a sum does not give the sum of what its parts give (off by {added:.1%})" if added > allowed else ""


def _size(x: Tensor) -> float:
    return float(x.double().norm())


def _relative(found: Tensor, expected: Tensor) -> float:
    size = _size(expected)
    distance = _size(found.double() - expected.double())
    return distance / size if size > 0 else float("inf") if distance > 0 else 0.0
