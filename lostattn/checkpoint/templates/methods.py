"""The methods of texts, lists and dicts that a template may call, and how large what they make may be."""

from __future__ import annotations

import re
from collections.abc import Callable
from typing import Any

from jinja2.exceptions import SecurityError

from lostattn.checkpoint.templates.budget import Budget, TooMuch

WIDEST = 10_000  # characters that a text may be filled up to
FIXED = """strip lstrip rstrip startswith endswith upper lower title capitalize casefold swapcase find rfind index
rindex count removeprefix removesuffix partition rpartition isdigit isalpha isalnum isspace isupper islower isnumeric
isdecimal istitle isidentifier isascii isprintable split rsplit splitlines"""
KNOWN = {
    str: {*FIXED.split(), "replace", "join", "ljust", "rjust", "center", "zfill", "expandtabs"},
    list: {"index", "count", "copy"},
    tuple: {"index", "count"},
    dict: {"get", "items", "keys", "values", "copy"},
    int: {"bit_length"},
    float: {"is_integer"},
    bytes: {"decode"},
}


def check_method(budget: Budget, owner: Any, name: str, arguments: tuple[Any, ...], named: dict[str, Any]) -> Any:
    """The arguments for a method of a plain value, once what it makes is known to be of a size that can be.

    Raises:
        SecurityError: a method that templates have no need of.
        TooMuch: it would make more than a template may.
    """
    kind = next((kind for kind in (str, list, tuple, dict, bool, int, float, bytes) if isinstance(owner, kind)), None)
    if kind is None:
        return arguments
    if name not in KNOWN.get(kind, set()):
        raise SecurityError(f"calls .{name}() of a {kind.__name__}, which a chat template has no need of")
    for one in (*arguments, *named.values()):
        check_width(one)
    if kind is str:
        budget.allow(len(owner))
        if name in _MADE:
            return _MADE[name](budget, owner, arguments, named)
    else:
        budget.weigh(list(arguments))
    return arguments


def _join(budget: Budget, owner: str, arguments: tuple[Any, ...], _: dict[str, Any]) -> tuple[Any, ...]:
    if len(arguments) != 1:
        return arguments
    parts = list(arguments[0])
    budget.allow(len(owner) * len(parts) + sum(len(one) for one in parts if isinstance(one, str)))
    return (parts,)


def _replace(budget: Budget, owner: str, arguments: tuple[Any, ...], _: dict[str, Any]) -> tuple[Any, ...]:
    if len(arguments) >= 2 and all(isinstance(one, str) for one in arguments[:2]):
        budget.allow(replaced_length(owner, arguments[0], arguments[1]))
    return arguments


def _expanded(budget: Budget, owner: str, arguments: tuple[Any, ...], named: dict[str, Any]) -> tuple[Any, ...]:
    size = next(iter((*arguments, *named.values())), 8)
    if isinstance(size, int):
        budget.allow(len(owner) + owner.count("\t") * max(0, size))
    return arguments


_MADE: dict[str, Callable[..., tuple[Any, ...]]] = {"join": _join, "replace": _replace, "expandtabs": _expanded}


def replaced_length(text: str, old: str, new: str) -> int:
    """How long a text is with one word put in another's place, at the most."""
    n = text.count(old) if old else len(text) + 1
    return len(text) + n * max(0, len(new) - len(old))


def check_width(value: Any) -> None:
    """Refuse a number that may be meant as a width, or as digits, and is beyond any.

    Raises:
        TooMuch: it is.
    """
    if isinstance(value, int) and abs(value) > WIDEST:
        raise TooMuch(f"asks for more than {WIDEST} places")


def check_format(text: str, percent: bool) -> None:
    """Refuse a text for formatting that asks for widths beyond any, or for widths that it computes.

    Raises:
        TooMuch: it does.
    """
    wide = r"%[^a-zA-Z%]*(\*|\d{5,})" if percent else r"\{[^{}]*(\{|\d{5,})"
    if re.search(wide, text.replace("%%", "") if percent else text.replace("{{", "").replace("}}", "")):
        raise TooMuch("formats values in widths beyond any, or in widths that it computes")
