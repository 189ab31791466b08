"""Some of a set: whole groups, balanced as the set is, by seed."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from lostattn.errors import InputError


def draw(groups: Sequence[str], kinds: Sequence[str], n: int, seed: int) -> list[int]:
    """Which questions to take, in their own order.

    Every kind has its share of n, and groups are whole: where their sizes do not add up to n, fewer are drawn, never
    more.

    Args:
        groups: of each question, the group with which it is drawn.
        kinds: of each question, its kind; that of a group is that of its first question.
        n: how many questions.
        seed: the same seed draws the same questions.

    Raises:
        InputError: more than there are, or fewer than the smallest group has.
    """
    if n > len(groups):
        raise InputError(f"there are {len(groups)} such questions; {n} were asked for.")
    members: dict[str, list[int]] = {}
    for i, group in enumerate(groups):
        members.setdefault(group, []).append(i)
    if (least := min(map(len, members.values()))) > n:
        raise InputError(f"{n} questions were asked for, and {least} are drawn together; ask for at least {least}.")
    rng = np.random.default_rng(seed)
    strata: dict[str, list[list[int]]] = {}
    for own in members.values():
        strata.setdefault(kinds[own[0]], []).append(own)
    left: list[list[int]] = []
    taken: list[int] = []
    for kind, share in _shares({kind: sum(map(len, own)) for kind, own in strata.items()}, n).items():
        order = [strata[kind][k] for k in rng.permutation(len(strata[kind]))]
        chosen, rest = _fitting(order, share)
        taken += chosen
        left += rest
    more, _ = _fitting([left[k] for k in rng.permutation(len(left))], n - len(taken))
    return sorted(taken + more)


def _shares(sizes: dict[str, int], n: int) -> dict[str, int]:
    """n cut into parts as the sizes are, by largest remainder."""
    whole = sum(sizes.values())
    shares = {kind: n * size // whole for kind, size in sizes.items()}
    by_remainder = sorted(sizes, key=lambda kind: (-(n * sizes[kind] % whole), kind))
    for kind in by_remainder[: n - sum(shares.values())]:
        shares[kind] += 1
    return shares


def _fitting(order: list[list[int]], room: int) -> tuple[list[int], list[list[int]]]:
    """The groups that fit into what room is left, one after the other, and the others."""
    chosen: list[int] = []
    rest = []
    for group in order:
        if len(chosen) + len(group) <= room:
            chosen += group
        else:
            rest.append(group)
    return chosen, rest
