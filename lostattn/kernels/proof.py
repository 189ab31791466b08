"""Edits of the self-test: those that change nothing, those that must be seen, and one that undoes them."""

from __future__ import annotations

from typing import Any


def unchanged_value(x: Any, here: Any) -> Any:
    """The identity edit of a tensor; a copy, so that the write itself is put to the test."""
    return x.clone()


def unchanged_rows(x: Any, cells: Any, here: Any) -> Any:
    """The identity edit at the attention boundary."""
    return x


def rotated_rows(x: Any, cells: Any, here: Any) -> Any:
    """Weights moved one key on: a perturbation that keeps every row's sum."""
    return x.roll(1, dims=-1)


def turned_update(x: Any, here: Any, into: Any, name: str) -> Any:
    """An update that no layer can mistake for its own, 1 - x; what it was is left ``into`` a dict, under a name."""
    into[name] = x.detach().clone()
    return 1 - x


def put_back(x: Any, here: Any, known: Any) -> Any:
    """What stands here in the untouched pass: what was changed before is undone."""
    return known.to(x)
