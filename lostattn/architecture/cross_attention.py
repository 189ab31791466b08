"""Cross-attention beside a layer's self-attention: after it in the same layer, or in a list of layers of its own."""

from __future__ import annotations

import ast
from typing import Any, TypeGuard

from torch import nn

from lostattn.architecture.attention import attention_in, held_attention, map_behind
from lostattn.architecture.dataflow import Flow, Value
from lostattn.architecture.source import source_of
from lostattn.architecture.stream_sums import update_of
from lostattn.architecture.structure import Cross
from lostattn.weights.kinds import is_norm


def cross_of(
    path: str, layer: nn.Module, read: Flow, middle: int, at: int, n_heads: int
) -> tuple[Cross, int | None] | None:
    """The second attention of a layer, called at ``at``, and the call that is given the stream with its part in it.

    ``None`` where something else than norms stands between it and the stream after the first (``middle``).
    """
    if not all(is_norm(layer.get_submodule(call.child)) for call in read.calls[middle:at]):
        return None
    made = {call.child for call in read.calls[at:]}
    outer = map_behind(layer, read, at)
    attn = held_attention(path, layer, read, at, n_heads, n_heads)
    end = next((i for i, call in enumerate(read.calls) if i > at and call.given and _adds(call.given[0], made)), None)
    out = f"{path}.{outer or read.calls[at].child}"
    if end is None:
        return Cross(attn, out), None
    stream = read.calls[end].given[0]
    added = [part for part in stream.parts if part.child in made]
    normed = read.calls[middle].child in {part.child for part in stream.parts}  # the norm's output is the stream
    mid = read.calls[end].child
    cross = Cross(
        attn,
        out,
        mid=f"{path}.{mid}",
        ln=f"{path}.{mid}" if is_norm(layer.get_submodule(mid)) else None,
        update=update_of(path, layer, read, added),
        added_to="ln2.hook_out" if normed else "hook_resid_mid",
    )
    return cross, end


def _adds(value: Value, made: set[str]) -> bool:
    """Whether a value is a sum in which one of these children's outputs is added to something else."""
    return value.kind == "sum" and value.factor == 1.0 and len({part.child in made for part in value.parts}) == 2


def ahead_of(holder: nn.Module, layers: str) -> dict[int, str]:
    """The cross-attention layers that a decoder runs before its own, from a list beside theirs (Idefics).

    Read from the loop over ``holder.<layers>``: ``self.<list>[<index>]`` of another list in its body, under a condition
    on the number of the layer. By that number, the path of the other layer below the holder.
    """
    loop = next((node for node in ast.walk(_forward(holder)) if _loops_over(node, layers)), None)
    if loop is None or not isinstance(loop.target, ast.Tuple) or not isinstance(loop.target.elts[0], ast.Name):
        return {}
    number, n = loop.target.elts[0].id, len(holder.get_submodule(layers))  # type: ignore[arg-type]
    found: dict[int, str] = {}
    for condition in (node for node in loop.body if isinstance(node, ast.If)):
        for node in (one for statement in condition.body for one in ast.walk(statement)):
            if isinstance(node, ast.Subscript) and (name := _list_of_layers(node.value, holder)):
                for i in range(n):
                    if _known(condition.test, holder, number, i):
                        found[i] = f"{name}.{_known(node.slice, holder, number, i)}"
    return found


def _forward(holder: nn.Module) -> ast.AST:
    return source_of(type(holder).forward) or ast.Module([], [])


def _loops_over(node: ast.AST, layers: str) -> TypeGuard[ast.For]:
    return isinstance(node, ast.For) and f"self.{layers}" in ast.unparse(node.iter)


def _list_of_layers(node: ast.expr, holder: nn.Module) -> str:
    """The name of a list of layers with attention that an expression is, ``self.<name>``; else empty."""
    if isinstance(node, ast.Attribute) and isinstance(node.value, ast.Name) and node.value.id == "self":
        value = getattr(holder, node.attr, None)
        if isinstance(value, nn.ModuleList) and len(value) and attention_in(value[0]) is not None:
            return node.attr
    return ""


def _known(node: ast.expr, holder: nn.Module, number: str, i: int) -> Any:
    """The value of an expression of the holder's numbers and that of a layer; None where it needs more than that."""
    names = {one.id for one in ast.walk(node) if isinstance(one, ast.Name)}
    calls = any(isinstance(one, ast.Call) for one in ast.walk(node))
    if calls or not names <= {"self", number}:
        return None
    return eval(compile(ast.Expression(node), "<loop>", "eval"), {"__builtins__": {}}, {"self": holder, number: i})
