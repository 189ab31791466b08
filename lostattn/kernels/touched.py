"""What an edit changed, counted where it is made: a comparison and a sum, brought off the device at the end alone."""

from __future__ import annotations

import torch


def note_change(edit, before, after, here, square=False):
    """Count what an edit changed, by the first axis of the value (the items of the batch, in the decoder).

    Of scores and patterns (``square``) each weight counts, elsewhere each row. An edit that has no number, or gave back
    what it was given, leaves nothing.

    Truth values are counted as torch does it fast: whole items at once, and rows by their largest byte.
    """
    number = edit.get("number")
    if number is None or after is before:
        return
    changed = after != before
    if square:
        counts = torch.stack([torch.count_nonzero(item) for item in changed])
    else:
        rows = changed.view(torch.uint8).amax(-1)
        counts = rows.reshape(rows.shape[0], -1).sum(-1)
    noted = here["memory"].setdefault("touched", {"number": [], "step": [], "counts": []})
    noted["number"].append(number)
    noted["step"].append(here["step"])
    noted["counts"].append(counts.detach())


def noted_in(memory):
    """What was counted in the passes of a memory, ready to leave them; nothing where nothing was changed."""
    noted = memory.get("touched")
    if noted is None:
        return {}
    numbers = {name: torch.tensor(noted[name]) for name in ("number", "step")}
    return {"touched": {**numbers, "counts": [counts.cpu() for counts in noted["counts"]]}}
