"""Turns by name: ``"turn:1"``, ``"user:0"``, ``"assistant:-1"``, ``"tool:0"``."""

from __future__ import annotations

import re
from collections.abc import Sequence

import torch
from jaxtyping import Bool, Int
from torch import Tensor

from lostattn.prompt.turns import ROLES

Roles = tuple[str, ...]
"""Whose words each turn of an item is, in order."""
KINDS = ("turn", *ROLES)
"""What the name of a turn begins with."""
EXAMPLES = tuple(f"{kind}:0" for kind in KINDS)
TURN_NAME = re.compile(rf"({'|'.join(KINDS)}):(-?\d+)")


def turn_mask(turn_index: Int[Tensor, "batch pos"], roles: Sequence[Roles], name: str) -> Bool[Tensor, "batch pos"]:
    """The positions of a turn, in each item that has it.

    Args:
        turn_index: which turn of its item each position belongs to; -1 where none.
        roles: of each item.
        name: of the turn; a negative number counts from the last one of its kind.
    """
    out = torch.zeros_like(turn_index, dtype=torch.bool)
    for i, own in enumerate(roles):
        place = _place(own, name)
        if place is not None:
            out[i] = turn_index[i] == place
    return out


def with_answer(roles: Roles) -> Roles:
    """The turns of an item of which something was generated: a turn of the model's is gone on with, or a new one."""
    return roles if roles[-1:] == ("assistant",) else (*roles, "assistant")


def goes_on(roles: Sequence[Roles], name: str) -> bool:
    """Whether what is generated belongs to the turn of this name, in every item."""
    return bool(roles) and all(_is_generated(own, name) for own in roles)


def said_turns(roles: Sequence[Roles]) -> str:
    """The turns of a batch, for a message."""
    return "; ".join(f"item {i}: {', '.join(own) or 'none'}" for i, own in enumerate(roles[:4])) or "none"


def _is_generated(own: Roles, name: str) -> bool:
    whole = with_answer(own)
    # A negative number counts the turns that the prompt holds, as it does where they are named.
    return _place(own if ":-" in name else whole, name) == len(whole) - 1


def _place(own: Roles, name: str) -> int | None:
    """Which turn of an item is meant; None where it has none of the kind, or not so many."""
    kind, _, number = name.partition(":")
    places = [k for k, role in enumerate(own) if kind in ("turn", role)]
    k = int(number)
    return places[k] if -len(places) <= k < len(places) else None
