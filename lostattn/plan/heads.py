"""Heads of attention as a field of an intervention: the same in every layer, or for each layer its own."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

import numpy as np

from lostattn.errors import InputError
from lostattn.plan.checks import Layers, checked_layers

Heads = Layers | Mapping[int, Layers]
"""An int, several, None for all, or ``{layer: heads}``: those of each layer, and no other layer."""
Checked = tuple[int, ...] | dict[int, tuple[int, ...] | None] | None


def checked_heads(heads: Heads, layers: Layers = None) -> tuple[Checked, tuple[int, ...] | None]:
    """Heads and the layers that they are of. ``{layer: heads}`` names its layers itself.

    Raises:
        InputError: neither ints nor such a mapping; layers beside it that are others than its own.
    """
    own = checked_layers(layers)
    if not isinstance(heads, Mapping):
        return checked_layers(heads, "heads"), own
    if not heads or not all(isinstance(i, int | np.integer) and not isinstance(i, bool) for i in heads):
        raise InputError(f"heads is {heads!r}; expected {{layer: heads}}, such as {{1: [0], 3: [2, 5]}}.")
    chosen = {int(i): checked_layers(some, f"heads[{int(i)}]") for i, some in heads.items()}
    named = tuple(sorted(chosen))
    if own is not None and set(own) != set(named):
        raise InputError(
            f"layers is {list(own)}, and heads= names the layers {list(named)}; leave layers= out: a mapping says "
            "both, {layer: heads}, and None as its heads means all of a layer."
        )
    return {i: chosen[i] for i in named}, named


def heads_of(heads: Any, layer: int, n_layers: int) -> tuple[int, ...] | None:
    """The heads meant in one layer, of heads as :func:`checked_heads` gives them; None for all.

    Raises:
        InputError: heads by layer do not name this layer, or name it twice.
    """
    if not isinstance(heads, Mapping):
        return checked_layers(heads, "heads")
    own = [i for i in heads if -n_layers <= i < n_layers and i % n_layers == layer]
    if len(own) != 1:
        how = "twice, from the front and from the end" if own else "not at all"
        raise InputError(f"heads is {dict(heads)}, which names layer {layer} {how}; expected {{layer: heads}}, once.")
    return checked_layers(heads[own[0]], f"heads[{own[0]}]")


def check_layers_held(heads: Any, held: Iterable[int], n_layers: int) -> None:
    """Refuse heads of a layer where there is nothing to act on.

    Raises:
        InputError: heads by layer name one that is none of those held.
    """
    there = sorted(set(held))
    spare = [i for i in heads if i % n_layers not in there] if isinstance(heads, Mapping) else []
    if spare:
        raise InputError(f"heads= names layer {spare[0]}, and what is edited is of the layers {there}.")
