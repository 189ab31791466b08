"""jaxtyping's annotations as kinds of arguments: dtype and number of axes, and sizes that must agree in one call."""

from __future__ import annotations

import functools
import re
from collections.abc import Iterable
from typing import Any

import numpy as np
import torch
from torch import Tensor

from lostattn.arguments.described import described
from lostattn.arguments.kinds import Kind

_NAMED = re.compile(r"[a-z_][a-z0-9_]*")


def tensor_kind(annotation: Any) -> Kind:
    """What a jaxtyping annotation asks of one tensor or numpy array."""
    axes = tuple(annotation.dim_str.split())
    several = any(axis.startswith(("*", "...")) for axis in axes)
    n = len(axes) - several
    of_numpy = annotation.array_type is np.ndarray
    dtypes = _dtypes(annotation)
    told = f"a {_called(annotation)} {'numpy array' if of_numpy else 'tensor'} [{', '.join(axes)}]"

    def fits(value: Any) -> bool:
        if of_numpy:
            right = isinstance(value, np.ndarray) and (dtypes is None or value.dtype.name in dtypes)
        else:
            right = isinstance(value, Tensor) and (dtypes is None or value.dtype in dtypes)
            right = right and value.layout is torch.strided and not value.is_meta
        return right and (value.ndim >= n if several else value.ndim == n)

    return Kind(fits, told, axes=axes)


def _dtypes(annotation: Any) -> frozenset[Any] | None:
    if not isinstance(annotation.dtypes, list | tuple):
        return None
    names = [name for name in annotation.dtypes if isinstance(name, str)]
    if annotation.array_type is np.ndarray:
        return frozenset(names)
    return frozenset(getattr(torch, name.rstrip("_")) for name in names if hasattr(torch, name.rstrip("_")))


def _called(annotation: Any) -> str:
    kind = annotation.dtype.__name__
    names = {"Float": "floating-point", "Int": "whole-number", "Bool": "boolean", "UInt8": "uint8"}
    return names.get(kind, kind.lower())


def disagreement(given: Iterable[tuple[str, Any, Kind]]) -> str | None:
    """What of the tensors of one call does not go together: their devices, or the size of an axis of one name."""
    sizes: dict[str, tuple[Any, str]] = {}
    first: tuple[str, torch.device] | None = None
    for name, value, kind in given:
        if isinstance(value, Tensor):
            if first is None:
                first = (name, value.device)
            elif value.device != first[1]:
                return (
                    f"{name} is on {value.device} and {first[0]} on {first[1]}; expected one device. Move one of them."
                )
        shape = value.shape
        for axis, place in named_axes(kind.axes or ()):
            size = shape[place]
            known, holder = sizes.setdefault(axis, (size, name))
            if known != size:
                return (
                    f"{name} is {described(value)}, so its {axis} is {_plain(size)}, where that of {holder} is "
                    f"{_plain(known)}; expected {kind.told} with the same {axis}."
                )
    return None


@functools.cache
def named_axes(axes: tuple[str, ...]) -> tuple[tuple[str, int | slice], ...]:
    """The axes that have a name, each with its place in a shape; that of several axes together is a slice."""
    at = next((i for i, axis in enumerate(axes) if axis.startswith(("*", "..."))), len(axes))
    out: list[tuple[str, int | slice]] = []
    for i, axis in enumerate(axes):
        name, behind = axis.removeprefix("*"), i - len(axes)
        if _NAMED.fullmatch(name) and name != "_":
            place = i if i < at else slice(at, behind + 1 or None) if i == at else behind
            out.append((name, place))
    return tuple(out)


def _plain(size: Any) -> Any:
    return size if isinstance(size, int) else tuple(size)
