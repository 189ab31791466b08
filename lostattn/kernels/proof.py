"""Edits of the self-test: those that change nothing, and one that must be seen."""

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
