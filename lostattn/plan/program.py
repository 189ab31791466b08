"""The plan: everything that one call wants from a forward pass, written down before the pass runs.

Edits, taps and reductions are put into the slots of the model in forward order; at each point the edits come
first, in the order given, then the taps. The result is a *program* of plain dicts (:mod:`lostattn.kernels.program`)
that :mod:`lostattn.kernels.walker` executes inside one nnsight trace, here or on a remote server.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from lostattn.kernels.program import (
    Action,
    AttentionEvent,
    Boundary,
    BoundEdit,
    Event,
    InputAction,
    LengthsEvent,
    Positions,
    Program,
    TensorEvent,
    View,
    WindowsEvent,
)
from lostattn.points.names import is_square
from lostattn.points.sites import Sites, Slot, of_mid, served_path


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
    watches: bool = False  # it only looks, for another edit
    label: str = ""  # the part of an intervention that it belongs to
    number: int | None = None  # by which what it changed is counted

    def bound(self) -> BoundEdit:
        """The edit as it travels."""
        return {
            "kernel": self.kernel,
            "params": dict(self.params),
            "steps": self.steps,
            "queries": self.queries,
            "keys": self.keys,
            "heads": self.heads,
            "reads_input": self.reads_input,
            "number": self.number,
        }


@dataclass(frozen=True)
class Reduction:
    """Numbers made inside the pass: ``kernel(held, here, **params)`` over the values of the points ``needs``.

    The values stand in ``held`` under their canonical names.
    """

    name: str
    needs: tuple[str, ...]
    kernel: Callable[..., Any]
    params: Mapping[str, Any] = field(default_factory=dict)


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
    wanted = _Wanted(sites, asked, edits, reductions, generates, results)
    program: Program = []
    for index, slot in enumerate(sites.slots):
        event: Event | None = wanted.of_tensor(slot, index, caches) if slot.kind == "tensor" else None
        if slot.kind in ("attention", "windows"):
            event = wanted.of_attention(slot, operations[slot.path])
        if event is not None:
            program.append(event)
    return _with_lengths(program)


def last_step(program: Program, edits: Sequence[Edit]) -> int | None:
    """The step of a generation from which on a program has nothing to do; None where it goes on to the end."""
    if all(event["once"] for event in program):
        return 1
    acting = [edit.steps[1] for edit in edits]
    kept = any(_keeps(event) for event in program if not event["once"])
    return None if kept or None in acting else max((end for end in acting if end is not None), default=1)


def _keeps(event: Event) -> bool:
    """Whether an event leaves something of its pass behind."""
    if event["kind"] == "tensor":
        return any(action["verb"] == "tap" for action in event["actions"])
    if event["kind"] != "attention":
        return False
    if event["taps"] or event["geometry"]:
        return True
    inputs = event["inputs"]
    return inputs is not None and any(action["verb"] == "tap" for action in (*inputs["query"], *inputs["key"]))


class _Wanted:
    """What a call wants, sorted by what the walker must do for it."""

    def __init__(
        self,
        sites: Sites,
        asked: set[str],
        edits: Sequence[Edit],
        reductions: Sequence[Reduction],
        generates: bool,
        results: Mapping[str, str],
    ) -> None:
        self.sites, self.edits, self.reductions, self.results = sites, edits, reductions, results
        names = {edit.name for edit in edits}
        self._sort_taps(asked, names, generates)
        self.held = {need for needs in (*(r.needs for r in reductions), *(e.needs for e in edits)) for need in needs}
        self.held |= {slot.added_to for slot in sites.slots if slot.stream in names}
        self.last_need = {r.name: max(sites.at[need] for need in r.needs) for r in reductions}
        self.before = _before(sites, self.kept | self.held | names)
        gated = [slot.behind for slot in sites.slots if f"{slot.behind}.hook_resid_mid" in names and slot.behind]
        self.behind = {f"{block}.hook_resid_post": f"{block} behind" for block in gated}

    def _sort_taps(self, asked: set[str], names: set[str], generates: bool) -> None:
        """Part the points that are asked for into those that are read and those that are made of others later."""
        sites = self.sites
        edited = {_boundary(n) for n in names if is_square(n) or (generates and n.endswith("attn.hook_rot_k"))}
        # Where a pattern is edited, the pass itself must show it: q and k no longer tell it.
        self.direct = {name for name in asked if is_square(name) and _boundary(name) in edited}
        self.kept = {name for name in asked if name in sites.at}
        self.geometries: set[str] = set()
        for name in asked - self.kept - self.direct:
            self.kept.update(sites.derived[name].needs)
            if sites.derived[name].kind in ("attn_scores", "pattern"):
                self.geometries.add(_boundary(name))

    def at(self, name: str) -> list[Edit]:
        """The edits of one point, in the order given."""
        return [edit for edit in self.edits if edit.name == name]

    def of_tensor(self, slot: Slot, index: int, caches: bool) -> TensorEvent | None:
        """What is done at a module's input or output; ``None`` for nothing."""
        actions = [action for name, view in slot.views.items() for action in self._of_view(slot, name, view)]
        # The stream after attention exists in no module's output: it is edited where its second summand is.
        for edit in self.at(slot.stream) if slot.stream else ():
            actions.append({"verb": "edit_sum", "held": slot.added_to, "factor": slot.factor, **edit.bound()})
        for r in self.reductions:
            if self.last_need[r.name] == index:
                actions.append({"verb": "reduce", "name": r.name, "kernel": r.kernel, "params": dict(r.params)})
        if not actions:
            return None
        reading = any(edit.reads_input for name in (*slot.views, slot.stream) for edit in self.at(name))
        return {
            "kind": "tensor",
            "path": slot.served,
            "port": slot.port,
            "actions": actions,
            "needs_input": reading,
            "once": slot.once and (caches or not slot.elsewhere),
            "elsewhere": slot.elsewhere,
        }

    def _of_view(self, slot: Slot, name: str, view: View) -> list[Action]:
        """What is done with a value under one of its names: edits first, then what reads it."""
        if view[0] == "between":
            view = ("between", self.before.get(str(view[1]), ""))
        actions: list[Action] = []
        if slot.behind:
            for edit in self.at(name):
                actions.append({"verb": "edit_behind", "held": f"{slot.behind} behind", **edit.bound()})
        if name in self.behind:
            actions.append({"verb": "add_behind", "held": self.behind[name]})
        if slot.port == "output" or not of_mid(name):
            for edit in self.at(name):
                actions.append({"verb": "edit", "view": view, **edit.bound()})
        if name in self.kept:
            actions.append({"verb": "tap", "name": name, "view": view})
        if name in self.results:
            actions.append({"verb": "by_head", "name": self.results[name], "view": view})
        if name in self.held:
            actions.append({"verb": "hold", "name": name, "view": view})
        if name in self.before:
            actions.append({"verb": "hold", "name": self.before[name], "view": view})
        return actions

    def of_attention(self, slot: Slot, operation: str) -> AttentionEvent | WindowsEvent | None:
        """What is done at a call of the attention interface; ``None`` for nothing."""
        at = _boundary(next(iter(slot.views)))
        query, key = self._of_input(f"{at}.hook_rot_q"), self._of_input(f"{at}.hook_rot_k")
        heads, kv_heads = _heads(self.sites, slot)
        named = {"scores": f"{at}.hook_attn_scores", "pattern": f"{at}.hook_pattern"}
        boundary: Boundary = {
            "path": slot.served,
            "operation": operation,
            "inputs": {"query": query, "key": key, "edits": _edits(query) or _edits(key)} if query or key else None,
            "scores": [edit.bound() for edit in self.at(named["scores"])],
            "patterns": [edit.bound() for edit in self.at(named["pattern"])],
            "taps": [(name, what) for what, name in named.items() if name in self.direct],
            "geometry": f"{at}.geometry" if at in self.geometries else None,
            "proof": None,
            "out": served_path(slot.out),
            "once": slot.once,
            "heads": heads,
            "kv_heads": kv_heads,
        }
        if not any(boundary[what] for what in ("inputs", "scores", "patterns", "taps", "geometry")):
            return None
        if slot.kind == "windows":
            return {"kind": "windows", **boundary}
        return {"kind": "attention", **boundary}

    def _of_input(self, name: str) -> list[InputAction]:
        acts: list[InputAction] = [{"verb": "edit", "view": ("plain",), **edit.bound()} for edit in self.at(name)]
        if name in self.kept:
            acts.append({"verb": "tap", "name": name, "view": ("plain",)})
        return acts


def _edits(actions: Sequence[InputAction]) -> bool:
    return any(action["verb"] == "edit" for action in actions)


def _before(sites: Sites, names: set[str]) -> dict[str, str]:
    """The streams that must be held for what is added after them to be seen, and under which names.

    They have names of their own: a reduction may let go of the stream itself on the way.
    """
    slots = (sites.slots[sites.at[name]].views[name] for name in names if name in sites.at)
    return {str(view[1]): f"{view[1]} before" for view in slots if view[0] == "between"}


def _heads(sites: Sites, slot: Slot) -> tuple[int, int]:
    """How many heads of queries and of keys meet at an attention call; layers of one stack may differ."""
    vision = sites.architecture.vision
    blocks = (*sites.architecture.stack.blocks, *(vision.stack.blocks if vision is not None else ()))
    attn = next(attn for block in blocks for attn in block.attentions.values() if attn.path == slot.path)
    return attn.n_heads, attn.n_key_value_heads


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
            lengths: LengthsEvent = {"kind": "lengths", "path": event["path"], "once": True}
            complete.insert(at, lengths)
        complete.append(event)
    return complete


def _boundary(name: str) -> str:
    return name.rpartition(".")[0]
