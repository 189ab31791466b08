"""The plan: everything that one call wants from a forward pass, written down before the pass runs.

Edits, taps and reductions are put into the slots of the model in forward order; at each point the edits come
first, in the order given, then the taps. The result is a *program* of plain dicts that
:mod:`lostattn.kernels.walker` executes inside one nnsight trace, here or on a remote server.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from lostattn.points.sites import Sites, Slot, of_mid, served

_PATTERN = ("attn.hook_pattern", "attn.hook_attn_scores")

# A mask [batch, prompt], and whether generated tokens belong to it; None with a mask over cross-attention's own keys.
# Of keys, a third may be a mask over an encoder's that stand behind the positions.
Positions = tuple[Any, bool | None] | tuple[Any, bool | None, Any]


@dataclass(frozen=True)
class Edit:
    """One compiled edit: a kernel, what it needs, and where and when it acts.

    ``kernel(value, here, **params)`` edits a tensor; at the attention boundary it is
    ``kernel(rows, cells, here, **params)`` on ``[batch, head, row, key]`` with the cells that it may touch.
    ``None`` for queries, keys or heads means all of them.
    """

    name: str
    kernel: Callable[..., Any]
    params: Mapping[str, Any] = field(default_factory=dict)
    steps: tuple[int, int | None] = (0, None)
    queries: Positions | None = None
    keys: Positions | None = None
    heads: tuple[int, ...] | None = None
    reads_input: bool = False
    needs: tuple[str, ...] = ()  # earlier points whose values the kernel finds in ``here["held"]``


@dataclass(frozen=True)
class Reduction:
    """Numbers made inside the pass: ``kernel(held, here, **params)`` over the values of the points ``needs``.

    The values stand in ``held`` under their canonical names.
    """

    name: str
    needs: tuple[str, ...]
    kernel: Callable[..., Any]
    params: Mapping[str, Any] = field(default_factory=dict)


Program = list[dict[str, Any]]


def write(
    sites: Sites,
    operations: Mapping[str, str],
    taps: Iterable[str] = (),
    edits: Sequence[Edit] = (),
    reductions: Sequence[Reduction] = (),
    generates: bool = False,
    by_head: Iterable[str] = (),
    caches: bool = True,
) -> Program:
    """Write the program of one pass, or of every pass of a generation.

    Args:
        sites: the model's hook points.
        operations: nnsight's name of the attention operation, by attention module path.
        taps: canonical names to keep. A derived point keeps what it is derived from, except where it is edited:
            then the pass itself must show it.
        edits: compiled edits, in the order in which they were given.
        reductions: what to reduce to numbers inside the pass.
        generates: the passes are those of a generation, each of which reads the keys of those before it: edited keys
            need not be the same ones at every step, so there too the pass itself must show the pattern.
        by_head: per-head results among the taps to make inside the pass, by the output map itself; the others are
            made of z and the map's weights when they are looked at.
        caches: a generation keeps keys and values; without that, those of cross-attention are made anew at each step.
    """
    results = {sites.derived[name].needs[0]: name for name in by_head}  # by the z that they are made of
    asked = set(taps) - set(results.values())
    telling = (*_PATTERN, "attn.hook_rot_k") if generates else _PATTERN
    edited_boundaries = {_boundary(e.name) for e in edits if e.name.endswith(telling)}
    direct = {name for name in asked if _of_pattern(name) and _boundary(name) in edited_boundaries}
    kept = {name for name in asked if name in sites.at}
    geometries = set()
    for name in asked - kept - direct:
        kept.update(sites.derived[name].needs)
        if sites.derived[name].kind in ("attn_scores", "pattern"):
            geometries.add(_boundary(name))
    program: Program = []
    held = {need for reduction in reductions for need in reduction.needs}
    held |= {need for edit in edits for need in edit.needs}
    last_need = {r.name: max(sites.at[need] for need in r.needs) for r in reductions}
    edited = {e.name for e in edits}
    held |= {slot.added_to for slot in sites.slots if slot.stream in edited}
    before = _before(sites, kept | held | {e.name for e in edits})
    behind = {f"{slot.behind}.hook_resid_post": f"{slot.behind} behind" for slot in sites.slots if slot.behind
              and any(e.name == f"{slot.behind}.hook_resid_mid" for e in edits)}  # fmt: skip
    for index, slot in enumerate(sites.slots):
        due = [r for r in reductions if last_need[r.name] == index]
        if slot.kind == "tensor":
            actions = _tensor_actions(slot, kept, edits, held, before, behind, due, results)
            if actions:
                needs_input = any(action.get("reads_input") for action in actions)
                program.append(
                    {
                        "kind": "tensor",
                        "path": slot.served,
                        "port": slot.port,
                        "actions": actions,
                        "needs_input": needs_input,
                        "once": slot.once and (caches or not slot.elsewhere),
                        "elsewhere": slot.elsewhere,
                    }
                )
        elif slot.kind in ("attention", "windows"):
            event = _attention_event(slot, operations[slot.path], kept, direct, edits, geometries)
            if event is not None:
                program.append({**event, **_heads(sites, slot)})
    return _with_lengths(program)


def last_step(program: Program, edits: Sequence[Edit]) -> int | None:
    """The step of a generation from which on a program has nothing to do; None where it goes on to the end."""
    if all(event["once"] for event in program):
        return 1
    acting = [edit.steps[1] for edit in edits]
    kept = any(_keeps(event) for event in program if not event["once"])
    return None if kept or None in acting else max((end for end in acting if end is not None), default=1)


def _keeps(event: dict[str, Any]) -> bool:
    """Whether an event leaves something of its pass behind."""
    actions = event.get("actions", [])
    if event["kind"] == "attention":
        inputs = event["inputs"] or {"query": [], "key": []}
        actions = [*inputs["query"], *inputs["key"]]
        if event["taps"] or event["geometry"]:
            return True
    return any(action["verb"] == "tap" for action in actions)


def _tensor_actions(
    slot: Slot,
    kept: set[str],
    edits: Sequence[Edit],
    held: set[str],
    before: Mapping[str, str],
    behind: Mapping[str, str],
    due: Sequence[Reduction],
    results: Mapping[str, str],
) -> list[dict[str, Any]]:
    actions: list[dict[str, Any]] = []
    for name, view in slot.views.items():
        if view[0] == "between":
            view = ("between", before.get(str(view[1]), ""))
        if slot.behind:
            late = {"verb": "edit_behind", "held": f"{slot.behind} behind"}
            actions += [{**late, **_edit(e)} for e in edits if e.name == name]
        if name in behind:
            actions.append({"verb": "add_behind", "held": behind[name]})
        here = [e for e in edits if e.name == name and (slot.port == "output" or not of_mid(name))]
        actions += [{"verb": "edit", "view": view, **_edit(e)} for e in here]
        if name in kept:
            actions.append({"verb": "tap", "name": name, "view": view})
        if name in results:
            actions.append({"verb": "by_head", "name": results[name], "view": view})
        if name in held:
            actions.append({"verb": "hold", "name": name, "view": view})
        if name in before:
            actions.append({"verb": "hold", "name": before[name], "view": view})
    if slot.stream:
        # The stream after attention exists in no module's output: it is edited where its second summand is.
        added = {"verb": "edit_sum", "held": slot.added_to, "factor": slot.factor}
        actions += [{**added, **_edit(e)} for e in edits if e.name == slot.stream]
    actions += [{"verb": "reduce", "name": r.name, "kernel": r.kernel, "params": dict(r.params)} for r in due]
    return actions


def _before(sites: Sites, names: set[str]) -> dict[str, str]:
    """The streams that must be held for what is added after them to be seen, and under which names.

    They have names of their own: a reduction may let go of the stream itself on the way.
    """
    slots = (sites.slots[sites.at[name]].views[name] for name in names if name in sites.at)
    return {str(view[1]): f"{view[1]} before" for view in slots if view[0] == "between"}


def _attention_event(
    slot: Slot,
    operation: str,
    kept: set[str],
    direct: set[str],
    edits: Sequence[Edit],
    geometries: set[str],
) -> dict[str, Any] | None:
    rot_q = next(iter(slot.views))
    boundary = _boundary(rot_q)
    names = {what: f"{boundary}.hook_{what}" for what in ("rot_q", "rot_k", "attn_scores", "pattern")}

    def inputs(name: str) -> list[dict[str, Any]]:
        acts: list[dict[str, Any]] = [{"verb": "edit", "view": ("plain",), **_edit(e)} for e in edits if e.name == name]
        return acts + ([{"verb": "tap", "name": name, "view": ("plain",)}] if name in kept else [])

    query, key = inputs(names["rot_q"]), inputs(names["rot_k"])
    scores = [_edit(e) for e in edits if e.name == names["attn_scores"]]
    patterns = [_edit(e) for e in edits if e.name == names["pattern"]]
    taps = [(names[k], short) for k, short in (("attn_scores", "scores"), ("pattern", "pattern")) if names[k] in direct]
    geometry = f"{boundary}.geometry" if boundary in geometries else None
    if not (query or key or scores or patterns or taps or geometry):
        return None
    rewritten = any(action["verb"] == "edit" for action in (*query, *key))
    return {
        "kind": slot.kind,
        "path": slot.served,
        "operation": operation,
        "inputs": {"query": query, "key": key, "edits": rewritten} if query or key else None,
        "scores": scores,
        "patterns": patterns,
        "taps": taps,
        "geometry": geometry,
        "out": served(slot.out),
        "once": slot.once,
    }


def _heads(sites: Sites, slot: Slot) -> dict[str, int]:
    """How many heads of queries and of keys meet at an attention call; layers of one stack may differ."""
    vision = sites.architecture.vision
    blocks = (*sites.architecture.stack.blocks, *(vision.stack.blocks if vision is not None else ()))
    attn = next(attn for block in blocks for attn in block.attentions.values() if attn.path == slot.path)
    return {"heads": attn.n_heads, "kv_heads": attn.n_key_value_heads}


def _with_lengths(program: Program) -> Program:
    """Before the first event of a windowed attention module, read how it cuts its sequence.

    The lengths are an argument of the module's own call, which comes before everything inside it.
    """
    complete: Program = []
    for event in program:
        if event["kind"] == "windows":
            inside = f"{event['path']}."
            at = len(complete)
            while at and complete[at - 1]["path"].startswith(inside):
                at -= 1
            complete.insert(at, {"kind": "lengths", "path": event["path"], "once": True})
        complete.append(event)
    return complete


def _edit(edit: Edit) -> dict[str, Any]:
    return {
        "kernel": edit.kernel,
        "params": dict(edit.params),
        "steps": edit.steps,
        "queries": edit.queries,
        "keys": edit.keys,
        "heads": edit.heads,
        "reads_input": edit.reads_input,
    }


def _of_pattern(name: str) -> bool:
    return name.endswith(_PATTERN)


def _boundary(name: str) -> str:
    return name.rpartition(".")[0]
