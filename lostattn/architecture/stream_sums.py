"""Where a layer's source adds to the stream: the sums in what :mod:`.dataflow` read, and what they add."""

from __future__ import annotations

from torch import nn

from lostattn.architecture.dataflow import INPUT, OTHER, Flow, Value
from lostattn.architecture.structure import Update
from lostattn.weights.kinds import is_norm


def middle_of(read: Flow, at: int | None) -> int | None:
    """The first call after the attention that is given the layer's input with something added to it."""
    for i, call in enumerate(read.calls):
        if i > (at if at is not None else -1) and call.given and is_stream(call.given[0]):
            return i
    return None


def is_stream(value: Value) -> bool:
    """Whether a value is the layer's input with something added to it."""
    return value.kind == "sum" and value.factor == 1.0 and INPUT in value.parts


def update_of(path: str, layer: nn.Module, read: Flow, parts: list[Value]) -> Update | None:
    """The update that adds these parts to the stream; ``None`` where they are not one module's output."""
    if len(parts) != 1 or parts[0].kind != "child":
        return None
    added = f"{path}.{parts[0].child}"
    calls = [call for call in read.calls if call.child == parts[0].child]
    if parts[0].factor is None and any(INPUT in c.given and sum(v.known for v in c.given) > 1 for c in calls):
        return Update(added, None, joins=True)
    if not is_norm(layer.get_submodule(parts[0].child)):
        return Update(added, parts[0].factor, added)
    given = next((call.given[0] for call in calls if call.given), OTHER)
    if given.kind != "child" or given.factor is None:
        return Update(added, parts[0].factor)
    return Update(added, parts[0].factor, f"{path}.{given.child}", given.factor)
