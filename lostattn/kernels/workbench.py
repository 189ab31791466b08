"""Kernels of the workbench: values put in from elsewhere, and what the projector reads."""

from __future__ import annotations

import torch


def put_last_rows(x, here, name):
    """The last rows of an earlier point in the place of this one: a stream without the CLS token."""
    held = here["held"][name]
    return held[..., held.shape[-2] - x.shape[-2] :, :].to(x.dtype)


def put_values(x, here, values, base, chosen):
    """``values [batch, pos, …]`` where ``chosen`` (broadcastable to it), ``x`` elsewhere.

    Where ``values`` equals ``base`` (what this point is known to be without the edit), ``x`` stays to the last bit.
    """
    chosen = chosen.to(x.device)
    values = values.to(x.device)
    if base is not None:
        chosen = chosen & (values != base.to(x.device))
    return torch.where(chosen, values.to(x.dtype), x)


def put_cells(x, cells, here, values, base, chosen):
    """The same at the attention boundary: ``values [batch, head, query, key]``, its rows being those at hand."""
    rows = here["rows"].cpu()
    new = values[:, :, rows].to(x.device)
    here_too = cells & chosen.to(x.device)
    if base is not None:
        here_too = here_too & (new != base[:, :, rows].to(x.device))
    return torch.where(here_too, new.to(x.dtype), x)
