"""One whole pass as it runs inside a trace, and what leaves it."""

from __future__ import annotations

import torch

from lostattn.kernels.walker import run_pass


def one_pass(root, tracer, program, logits, session):
    """Run a program and gather what was asked for: ``{"kept": {name: value}}``, and the logits where wanted.

    ``logits`` is a bool, or ``"last"`` for those of the last position alone.

    ``session`` is a dict that several passes share: what an earlier one left there, this one's kernels find in
    ``here["memory"]["session"]``.
    """
    found = {"kept": run_pass(root, tracer, program, {"session": session}, 0)}
    if logits:
        whole = root.output.logits
        found["logits"] = whole[:, -1:].clone() if logits == "last" else whole
    return found


def leaving(found):
    """The same values as they should travel: a view of a larger tensor by itself, and equal masks once.

    Saved as it is, one head's q would take the memory of the fused q, k and v along.
    """
    return packed(found, [])


def packed(value, masks):
    """``leaving`` of one value; ``masks`` holds those that were met before."""
    if isinstance(value, dict):
        return {key: shared(part, masks) if key == "mask" else packed(part, masks) for key, part in value.items()}
    if isinstance(value, torch.Tensor):
        value = value.detach()
        whole = value.untyped_storage().nbytes()
        return value.clone() if whole > value.numel() * value.element_size() else value
    return value


def shared(mask, masks):
    """Layers are given the same mask, but a sandboxed server hands each of them a copy of it."""
    if mask is None:
        return None
    for known in masks:
        if known.shape == mask.shape and known.dtype == mask.dtype and torch.equal(known, mask):
            return known
    masks.append(packed(mask, masks))
    return masks[-1]
