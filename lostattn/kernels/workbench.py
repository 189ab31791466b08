"""Kernels of the workbench: values put in from another pass, and what the projector reads."""

from __future__ import annotations

import torch


def put_last_rows(x, here, name):
    """The last rows of an earlier point in the place of this one: a stream without the CLS token."""
    held = here["held"][name]
    return held[..., held.shape[-2] - x.shape[-2] :, :].to(x.dtype)


def put_rows(x, here, items, places, values, base, heads):
    """Rows of ``x [batch, pos, …]`` replaced: row ``i`` of ``values [row, …]`` goes to ``items[i]``, ``places[i]``.

    ``heads [row, head]`` says which heads of a row are meant (None: all). Where ``values`` equals ``base`` (what the
    row is known to hold without the edit), it stays to the last bit.
    """
    items, places = items.to(x.device), places.to(x.device)
    old = x[items, places]
    new = replaced(old, values, base, heads)
    edited = x.clone()
    edited[items, places] = new
    return edited


def put_cells(x, cells, here, items, places, values, base, heads):
    """The same at the attention boundary: rows ``[head, key]`` of ``x [batch, head, row, key]``, by their query."""
    items = items.to(x.device)
    rows = torch.searchsorted(here["rows"].to(x.device), places.to(x.device))
    old = x[items, :, rows]
    edited = x.clone()
    edited[items, :, rows] = replaced(old, values, base, heads)
    return edited


def replaced(old, values, base, heads):
    """``values`` in the place of ``old [row, …]``, but where it equals ``base`` or another head is meant."""
    new = values.to(old.device)
    chosen = torch.ones_like(new, dtype=torch.bool) if base is None else new != base.to(old.device)
    if heads is not None:
        chosen = chosen & heads.to(old.device)[:, :, None]
    return torch.where(chosen, new.to(old.dtype), old)


def add_vector_at(x, here, vector, scale, positions, heads):
    """Steering: ``scale * vector`` added at some positions (and heads) of ``x [batch, pos, …]``."""
    mask, extends = positions
    n_keys = mask.shape[1] + here["step"]
    if n_keys > mask.shape[1]:
        more = torch.full((mask.shape[0], n_keys - mask.shape[1]), extends, dtype=torch.bool, device=mask.device)
        mask = torch.cat([mask, more], dim=1)
    chosen = mask[:, n_keys - x.shape[1] :].to(x.device)
    chosen = chosen.reshape(*chosen.shape, *([1] * (x.dim() - 2)))
    if heads is not None:
        own = torch.zeros(x.shape[2], dtype=torch.bool, device=x.device)
        own[list(heads)] = True
        chosen = chosen & own[:, None]
    return torch.where(chosen, x + scale * vector.to(x), x)
