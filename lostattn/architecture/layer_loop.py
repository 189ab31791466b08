"""How a decoder runs its layers, read from its source: what becomes of the stream between them and after the last.

Most decoders hand each layer's output to the next as it is. Some add to it on the way: features of the picture
(deepstack), or cross-attention layers that stand in a list of their own.
"""

from __future__ import annotations

import ast
from collections.abc import Iterator
from dataclasses import dataclass

from torch import nn

from lostattn.architecture.source import source_of

NORMS = ("norm", "ln_f")


@dataclass(frozen=True)
class LayerLoop:
    """What stands around the calls of the layers.

    ``between``: something else than a layer changes the stream inside the loop. ``after``: the children that are called
    after the loop, in order.
    """

    between: bool
    after: tuple[str, ...]

    @property
    def at_end(self) -> bool:
        """Whether a child that is no norm comes between the last layer and the final norm."""
        return bool(self.after) and not is_norm(self.after[0]) and any(map(is_norm, self.after))


def is_norm(name: str) -> bool:
    """Whether a child's name says that it is a norm."""
    return any(word in name.lower() for word in NORMS)


def layer_loop(holder: nn.Module, layers: str) -> LayerLoop | None:
    """Read the loop over ``holder.<layers>`` in the holder's own forward; ``None`` where there is none to read."""
    function = source_of(type(holder).forward)
    if function is None:
        return None
    for place, statement in enumerate(function.body):
        if isinstance(statement, ast.For) and f"self.{layers}" in ast.unparse(statement.iter):
            after = [name for node in function.body[place + 1 :] for name in _children(node, holder)]
            return LayerLoop(_changes(statement), tuple(after))
    return None


def _changes(loop: ast.For) -> bool:
    """Whether the variable that goes into a layer is assigned anything but what a layer gave."""
    names = {node.id for node in ast.walk(loop.target) if isinstance(node, ast.Name)}
    call = next((c for c in ast.walk(loop) if isinstance(c, ast.Call) and _called(c) in names), None)
    stream = call.args[0] if call is not None and call.args else None
    if not isinstance(stream, ast.Name):
        return False
    outputs = {stream.id}  # names that hold what a layer gave
    for bound, value in _assigned(loop.body):
        if isinstance(value, ast.Call) and _called(value) in names:
            outputs |= bound
        elif bound == {stream.id} and not _handed_on(value, outputs):
            return True
    return False


def _called(call: ast.Call) -> str:
    return call.func.id if isinstance(call.func, ast.Name) else ""


def _assigned(body: list[ast.stmt]) -> Iterator[tuple[set[str], ast.expr]]:
    """Every assignment, inside conditions too: the names that it binds, and the value."""
    for node in (node for statement in body for node in ast.walk(statement)):
        if isinstance(node, ast.Assign):
            yield {n.id for target in node.targets for n in ast.walk(target) if isinstance(n, ast.Name)}, node.value
        elif isinstance(node, ast.AugAssign) and isinstance(node.target, ast.Name):
            yield {node.target.id}, ast.BinOp(node.target, node.op, node.value)


def _handed_on(value: ast.expr, outputs: set[str]) -> bool:
    """Whether a value is a layer's output as it is, its first part, or one of several such."""
    if isinstance(value, ast.IfExp):
        return _handed_on(value.body, outputs) and _handed_on(value.orelse, outputs)
    inner = value.value if isinstance(value, ast.Subscript) else value
    return isinstance(inner, ast.Name) and inner.id in outputs


def _children(node: ast.stmt, holder: nn.Module) -> list[str]:
    """The children of a module that a statement calls, innermost first."""
    own = dict(holder.named_children())
    calls = [c.func for c in ast.walk(node) if isinstance(c, ast.Call) and isinstance(c.func, ast.Attribute)]
    named = [f.attr for f in reversed(calls) if isinstance(f.value, ast.Name) and f.value.id == "self"]
    return [name for name in named if name in own]
