"""Which weights a model has: a digest of all of them, taken when it is first asked for."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Mapping
from typing import Any
from weakref import WeakKeyDictionary

import torch
from torch import Tensor, nn

from lostattn.weights.adapters import switched_on

_ALL, _SHAPES = "sha256:", "shapes:"
_PIECE = 1 << 24  # bytes at a time
_taken: WeakKeyDictionary[nn.Module, tuple[tuple[Any, ...], str]] = WeakKeyDictionary()


def digest_of(model: nn.Module) -> str:
    """A hash of the names, shapes and values of all weights, and of which adapters act.

    It is taken once and kept until a weight is written to or put in the place of another. Of a model that is described
    without its weights it says the names and shapes alone.
    """
    weights = dict(model.named_parameters())
    adapters = switched_on(model)
    state = (adapters, *((p.data_ptr(), weight._version) for weight in weights.values() for p in _parts(weight)))
    held = _taken.get(model)
    if held is None or held[0] != state:
        held = _taken[model] = (state, _hashed(weights, adapters))
    return held[1]


def is_of(written: str, model: nn.Module) -> bool:
    """Whether a digest that was stored is this model's; those of earlier versions looked at fewer values."""
    if written.startswith(_SHAPES) or digest_of(model).startswith(_SHAPES):
        return True  # nothing to compare: the weights were, or are, somewhere else
    return written == (digest_of(model) if written.startswith(_ALL) else _first_values(model))


def _hashed(weights: Mapping[str, Tensor], adapters: str) -> str:
    digest = hashlib.sha256(adapters.encode())
    for name, weight in weights.items():
        digest.update(f"{name}{tuple(weight.shape)}{weight.dtype}".encode())
        for part in () if weight.is_meta else _parts(weight):
            raw = part.detach().contiguous().flatten().view(torch.uint8)
            for start in range(0, len(raw), _PIECE):
                digest.update(raw[start : start + _PIECE].cpu().numpy().tobytes())
    kind = _SHAPES if any(weight.is_meta for weight in weights.values()) else _ALL
    return kind + digest.hexdigest()[:32]


def _parts(weight: Tensor) -> Iterator[Tensor]:
    """The plain tensors that a weight is made of: of a class that packs its values, codes and scales."""
    value: Any = weight.data
    if type(value) is Tensor or not hasattr(value, "__tensor_flatten__"):
        yield value
        return
    for name in value.__tensor_flatten__()[0]:
        yield from _parts(getattr(value, name))


def _first_values(model: nn.Module) -> str:
    """What the first version wrote: the names and shapes of all weights, and the first values of each."""
    digest = hashlib.sha256()
    for name, weight in model.named_parameters():
        digest.update(f"{name}{tuple(weight.shape)}".encode())
        digest.update(weight.detach().flatten()[:64].float().cpu().numpy().tobytes())
    return digest.hexdigest()[:32]
