"""One whole pass as it runs inside a trace, and what leaves it."""

from __future__ import annotations

import torch

from lostattn.kernels.point_names import is_square
from lostattn.kernels.touched import noted_in
from lostattn.kernels.walker import run_pass, weightless


def one_pass(root, tracer, program, logits, session, slope=None):
    """Run a program and gather what was asked for: ``{"kept": {name: value}}``, and the logits where wanted.

    ``logits`` is a bool, or ``"last"`` for those of the last column alone, or the one column ``[batch]`` of each item.

    ``session`` is a dict that several passes share: what an earlier one left there, this one's kernels find in
    ``here["memory"]["session"]``. ``slope`` is a number's gradient at the logits; it is followed back to the probes
    that the program's edits left in ``session``, under ``"slopes"``.
    """
    if slope is not None and weightless(root):
        raise RuntimeError(
            "no gradients in a sandbox: a request that the service does not trust runs in a process of its own, "
            "and the model in another. Ask for a trusted key, or take gradients where the weights are: remote=False."
        )
    memory = {"session": session}
    found = {"kept": run_pass(root, tracer, program, memory, 0), **noted_in(memory)}
    if logits is not False:
        whole = root.output.logits
        found["logits"] = chosen_columns(whole, logits)
    if slope is not None:
        found["slopes"] = slopes_of(root.output.logits, session["probes"], slope)
    return found


def chosen_columns(logits, columns):
    """Logits ``[batch, pos, d_vocab]`` whole (True), or one column of each item: ``[batch, 1, d_vocab]``."""
    if columns is True:
        return logits
    if isinstance(columns, str):
        return logits[:, -1:].clone()
    items = torch.arange(len(logits), device=logits.device)
    return logits[items, columns.to(logits.device)][:, None]


def slopes_of(logits, probes, slope):
    """The gradient of a number at each probe, from its gradient at the logits (a vector-Jacobian product)."""
    made = torch.autograd.grad(
        logits, list(probes.values()), slope.to(logits), allow_unused=True, materialize_grads=True
    )
    return dict(zip(probes, made, strict=True))


def one_step(root, tracer, program, memory, step: int):
    """One step of a generation; what it kept is added to ``memory["steps"]``.

    A decoding step is handed the keys of all positions before it, which other steps have kept already: its own alone
    stays, and how many there were. Room for tokens to come, in a cache of fixed length, is cut off.
    """
    kept = run_pass(root, tracer, program, memory, step)
    reach = memory["n_prompt"] + step
    for name in list(kept):
        if name.startswith("vision"):
            continue
        if is_square(name):
            kept[name] = kept[name][..., :reach]
        if name.endswith("attn.hook_rot_k"):
            boundary, keys = name[: -len("hook_rot_k")], kept[name]
            n_keys = min(keys.shape[1], reach)
            kept[name] = keys[:, n_keys - 1 : n_keys].clone() if step > 0 else keys[:, :n_keys]
            if boundary + "geometry" in kept:
                n_rows = kept[boundary + "hook_rot_q"].shape[1]
                kept[boundary + "geometry"].update(n_rows=n_rows, n_keys=n_keys)
    if kept:
        memory["steps"].append(kept)


def generated(result):
    """What a generation gave, as plain tensors: the sequences, and where asked for what each step chose by.

    ``scores`` and ``logits`` are ``[sequence, step, d_vocab]``: of the last row of each step, after and before what is
    made of it.
    """
    if isinstance(result, torch.Tensor):
        return {"sequences": result}
    found = {"sequences": result["sequences"]}
    for name in ("scores", "logits"):
        steps = result.get(name)
        if steps is not None and len(steps[0]) == len(found["sequences"]):  # of beams, rows are no sequences
            found[name] = torch.stack(list(steps), 1)
    return found


def compact_result(found):
    """The same values as they should travel: a view of a larger tensor by itself, and equal masks once.

    Saved as it is, one head's q would take the memory of the fused q, k and v along.
    """
    return compact_value(found, [])


def compact_value(value, masks):
    """``compact_result`` of one value; ``masks`` holds those that were met before."""
    if isinstance(value, dict):
        return {
            key: shared_mask(part, masks) if key == "mask" else compact_value(part, masks)
            for key, part in value.items()
        }
    if isinstance(value, list):
        return [compact_value(part, masks) for part in value]
    if isinstance(value, torch.Tensor):
        value = value.detach()
        whole = value.untyped_storage().nbytes()
        return value.clone() if whole > value.numel() * value.element_size() else value
    return value


def shared_mask(mask, masks):
    """Layers are given the same mask, but a sandboxed server hands each of them a copy of it."""
    if mask is None:
        return None
    for known in masks:
        if known.shape == mask.shape and known.dtype == mask.dtype and torch.equal(known, mask):
            return known
    masks.append(compact_value(mask, masks))
    return masks[-1]
