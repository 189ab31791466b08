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
    new = replaced_rows(old, values, base, heads)
    edited = x.clone()
    edited[items, places] = new
    return edited


def put_cells(x, cells, here, items, places, values, base, heads):
    """The same at the attention boundary: rows ``[head, key]`` of ``x [batch, head, row, key]``, by their query."""
    items = items.to(x.device)
    rows = torch.searchsorted(here["rows"].to(x.device), places.to(x.device))
    old = x[items, :, rows]
    edited = x.clone()
    new = replaced_rows(old, values, base, heads)
    # A softmax beside other rows adds up in another order: a weight that differs by no more (32 units of single
    # precision) is the one that is there, and stays.
    other = ~((new - old).abs() <= 2.0**-18 * old.abs())
    edited[items, :, rows] = torch.where(cells.expand_as(x)[items, :, rows] & other, new, old)
    return edited


def replaced_rows(old, values, base, heads):
    """``values`` in the place of ``old [row, …]``, but where it equals ``base`` or another head is meant."""
    new = values.to(old.device)
    chosen = torch.ones_like(new, dtype=torch.bool) if base is None else new != base.to(old.device)
    if heads is not None:
        chosen = chosen & heads.to(old.device)[:, :, None]
    return torch.where(chosen, new.to(old.dtype), old)


def sum_rows(held, here, name, mask):
    """Of the chosen rows of a point ``[batch, pos, …]``: their number, their sum, and the sum of their squares."""
    rows = held[name][mask.to(held[name].device)].double()
    return {"count": torch.tensor(len(rows)), "sum": rows.sum(0), "squares": (rows * rows).sum(0)}


def take_rows(held, here, name, mask):
    """The chosen rows of a point ``[batch, pos, …]``, those of all items end to end: ``[row, …]``."""
    return held[name][mask.to(held[name].device)]


def add_probe(x, here, name):
    """Add zeros that a gradient can be asked of: the gradient of the zeros is the gradient of this point.

    They are left, under ``name``, in the ``probes`` of what the passes of a session share.
    """
    probe = torch.zeros_like(x, requires_grad=True)
    here["memory"]["session"]["probes"][name] = probe
    return x + probe


def add_probe_rows(x, cells, here, name):
    """The same at the attention boundary, for the rows at hand: all of them."""
    return add_probe(x, here, name)
