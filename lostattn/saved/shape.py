"""The shape of what was read, checked before anything is built of it.

A file may come from anybody, or from half a run. So no reader takes anything out of it before :func:`checked` has found
it there, and each way in which it can be something else ends in one error that names the file and the place in it.
"""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from typing import Any

from lostattn.errors import InputError

LONGEST_SHOWN = 80


@dataclass(frozen=True)
class Rule:
    """A shape that a function tells: ``holds(value)``, and how it is called in messages."""

    holds: Callable[[Any], bool]
    told: str


@dataclass(frozen=True)
class Either:
    """One of several shapes."""

    shapes: tuple[Any, ...]


@dataclass(frozen=True)
class MapOf:
    """A dict from texts to values of one shape."""

    shape: Any


@dataclass(frozen=True)
class Fixed:
    """A list of so many values, each of a shape of its own."""

    shapes: tuple[Any, ...]


def fixed(*shapes: Any) -> Fixed:
    """A list of as many values, of these shapes."""
    return Fixed(shapes)


def either(*shapes: Any) -> Either:
    """A value of one of these shapes."""
    return Either(shapes)


def whole(low: int, high: int) -> Rule:
    """A whole number from ``low`` to ``high``, both meant."""
    return Rule(lambda v: type(v) is int and low <= v <= high, f"a whole number from {low} to {high}")


def one_of(*values: Any) -> Rule:
    """One of these values."""
    return Rule(
        lambda v: any(type(v) is type(one) and v == one for one in values), f"one of {', '.join(map(repr, values))}"
    )


COUNT = whole(0, 1 << 53)
NUMBER = Rule(lambda v: _is_number(v), "a number")
ANYTHING = Rule(lambda _: True, "anything")


def checked(value: Any, shape: Any, where: str, what: str) -> Any:
    """A value that has been read, once it is found to have this shape.

    Args:
        value: of JSON: dicts, lists, texts, numbers, ``True``, ``False`` and ``None``.
        shape: a type (``str``, ``int``, ``float``, ``bool``, ``dict``, ``list``); ``None``; ``[shape]`` for a list of
            any length; ``{"key": shape, "optional?": shape}`` for a dict with these keys and perhaps others;
            :class:`MapOf`, :class:`Fixed`, :class:`Either`, :class:`Rule`.
        where: where it was read, for messages.
        what: what it ought to hold, for messages.

    Raises:
        InputError: it has another; the message says where, what stands there and what was expected.
    """
    wrong = _wrong(value, shape, "")
    if wrong is not None:
        raise InputError(f"{where} holds no {what}: {wrong}. Is it whole, and of this kind and version?")
    return value


def _wrong(value: Any, shape: Any, at: str) -> str | None:
    """What does not fit, or ``None``."""
    if isinstance(shape, Either):
        found = [_wrong(value, one, at) for one in shape.shapes]
        return None if None in found else f"{at or 'it'} is {shown(value)}; expected {told(shape)}"
    if isinstance(shape, MapOf):
        if not isinstance(value, Mapping):
            return f"{at or 'it'} is {shown(value)}; expected {told(shape)}"
        return _first(_wrong(part, shape.shape, f"{at}.{str(key)[:40]}".lstrip(".")) for key, part in value.items())
    if isinstance(shape, list | Fixed):
        inner = shape.shapes if isinstance(shape, Fixed) else shape * len(value) if isinstance(value, list) else ()
        if not isinstance(value, list) or len(inner) != len(value):
            return f"{at or 'it'} is {shown(value)}; expected {told(shape)}"
        return _first(_wrong(part, one, f"{at}[{i}]") for i, (part, one) in enumerate(zip(value, inner, strict=True)))
    if isinstance(shape, dict):
        return _wrong_dict(value, shape, at)
    fits = shape.holds(value) if isinstance(shape, Rule) else _is(value, shape)
    return None if fits else f"{at or 'it'} is {shown(value)}; expected {told(shape)}"


def _wrong_dict(value: Any, shape: dict[str, Any], at: str) -> str | None:
    if not isinstance(value, dict):
        return f"{at or 'it'} is {shown(value)}; expected {told(shape)}"
    for spelled, inner in shape.items():
        key = spelled.removesuffix("?")
        if key not in value:
            if spelled.endswith("?"):
                continue
            return f"{at + ' ' if at else ''}has no {key!r}; expected {told(shape)}"
        wrong = _wrong(value[key], inner, f"{at}.{key}".lstrip("."))
        if wrong is not None:
            return wrong
    return None


def _first(found: Iterable[str | None]) -> str | None:
    return next((one for one in found if one is not None), None)


def _is(value: Any, kind: Any) -> bool:
    if kind is None:
        return value is None
    return _is_number(value) if kind is float else type(value) is kind


def _is_number(value: Any) -> bool:
    """Whether it is a number that a float holds: neither NaN nor infinite, nor whole and larger."""
    return type(value) in (int, float) and -sys.float_info.max <= value <= sys.float_info.max


def told(shape: Any) -> str:
    """A shape in words."""
    if isinstance(shape, Rule):
        return shape.told
    if isinstance(shape, Either):
        return " or ".join(told(one) for one in shape.shapes)
    if isinstance(shape, MapOf):
        return f"a dict of {told(shape.shape)}"
    if isinstance(shape, Fixed):
        return f"a list of {len(shape.shapes)}: {', '.join(map(told, shape.shapes))}"
    if isinstance(shape, list):
        return f"a list of {told(shape[0])}"
    if isinstance(shape, dict):
        return f"a dict with {', '.join(one.removesuffix('?') for one in shape)}" if shape else "a dict"
    names = {str: "text", int: "a whole number", float: "a number", bool: "true or false", dict: "a dict"}
    return "null" if shape is None else names.get(shape, getattr(shape, "__name__", str(shape)))


def shown(value: Any) -> str:
    """A value in a message: short, and in one line whatever stands in it."""
    short = value[: 2 * LONGEST_SHOWN] if isinstance(value, str) else value
    plain = isinstance(value, str | float | bool | None) or (type(value) is int and value.bit_length() < 300)
    text = repr(short) if plain else f"a {type(value).__name__}"
    return text if len(text) <= LONGEST_SHOWN else f"{text[:LONGEST_SHOWN]}…"
