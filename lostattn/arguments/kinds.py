"""What an argument may be: a test that costs next to nothing, its words for a message, and where it fails inside."""

from __future__ import annotations

import inspect
import math
import os
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from itertools import islice
from pathlib import Path
from types import FunctionType
from typing import Annotated, Any, SupportsIndex

import numpy as np
import torch

LARGEST = 2**63 - 1
LOOKED_AT = 64  # parts of a long sequence that are looked at


@dataclass(frozen=True)
class Kind:
    """One kind of argument.

    Attributes:
        fits: whether a value is of this kind.
        told: the kind in words, after "expected".
        parts: of a container that is of the right type, its parts with their places and kinds, for messages.
        known: the names that it can be, where it is one of a few.
        axes: of a tensor, what its axes are called.
    """

    fits: Callable[[Any], bool]
    told: str
    parts: Callable[[Any], Iterator[tuple[str, Any, Kind]]] | None = None
    known: tuple[str, ...] = ()
    axes: tuple[str, ...] | None = None


@dataclass(frozen=True)
class Rule:
    """What ``Annotated[type, Rule(…)]`` asks beyond the type."""

    holds: Callable[[Any], bool]
    told: str = field(compare=False)


@dataclass(frozen=True)
class Told:
    """What ``Annotated[type, Told(…)]`` is called in messages, after "expected"."""

    words: str


def is_whole(value: Any) -> bool:
    """A whole number that fits 64 bits; ``True`` is none."""
    if type(value) is int:
        return -LARGEST <= value <= LARGEST
    return isinstance(value, int | np.integer) and not isinstance(value, bool) and -LARGEST <= int(value) <= LARGEST


def is_real(value: Any) -> bool:
    """A finite number; ``True`` is none."""
    if type(value) is float:
        return math.isfinite(value)
    return is_whole(value) or (isinstance(value, float | np.floating) and math.isfinite(value))


def is_path(value: Any) -> bool:
    """A path that a file system can hold: a name without null bytes, none of its parts too long."""
    try:
        text = os.fspath(value)
        raw = os.fsencode(text)
    except (TypeError, ValueError):
        return False
    return isinstance(text, str) and bool(text) and b"\0" not in raw and len(raw) < 4096 and _short_parts(raw)


def _short_parts(raw: bytes) -> bool:
    return len(raw) < 256 or all(len(part) < 256 for part in raw.split(b"/"))


def is_device(value: Any) -> bool:
    """A device of this machine that holds values."""
    if not isinstance(value, str | torch.device):
        return False
    try:
        device = torch.device(value)
    except (RuntimeError, TypeError, ValueError, OverflowError):
        return False
    if device.type == "cpu":
        return device.index in (None, 0)
    if device.type == "meta":
        return False
    module = getattr(torch, device.type, None)
    if module is None or not hasattr(module, "device_count"):
        return False
    return (device.index or 0) < int(module.device_count())


def is_sane(value: Any) -> bool:
    """Whether a value can be meant at all: no int beyond 64 bits, no tensor without real values of its own here."""
    if isinstance(value, int):
        return -LARGEST <= value <= LARGEST
    if not isinstance(value, torch.Tensor):
        return True
    return not value.is_meta and value.layout is torch.strided and not value.is_complex()


def is_sane_or_elsewhere(value: Any) -> bool:
    """The same, of a value that looks at its own fields: it may lie on the meta device."""
    return is_sane(value) or (isinstance(value, torch.Tensor) and value.is_meta)


SANE_OR_ELSEWHERE = Kind(is_sane_or_elsewhere, "no int beyond 64 bits, and no tensor that is complex or sparse")
SANE = Kind(is_sane, "no int beyond 64 bits, and no tensor that is complex, sparse or on the meta device")
WHOLE = Kind(is_whole, "a whole number")
REAL = Kind(is_real, "a finite number")
PATH = Kind(is_path, "a path: a str or pathlib.Path, not empty, without null bytes, with names of at most 255 bytes")
DEVICE = Kind(is_device, "a device of this machine, such as 'cpu' or 'cuda:0'")
PLAIN = {
    type(None): Kind(lambda v: v is None, "None"),
    bool: Kind(lambda v: isinstance(v, bool | np.bool_), "True or False"),
    int: WHOLE,
    float: REAL,
    str: Kind(lambda v: isinstance(v, str), "a str"),
    torch.device: DEVICE,
    torch.dtype: Kind(lambda v: isinstance(v, torch.dtype) and v.is_floating_point, "a floating-point torch dtype"),
    Path: Kind(lambda v: isinstance(v, Path) and is_path(v), "a pathlib.Path"),
    SupportsIndex: WHOLE,
    torch.Tensor: Kind(lambda v: isinstance(v, torch.Tensor) and is_sane(v), "a dense tensor of real numbers"),
}


def union(kinds: list[Kind]) -> Kind:
    """One of several kinds."""
    kinds = [kind for kind in dict.fromkeys(kinds) if kind is not WHOLE or REAL not in kinds]
    if len(kinds) == 1:
        return kinds[0]
    fits = tuple(kind.fits for kind in kinds)
    told = " or ".join(dict.fromkeys(kind.told for kind in kinds))
    known = tuple(name for kind in kinds for name in kind.known)
    parts, axes = (_only([getattr(kind, what) for kind in kinds]) for what in ("parts", "axes"))
    if len(fits) == 2:
        first, second = fits
        return Kind(lambda v: first(v) or second(v), told, parts, known, axes)
    return Kind(lambda v: any(fit(v) for fit in fits), told, parts, known, axes)


def _only(found: list[Any]) -> Any:
    """What is there once; ``None`` where it is not, or several times."""
    there = [one for one in found if one is not None]
    return there[0] if len(there) == 1 else None


_NO_LISTS = (str, bytes, bytearray, Mapping)  # a text is no list of its letters, a dict none of its keys


def sequence(types: Any, told: str, inner: Kind | None) -> Kind:
    """A container of parts of one kind."""
    told = told if inner is None else f"{told} of {plural(inner.told)}"

    def fits(value: Any) -> bool:
        if not isinstance(value, types) or isinstance(value, _NO_LISTS):
            return False
        looked = _looked_at(value)
        return looked is not None and (inner is None or all(map(inner.fits, looked)))

    def parts(value: Any) -> Iterator[tuple[str, Any, Kind]]:
        if isinstance(value, types) and not isinstance(value, _NO_LISTS) and inner is not None:
            yield from ((f"[{i}]", part, inner) for i, part in enumerate(_looked_at(value) or ()))

    return Kind(fits, told, parts)


def _looked_at(value: Any) -> Sequence[Any] | None:
    """The first parts of a container that can be looked at without using it up; ``None`` where it has none."""
    if isinstance(value, list | tuple):
        return value[:LOOKED_AT]
    if isinstance(value, set | frozenset | range):
        return list(islice(value, LOOKED_AT))
    if isinstance(value, np.ndarray | torch.Tensor):
        if value.ndim == 0 or not is_sane(value):
            return None
        return value[:LOOKED_AT].tolist() if value.ndim == 1 else list(value[:LOOKED_AT])
    return ()


def function(n: int | None) -> Kind:
    """A function of so many arguments; of any number where it is not said."""
    if n is None:
        return Kind(callable, "a function")
    return Kind(lambda v: callable(v) and _takes(v, n), f"a function of {n} argument{'s' * (n != 1)}")


def _takes(value: Any, n: int) -> bool:
    """Whether a function can be called with so many arguments by position."""
    if isinstance(value, FunctionType) and not value.__code__.co_kwonlyargcount and not hasattr(value, "__wrapped__"):
        code = value.__code__
        few = code.co_argcount - len(value.__defaults__ or ())
        return few <= n and (n <= code.co_argcount or bool(code.co_flags & inspect.CO_VARARGS))
    try:
        inspect.signature(value).bind(*range(n))
    except TypeError:
        return False
    except ValueError:  # some built-in functions do not tell what they take
        return True
    return True


def row(inner: list[Kind | None]) -> Kind:
    """A tuple of so many parts, each of its own kind."""
    n = len(inner)
    told = f"a tuple of {n}: {', '.join(one.told if one else 'anything' for one in inner)}"

    def fits(value: Any) -> bool:
        right = isinstance(value, tuple) and len(value) == n
        return right and all(one is None or one.fits(part) for one, part in zip(inner, value, strict=True))

    return Kind(fits, told)


def mapping(types: Any, key: Kind | None, inner: Kind | None) -> Kind:
    """A dict whose keys and values are of one kind each."""
    told = "a dict" + (f" of {plural(inner.told)}" if inner else "") + (f" by {key.told}" if key else "")

    def fits(value: Any) -> bool:
        if not isinstance(value, types):
            return False
        return (key is None or all(map(key.fits, value))) and (inner is None or all(map(inner.fits, value.values())))

    def parts(value: Any) -> Iterator[tuple[str, Any, Kind]]:
        if isinstance(value, Mapping):
            yield from ((f"'s key {k!r}", k, key) for k in value if key is not None)
            yield from ((f"[{k!r}]", v, inner) for k, v in value.items() if inner is not None)

    return Kind(fits, told, parts)


def plural(told: str) -> str:
    """A kind's words where there are several of it."""
    bare = told.removeprefix("a ").removeprefix("an ")
    return f"{bare}s" if bare.endswith("number") else bare


def limited(kind: Kind | None, said: list[Any]) -> Kind | None:
    """A kind, what is asked beyond it, and what it is called, where its annotation says so."""
    rules = [one for one in said if isinstance(one, Rule)]
    words = [one.words for one in said if isinstance(one, Told)]
    if words and kind is not None:
        return replace(kind, told=words[0], parts=None)
    if not rules:
        return kind
    told = " ".join(filter(None, (kind.told if kind else "", *(rule.told for rule in rules))))
    fit = kind.fits if kind else lambda _: True
    holds = tuple(rule.holds for rule in rules)
    return Kind(lambda v: fit(v) and all(hold(v) for hold in holds), told, kind.parts if kind else None)


# The seed of numpy's generators.
Seed = Annotated[int, Rule(lambda n: n >= 0, "of at least 0")]
# How many of something: at least one, and no more than anybody could mean.
Count = Annotated[int, Rule(lambda n: 1 <= n <= 10**7, "from 1 to ten million")]
