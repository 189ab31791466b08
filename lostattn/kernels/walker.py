"""The walker: runs a plan, event by event in forward order, inside one nnsight trace.

A program is a list of events, and an event is a dict of plain values::

    {"kind": "tensor",    "path": …, "port": "input" | "output", "actions": […], "once": bool}
    {"kind": "attention", "path": …, "operation": …, "inputs": […], "scores": […], "patterns": […], …}
    {"kind": "lengths",   "path": …}                      # how a tower cuts its sequence into windows
    {"kind": "skip",      "path": …}                      # a module that is left out
    {"kind": "windows",   "path": …, "operation": …, "out": …, …}

``once`` marks what exists at prefill only (the vision tower). An action is a dict with a ``verb``:
``tap`` keeps a value, ``by_head`` what each head makes of it, ``edit`` replaces it, ``edit_sum`` edits the stream at
the place where an update is added to it, ``edit_behind`` and ``add_behind`` at its next reader and at the layer's end
(behind a gate), ``hold`` remembers a value for a later ``reduce``, which keeps what a function makes of the held. Each
edit says at which ``steps`` of a generation it acts: ``(first, last + 1 or None)``.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import torch

from lostattn.kernels.attention import (
    add_difference,
    attention_scores,
    call_arguments,
    call_extras,
    edited_rows,
    mixed_values,
    of_blocks,
    sinks_of,
    visible_keys,
    wanted_rows,
)

if TYPE_CHECKING:  # names of types alone: what is sent to a server holds none of them
    from collections.abc import Sequence

    from lostattn.kernels.program import (
        Action,
        AttentionEvent,
        Boundary,
        BoundEdit,
        EditBehind,
        EditSum,
        EditValue,
        LengthsEvent,
        Program,
        SkipEvent,
        TensorEvent,
        WindowsEvent,
    )
from lostattn.kernels.touched import note_change


def acts_at(item: BoundEdit, step: int) -> bool:
    """Whether an edit, or whatever else carries ``steps``, acts at this step."""
    first, end = item["steps"]
    return first <= step and (end is None or step < end)


def output_tensor(value):
    """The tensor of a module's output, which may come in a tuple or a transformers ModelOutput."""
    if isinstance(value, torch.Tensor):
        return value
    return value[0]


def with_tensor(value, tensor):
    """The module's output with its tensor replaced, in the container that it came in."""
    if isinstance(value, torch.Tensor):
        return tensor
    if isinstance(value, dict):  # a transformers ModelOutput, whose readers go by name
        return type(value)(**{**value, next(iter(value)): tensor})
    return (tensor, *value[1:])


def view_of(value, view):
    """A hook point's own shape: ``("plain",)``, ``("heads", n)`` or ``("fused", part, n)`` of a tensor."""
    if view[0] == "heads":
        return value.unflatten(-1, (view[1], -1))
    if view[0] == "fused":
        return value.unflatten(-1, (3, view[2], -1))[..., view[1], :, :]
    return value


def seen_by(value, view, here):
    """The same for every view: ``("between", name)`` is what was added to the stream that is held under that name."""
    if view[0] == "between":
        return value - held_stream(view, value, here)
    return view_of(value, view)


def held_stream(view, value, here):
    """The stream before what was added between two layers."""
    return here["held"][view[1]].to(value.device)


def undo_view(value, view, edited):
    """The tensor whose view is ``edited``, in the model's layout and dtype."""
    edited = edited.to(value.dtype)
    if view[0] == "heads":
        return edited.flatten(-2)
    if view[0] == "fused":
        parts = value.unflatten(-1, (3, view[2], -1)).clone()
        parts[..., view[1], :, :] = edited
        return parts.flatten(-3)
    return edited


def by_head(module, z):
    """What each head writes, ``[..., head, d_model]``, of ``z [..., head, d_head]`` at the output map ``module``.

    The map itself is run, with one head at a time: its weights may be out of reach here, or packed.
    """
    heads = torch.arange(z.shape[-2], device=z.device)
    alone = z.new_zeros(*z.shape[:-2], len(heads) + 1, *z.shape[-2:])  # the last row has no head at all: the bias
    alone[..., heads, heads, :] = z
    written = module(alone.flatten(-2))
    return written[..., :-1, :] - written[..., -1:, :]


def perform(actions: Sequence[Action], value: Any, out: dict[str, Any], here: dict[str, Any]) -> Any:
    """Run the actions of one event on its tensor. Returns the tensor, the same object where nothing was edited."""
    for action in actions:
        if action["verb"] == "tap":
            out[action["name"]] = seen_by(value, action["view"], here)
        elif action["verb"] == "by_head":
            out[action["name"]] = by_head(here["module"], seen_by(value, action["view"], here))
        elif action["verb"] == "hold":
            here["held"][action["name"]] = seen_by(value, action["view"], here)
        elif action["verb"] == "reduce":
            out[action["name"]] = action["kernel"](here["held"], here, **action["params"])
        elif action["verb"] == "add_behind":
            if action["held"] in here["held"]:
                value = value + here["held"].pop(action["held"])
        elif acts_at(action, here["step"]):
            value = edited_value(action, value, here)
    return value


def edited_value(action: EditValue | EditBehind | EditSum, value: Any, here: dict[str, Any]) -> Any:
    """A value after one edit; the same object where the edit gave back what it was given."""
    if action["verb"] == "edit_behind":
        after = action["kernel"](value, here, **action["params"]).to(value.dtype)
        note_change(action, value, after, here)
        here["held"][action["held"]] = after - value + here["held"].get(action["held"], 0.0)
        return after
    if action["verb"] == "edit_sum":
        stream = here["held"][action["held"]] + value * action["factor"]
        after = action["kernel"](stream, here, **action["params"])
        note_change(action, stream, after, here)
        return value + (after - stream) / action["factor"]
    before = seen_by(value, action["view"], here)
    after = action["kernel"](before, here, **action["params"])
    note_change(action, before, after, here)
    if action["view"][0] == "between":
        # What is not edited stays to the last bit; what is, is added to the held stream as written.
        written = held_stream(action["view"], value, here) + after.to(value.dtype)
        return torch.where(after == before, value + (after - before).to(value.dtype), written)
    return value if after is before else undo_view(value, action["view"], after)


def visit_tensor(root: Any, event: TensorEvent, out: dict[str, Any], here: dict[str, Any]) -> None:
    """Read a module's input or output, act on it, and write it back where an edit replaced it."""
    envoy = root.get(event["path"])
    here["module"] = envoy
    if event["port"] == "input":
        value = envoy.input
        edited = perform(event["actions"], value, out, here)
        if edited is not value:
            envoy.input = edited
        return
    if event["needs_input"]:
        here["input"] = envoy.input
    raw = envoy.output
    value = output_tensor(raw)
    edited = perform(event["actions"], value, out, here)
    if edited is not value:
        envoy.output = with_tensor(raw, edited)


def active(edits: Sequence[BoundEdit], step: int) -> list[BoundEdit]:
    """The edits of a list that act at this step."""
    return [edit for edit in edits if acts_at(edit, step)]


def moved_heads(value):
    """``[batch, head, pos, d]`` <-> ``[batch, pos, head, d]``: between the kernel's layout and a hook point's."""
    return value.transpose(1, 2)


def boundary_call(operation: Any, event: Boundary, here: dict[str, Any]) -> tuple[Any, Any]:
    """One call of the attention interface: what it was given, and a way to give it another query and key.

    In a sandbox the interface's own arguments cannot be read: the first of them is the module with its weights. There
    the arguments of the kernel inside it are read, which are the same tensors with the keys' heads spread out.
    """
    if not here["weightless"]:
        arguments, keywords = operation.inputs
        return call_arguments(arguments, keywords), (operation, arguments, keywords)
    kernel = operation.source.torch_nn_functional_scaled_dot_product_attention_0
    arguments, keywords = kernel.inputs
    query, key, value = arguments[:3]
    if query.shape[1] != event["heads"]:  # the heads of one group in the place of positions, for a single query
        query = query.flatten(1, 2).unsqueeze(2)
    spread = key.shape[1] // event["kv_heads"]
    key, value = key[:, ::spread], value[:, ::spread]
    mask, causal = keywords.get("attn_mask"), "first" if keywords.get("is_causal") else False
    return (query, key, value, mask, float(keywords["scale"]), causal), (kernel, arguments, keywords)


def give_boundary(given, query, key, here):
    """Hand the kernel another query and key."""
    operation, arguments, keywords = given
    if not here["weightless"]:
        operation.inputs = ((arguments[0], query, key, *arguments[3:]), keywords)
        return
    spread = arguments[1].shape[1] // key.shape[1]
    query = query.reshape(arguments[0].shape)
    operation.inputs = ((query, key.repeat_interleave(spread, dim=1), *arguments[2:]), keywords)


def rows_once(edits: Sequence[BoundEdit], n_queries: int, device: Any, here: dict[str, Any]) -> Any:
    """``wanted_rows``, worked out once in a pass for all layers whose edits name the same queries."""
    key = (n_queries, device, *(id(edit["queries"]) for edit in edits))
    if key not in here["wanted"]:
        here["wanted"][key] = wanted_rows(edits, here["step"], n_queries, device)
    return here["wanted"][key]


def needed_rows(event, edits, n_queries: int, device, here):
    """The query rows whose pattern is needed: all that is kept, the first ones for a proof, or those of the edits."""
    if event["taps"]:
        return torch.arange(n_queries, device=device)
    if event["proof"]:
        return torch.arange(min(n_queries, event["proof"][1]), device=device)
    return rows_once(edits, n_queries, device, here) if edits else ()


def sight_once(mask, causal, rows, n_queries: int, n_keys: int, here):
    """What the row of a decoding step may see, and whether that is every key: once for all layers of one mask."""
    if n_queries > 1 or here["weightless"]:  # (a server hands each layer a mask of its own)
        return None
    key = (id(mask), causal, id(rows), n_keys)
    if key not in here["sights"]:
        visible = visible_keys(mask, causal, rows, n_queries, n_keys)
        here["sights"][key] = (visible, bool(visible.all()), mask, rows)
    return here["sights"][key][:2]


def spares_kernel(given, before, after, here):
    """Whether a decoding step need not run its kernel: nothing of what it makes would stay.

    That is so where the row of every item and head is another one than it was. A row that an edit leaves as it is
    keeps the kernel's own value, to the bit. Only a kernel that returns no weights beside its output can be left out.
    """
    if here["weightless"]:
        return False
    config = getattr(given[1][0], "config", None)
    return getattr(config, "_attn_implementation", None) == "sdpa" and bool((after != before).any(-1).all())


def whole_mask(mask, query, key):
    """A call's mask as a tensor; that of flex attention is a table of blocks."""
    if mask is None or isinstance(mask, torch.Tensor):
        return mask
    return of_blocks(mask, torch.arange(query.shape[2], device=query.device), key.shape[2])


def visit_attention(root: Any, event: AttentionEvent, out: dict[str, Any], here: dict[str, Any]) -> None:
    """At one call of the attention interface: taps of q and k, then edited rows added to the kernel's output."""
    operation = getattr(root.get(event["path"]).source, event["operation"])
    (query, key, value, mask, scaling, causal), given = boundary_call(operation, event, here)
    if event["inputs"]:
        new_query = moved_heads(perform(event["inputs"]["query"], moved_heads(query), out, here))
        new_key = moved_heads(perform(event["inputs"]["key"], moved_heads(key), out, here))
        if event["inputs"]["edits"]:
            query, key = new_query, new_key
            give_boundary(given, query, key, here)
    extras = None if here["weightless"] else call_extras(given[1], given[2])
    if event["geometry"] is not None:
        seen = whole_mask(mask, query, key)
        geometry = {"mask": seen, "causal": causal, "scaling": scaling, "lengths": None}
        more = {name: value for name, value in (extras or {}).items() if value is not None}
        out[event["geometry"]] = {**geometry, **more}
    score_edits = active(event["scores"], here["step"])
    pattern_edits = active(event["patterns"], here["step"])
    n_queries, proof = query.shape[2], event["proof"]
    rows = needed_rows(event, [*score_edits, *pattern_edits], n_queries, query.device, here)
    if len(rows) == 0:
        return
    sinks = sinks_of(extras, rows)
    sight = sight_once(mask, causal, rows, n_queries, key.shape[2], here)
    scores, visible = attention_scores(query, key, mask, causal, scaling, rows, None, extras, sight)
    everything = sight is not None and sight[1]
    scores, before, after = edited_rows(
        scores, visible, rows, score_edits, pattern_edits, n_queries, here, sinks, everything
    )
    keep(event["taps"], scores, after, out)
    if score_edits or pattern_edits:
        if n_queries == 1 and spares_kernel(given, before, after, here):
            operation.skip((mixed_values(after, value).to(query.dtype), None))
            return
        raw = operation.output
        edited = add_difference(raw[0], after - before, value, rows)
        if edited is not raw[0]:
            operation.output = (edited, *raw[1:])
    if proof:
        out[proof[0]] = recomputed(after, value, operation.output[0][:, rows], scores, sinks)


def recomputed(pattern, value, given, scores, sinks):
    """For the self-test: a pattern times the values, how far that is from what the kernel gave, and the rows' sums."""
    seen = (scores != float("-inf")).any(-1).all(1)  # [batch, row]: a row that sees nothing is padding
    mixed = mixed_values(pattern, value)
    given = given.float()
    gap = (mixed.float() - given)[seen].norm() / given[seen].norm().clamp_min(1e-30)
    total = (pattern.sum(-1) - 1.0).abs()
    rest = total.transpose(1, 2)[seen].max() if sinks is None else torch.zeros(())
    return {"gap": gap, "rows": rest, "mixed": mixed}


def keep(taps, scores, pattern, out):
    """Keep scores and patterns under their names."""
    for name, what in taps:
        out[name] = scores if what == "scores" else pattern


def visit_lengths(root: Any, event: LengthsEvent, here: dict[str, Any]) -> None:
    """Remember how a windowed attention module cuts its sequence: the lengths of its windows."""
    bounds = root.get(event["path"]).inputs[1]["cu_seqlens"]
    here["lengths"] = bounds[1:] - bounds[:-1]


def visit_windows(root: Any, tracer: Any, event: WindowsEvent, out: dict[str, Any], here: dict[str, Any]) -> None:
    """A tower that calls its attention once per window: collect the windows, then edit before the output map.

    The windows are laid end to end again, so a pattern is one ``[1, head, patch, patch]`` matrix whose windows
    do not see each other, and an edit may be written without knowing about them.
    """
    operation = getattr(root.get(event["path"]).source, event["operation"])
    parts = []
    for _ in tracer.iter[: len(here["lengths"])]:
        parts.append(boundary_call(operation, event, here)[0])
    query = torch.cat([part[0] for part in parts], dim=2)
    key = torch.cat([part[1] for part in parts], dim=2)
    value = torch.cat([part[2] for part in parts], dim=2)
    scaling = parts[0][4]
    perform(event["inputs"]["query"] if event["inputs"] else [], moved_heads(query), out, here)
    perform(event["inputs"]["key"] if event["inputs"] else [], moved_heads(key), out, here)
    if event["geometry"] is not None:
        out[event["geometry"]] = {
            "mask": None,
            "causal": False,
            "scaling": scaling,
            "lengths": here["lengths"],
        }
    edits = [*event["scores"], *event["patterns"]]
    if not (edits or event["taps"]):
        return
    rows = torch.arange(query.shape[2], device=query.device)
    scores, visible = attention_scores(query, key, None, False, scaling, rows, here["lengths"])
    scores, before, after = edited_rows(scores, visible, rows, event["scores"], event["patterns"], len(rows), here)
    keep(event["taps"], scores, after, out)
    if edits:
        envoy = root.get(event["out"])
        flat = envoy.input
        heads = flat.unflatten(-1, (query.shape[1], -1)).reshape(1, -1, query.shape[1], value.shape[-1]).clone()
        envoy.input = add_difference(heads, after - before, value, rows).reshape(flat.shape)


def visit_skip(root: Any, event: SkipEvent) -> None:
    """Leave a module out of the pass: what it adds to the stream is nothing."""
    envoy = root.get(event["path"])
    envoy.skip(torch.zeros_like(envoy.input))


def weightless(root):
    """Whether this runs in a server's sandbox, whose modules have no weights: the model is in another process."""
    if root._module is None:
        return True
    for module in root._module.modules():
        if "_hf_hook" in module.__dict__:
            return False  # weights that are kept elsewhere are brought for each call
    for parameter in root._module.parameters():
        return parameter.is_meta
    return False


def prepare(root: Any, program: Program) -> None:
    """Open the modules whose calls will be read while none of them has begun: a forward that runs stays closed."""
    for event in program:
        if event["kind"] == "attention" or event["kind"] == "windows":
            getattr(root.get(event["path"]).source, event["operation"])


def run_pass(root: Any, tracer: Any, program: Program, memory: dict[str, Any], step: int) -> dict[str, Any]:
    """One forward pass of a program: step 0 is the prefill. Returns what was kept, by name."""
    out = {}
    here = {"step": step, "held": {}, "memory": memory, "weightless": weightless(root), "wanted": {}, "sights": {}}
    if step == 0:
        prepare(root, program)
    for event in program:
        if step > 0 and event["once"]:
            continue
        if event["kind"] == "tensor":
            visit_tensor(root, event, out, here)
        elif event["kind"] == "attention":
            visit_attention(root, event, out, here)
        elif event["kind"] == "skip":
            visit_skip(root, event)
        elif event["kind"] == "lengths":
            visit_lengths(root, event, here)
        else:
            visit_windows(root, tracer, event, out, here)
    return out
