"""What people pass by mistake: values that are strange everywhere, and right ones bent out of shape."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor


class Alien:
    """An object that has nothing to do with anything."""


def _nothing() -> None:
    """A function that takes nothing."""


def of(right: Any) -> Iterator[tuple[str, Any]]:
    """Wrong values with their names; those that are of the right one's own type are bent from it."""
    yield from _strangers()
    if isinstance(right, Tensor):
        yield from _tensors(right)
    elif isinstance(right, bool) or right is None:
        return
    elif isinstance(right, int | float):
        yield from _numbers(right)
    elif isinstance(right, Path):
        yield from _paths()
    elif isinstance(right, str):
        yield from _texts(right)
    elif isinstance(right, list | tuple) and right:
        yield from _lists(right)
    elif isinstance(right, dict) and right:
        yield from _dicts(right)


def _strangers() -> Iterator[tuple[str, Any]]:
    yield "None", None
    yield "True", True
    yield "an int", 3
    yield "a negative int", -7
    yield "a huge int", 10**30
    yield "a very huge int", 10**6000
    yield "a float", 2.5
    yield "nan", float("nan")
    yield "inf", float("inf")
    yield "1e200", 1e200
    yield "an empty text", ""
    yield "an unknown name", "nonsense"
    yield "bytes", b"nonsense"
    yield "an object", Alien()
    yield "a class", Alien
    yield "a function", _nothing
    yield "an empty list", []
    yield "an empty dict", {}
    yield "a set", {3, 4}
    yield "a list of texts", ["nonsense"]
    yield "a list of objects", [Alien()]
    yield "a nested list", [[["nonsense"]]]
    yield "a dict of objects", {"nonsense": Alien()}
    yield "a numpy array", np.ones((2, 3))
    yield "a tensor", torch.ones(2, 3)
    yield "an empty tensor", torch.ones(0)
    yield "a complex tensor", torch.ones(2, dtype=torch.complex64)


def _tensors(right: Tensor) -> Iterator[tuple[str, Any]]:
    yield "one axis less", right[0]
    yield "one axis more", right[None].clone() if right.ndim < 2 else right.reshape(*right.shape, 1)
    yield "the last axis cut", right[..., :-1]
    yield "empty", right[..., :0]
    yield "numpy", right.numpy()
    yield "a list of it", [right]
    yield "on the meta device", right.to("meta")
    yield "sparse", right.to_sparse()
    if right.is_floating_point():
        yield "of ints", right.long()
        for name, value in (("nan", float("nan")), ("inf", float("inf")), ("-inf", -float("inf"))):
            bent = right.clone()
            bent.view(-1)[0] = value
            yield f"with a {name}", bent
        yield "with 1e200", right.double() * 1e200
    else:
        yield "of floats", right.float()


def _numbers(right: float) -> Iterator[tuple[str, Any]]:
    yield "as a text", str(right)
    yield "in a list", [right]
    yield "zero", 0
    yield "negative", -right - 1
    yield "of numpy's bool", np.True_
    yield "as a tensor", torch.tensor(right)


def _paths() -> Iterator[tuple[str, Any]]:
    yield "with a null byte", Path("a\0b")
    yield "a name too long", Path("n" * 300)
    yield "below a file", Path(__file__) / "below"


def _texts(right: str) -> Iterator[tuple[str, Any]]:
    yield "a letter missing", right[:-1] or "~"
    yield "in capitals", right.upper() if right.upper() != right else right.lower() + "~"
    yield "with a null byte", right + "\0"
    yield "very long", right[:50] * 20000
    yield "as bytes", right.encode()
    yield "with a blank", right + " "


def _lists(right: Any) -> Iterator[tuple[str, Any]]:
    make = type(right)
    yield "its first part", right[0]
    yield "with None in it", make([*right, None])
    yield "with an object in it", make([*right, Alien()])
    yield "within a list", [right]
    yield "as a set of ids", {id(one) for one in right}


def _dicts(right: dict[Any, Any]) -> Iterator[tuple[str, Any]]:
    yield "its keys", list(right)
    yield "with an object for a value", dict.fromkeys(right, Alien())
    yield "with an object for a key", dict(zip([Alien()] * len(right), right.values(), strict=True))
    yield "with None for a value", dict.fromkeys(right)
