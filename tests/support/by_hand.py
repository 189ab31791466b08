"""Patches made by hand: with torch hooks on a bare Hugging Face model, and in an nnsight trace.

A setting is ``(point, layer, positions, head)``: positions a column of the sequence or the mask of a token group.
"""

from __future__ import annotations

from typing import Any

import torch
from reference import EAGER, logits_of, watched
from tiny import INPUTS, bare, wrapped
from torch import Tensor

# Where a point is in the Hugging Face model: the part of a block, which side of it, and its heads.
PLACES = {
    "resid_pre": ("path", "input", None),
    "resid_mid": ("attn.path", "output", None),
    "resid_post": ("path", "output", None),
    "mlp_out": ("mlp_out", "output", None),
    "attn_out": ("attn.path", "output", None),
    "z": ("attn.o", "input", "n_heads"),
    "q": ("attn.q", "output", "n_heads"),
    "k": ("attn.k", "output", "n_key_value_heads"),
    "v": ("attn.v", "output", "n_key_value_heads"),
    "pattern": ("attn.path", "call", "n_heads"),
}


def pair(family: str, same: bool = False):
    """A model, a clean and a corrupted prompt: equal texts, other pictures."""
    model = wrapped(family)
    clean = INPUTS[family](seed=0)
    corrupted = clean if same else {**clean, "pixel_values": INPUTS[family](seed=1)["pixel_values"]}
    return model, model.prompt(inputs=clean), model.prompt(inputs=corrupted)


def place(model: Any, point: str, layer: int) -> tuple[str, str]:
    """The path of a point's module, and which side of it."""
    owner = model.architecture.stack.blocks[layer]
    name, side, _ = PLACES[point]
    for part in name.split("."):
        owner = getattr(owner, part)
    return owner, side


def swapped(model: Any, value: Tensor, new: Tensor, where: Tensor, head: int | None) -> Tensor:
    """``value [batch, pos, d]`` with ``new``'s rows (or a head's part of them) put in at ``where [pos]``."""
    out = value.clone()
    columns = slice(None) if head is None else slice(head * model.cfg.d_head, (head + 1) * model.cfg.d_head)
    rows = out[:, where]
    rows[:, :, columns] = new[:, where][:, :, columns]
    out[:, where] = rows
    return out


def hooked(model: Any, hf: Any, point: str, layer: int, edit: Any, inputs: dict[str, Tensor]) -> Tensor:
    """The logits under a torch hook that edits one module's input or output."""
    path, side = place(model, point, layer)
    module = hf.get_submodule(path)

    def of_output(module, args, output):
        return (edit(output[0]), *output[1:]) if isinstance(output, tuple) else edit(output)

    def of_input(module, args, kwargs):
        if args:
            return (edit(args[0]), *args[1:]), kwargs
        return args, {**kwargs, "hidden_states": edit(kwargs["hidden_states"])}

    handle = (
        module.register_forward_hook(of_output)
        if side == "output"
        else module.register_forward_pre_hook(of_input, with_kwargs=True)
    )
    try:
        with torch.no_grad():
            return hf(**inputs, use_cache=False).logits
    finally:
        handle.remove()


def by_torch_hooks(family: str, point: str, layer: int, where: Tensor, head: int | None) -> Tensor:
    """The logits of the corrupted run with the clean value put in by torch hooks."""
    model, clean, corrupted = pair(family)
    if point == "pattern":
        return _pattern_by_hooks(family, layer, where, head)
    hf, seen = bare(family), []
    # The stream between the two updates is no module's output: it is set through what attention adds.
    streams: list[Tensor] = []
    path, _ = place(model, "resid_pre", layer)

    def note(module, args, kwargs):
        streams.append((args[0] if args else kwargs["hidden_states"]).clone())

    handle = hf.get_submodule(path).register_forward_pre_hook(note, with_kwargs=True)
    mid = point == "resid_mid"

    def look(value):
        seen.append(value + streams[-1] if mid else value.clone())
        return value

    def put(value):
        new = seen[0] - streams[-1] if mid else seen[0]
        return swapped(model, value, new, where, head)

    try:
        hooked(model, hf, point, layer, look, clean.inputs)
        return hooked(model, hf, point, layer, put, corrupted.inputs)
    finally:
        handle.remove()


def _pattern_by_hooks(family: str, layer: int, where: Tensor, head: int | None) -> Tensor:
    """Through an attention function that is written out in :mod:`reference`."""
    model, clean, corrupted = pair(family)
    hf = bare(family, EAGER)
    path, _ = place(model, "pattern", layer)
    with watched(hf) as seen:
        hf(**clean.inputs, use_cache=False)
        new = seen.calls[path][0]["pattern"].clone()

    def edit(pattern, call):
        pattern[:, head, where] = new[:, head, where]
        return pattern

    return logits_of(hf, corrupted.inputs, {path: (None, edit)})


def by_nnsight(model: Any, clean: Any, corrupted: Any, point: str, layer: int, where: Tensor, head: Any) -> Tensor:
    """The same in nnsight traces."""
    import nnsight  # not at the top: beartype cannot be imported for the first time after it

    if point == "pattern":
        return _pattern_by_nnsight(model, clean, corrupted, layer, where, head)
    path, side = place(model, point, layer)
    block = model.nn.get(place(model, "resid_pre", layer)[0])
    envoy, mid = model.nn.get(path), point == "resid_mid"
    with torch.no_grad(), model.trace(clean, use_cache=False):
        before = block.input
        value = envoy.input if side == "input" else envoy.output
        value = value if isinstance(value, torch.Tensor) else value[0]
        seen = nnsight.save(value + before if mid else value)
    with torch.no_grad(), model.trace(corrupted, use_cache=False):
        before = block.input
        new = seen - before if mid else seen
        if side == "input":
            envoy.input = swapped(model, envoy.input, new, where, head)
        else:
            raw = envoy.output
            whole = isinstance(raw, torch.Tensor)
            edited = swapped(model, raw if whole else raw[0], new, where, head)
            envoy.output = edited if whole else (edited, *raw[1:])
        logits = nnsight.save(model.nn.output.logits)
    return logits


def _pattern_by_nnsight(model: Any, clean: Any, corrupted: Any, layer: int, where: Tensor, head: int) -> Tensor:
    """Clean weights, written out, times the corrupted values, in the place of the head's rows."""
    import nnsight

    path, _ = place(model, "pattern", layer)
    operation = getattr(model.nn.get(path).source, model.operations[path])
    group = model.cfg.n_heads // model.cfg.n_key_value_heads
    with torch.no_grad(), model.trace(clean, use_cache=False):
        arguments, keywords = operation.inputs
        query, key = arguments[1][:, head], arguments[2][:, head // group]
        scores = query @ key.transpose(-1, -2) * keywords["scaling"]
        later = torch.ones(scores.shape[1:], dtype=torch.bool).triu(1)
        pattern = nnsight.save(scores.masked_fill(later, float("-inf")).softmax(-1))
    with torch.no_grad(), model.trace(corrupted, use_cache=False):
        arguments, keywords = operation.inputs
        mixed = pattern @ arguments[3][:, head // group]
        raw = operation.output
        edited = raw[0].clone()
        edited[:, where, head] = mixed[:, where]
        operation.output = (edited, *raw[1:])
        logits = nnsight.save(model.nn.output.logits)
    return logits
