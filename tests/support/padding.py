"""Padded inputs laid out anew: each item's real columns at a place of its own."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor


def laid(inputs: Mapping[str, Any], starts: Sequence[int], width: int, fill: int | None = None) -> dict[str, Tensor]:
    """A left-padded batch with item ``i``'s real columns from ``starts[i]`` on, in ``width`` columns.

    Padding is what the batch is padded with (``fill`` where it is given: a token that the mask alone tells from a real
    one).
    """
    ids, mask = inputs["input_ids"], inputs["attention_mask"]
    out = dict(inputs)
    for name, value in inputs.items():
        if value.shape[:2] != ids.shape:
            continue
        padding = fill if name == "input_ids" and fill is not None else 0
        moved = torch.full((len(ids), width, *value.shape[2:]), padding, dtype=value.dtype)
        for i, (row, real, start) in enumerate(zip(value, mask.bool(), starts, strict=True)):
            moved[i, start : start + int(real.sum())] = row[real]
        out[name] = moved
    return out


def right(inputs: Mapping[str, Any], fill: int | None = None) -> dict[str, Tensor]:
    """The same batch padded on the right."""
    n, width = inputs["input_ids"].shape
    return laid(inputs, [0] * n, width, fill)


def both_sides(inputs: Mapping[str, Any], more: int = 3) -> dict[str, Tensor]:
    """Every item padded before and behind, each by another number of columns, all of them by some."""
    n, width = inputs["input_ids"].shape
    lengths = inputs["attention_mask"].sum(-1).tolist()
    starts = [1 + i % (width + more - 1 - length) for i, length in zip(range(n), lengths, strict=True)]
    return laid(inputs, starts, width + more)
