"""Parts of an intervention that cannot act in the passes they are meant for, refused before anything runs."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from lostattn.errors import InputError
from lostattn.kernels.program import Positions
from lostattn.plan.program import Edit

SINGLE = 0  # passes of no generation: one alone


def check_acts(label: str, edits: Sequence[Edit], steps: int) -> None:
    """Refuse a part of an intervention none of whose edits can act.

    Args:
        label: what it is called.
        edits: what it means here.
        steps: how many passes a generation makes at the most, or :data:`SINGLE`.

    Raises:
        InputError: it acts at steps that do not come, or its positions are none at the steps that do.
    """
    acting = [edit for edit in edits if not edit.watches]
    n = max(steps, 1)
    spans = [edit for edit in acting if edit.steps[0] < n]
    if acting and not spans:
        first = min(edit.steps[0] for edit in acting)
        if steps == SINGLE:
            raise InputError(
                f"{label} would change nothing: these interventions act at decoding steps alone, and a single pass has "
                "none: use model.generate, or steps='all'."
            )
        raise InputError(
            f"{label} would change nothing: it acts from step {first} on, and a generation of {n} new tokens has the "
            f"steps 0 to {n - 1}. Ask for more than {first} new tokens, or let it begin earlier: steps='all'."
        )
    if acting and not any(_can_act(edit, n) for edit in spans):
        added = "and a single pass adds none" if steps == SINGLE else "and at the steps it acts at none is added"
        raise InputError(
            f"{label} would change nothing: what it names as positions, queries or keys is nowhere in this prompt "
            f"together, {added}. Choose positions that are there, such as 'last', 'text' or 'image', or other steps."
        )


def _can_act(edit: Edit, n: int) -> bool:
    """Whether any cell is chosen at any of its steps."""
    first, end = edit.steps
    last = n if end is None else min(end, n)
    rows = [choice for choice in (edit.queries, edit.params.get("positions")) if _is_choice(choice)]
    if first == 0:
        masks = [mask for mask in (*map(_by_item, rows), _by_item(edit.keys)) if mask is not None]
        if not masks or bool(torch.stack(masks).all(0).any()):
            return True
    if max(first, 1) >= last or not all(choice is None or choice[1] for choice in rows):
        return False
    keys = _by_item(edit.keys)
    return edit.keys is None or bool(edit.keys[1]) or keys is None or bool(keys.any())


def _is_choice(value: object) -> bool:
    return isinstance(value, tuple) and len(value) in (2, 3) and isinstance(value[0], Tensor)


def _by_item(choice: Positions | None) -> Tensor | None:
    """In which items a choice names anything of the prompt."""
    if choice is None:
        return None
    found = choice[0].any(-1).cpu()
    return found | choice[2].any(-1).cpu() if len(choice) == 3 else found
