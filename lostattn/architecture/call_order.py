"""The order in which a module calls its children, read from the source of its ``forward``.

nnsight serves values in the order of the forward pass, so a plan must know that order before the pass
runs. A forward's own source says it: calls are listed as they are evaluated (inner first).
"""

from __future__ import annotations

import ast

from torch import nn

from lostattn.architecture.source import source_of

ATTENTION_CALL = "attention_interface"


class _Calls(ast.NodeVisitor):
    """Collects the called names, innermost first, and whether each call stands in a comprehension."""

    def __init__(self) -> None:
        self.found: list[tuple[str, bool]] = []
        self._looping = 0

    def visit_comprehension_of(self, node: ast.ListComp | ast.GeneratorExp) -> None:
        for generator in node.generators:
            self.visit(generator.iter)
        self._looping += 1
        self.visit(node.elt)
        self._looping -= 1

    visit_ListComp = visit_comprehension_of
    visit_GeneratorExp = visit_comprehension_of

    def visit_Call(self, node: ast.Call) -> None:
        for part in (*node.args, *(keyword.value for keyword in node.keywords)):
            self.visit(part)
        self.visit(node.func)
        self.found.append((_dotted(node.func), self._looping > 0))


def _dotted(node: ast.expr) -> str:
    parts: list[str] = []
    while isinstance(node, ast.Attribute | ast.Subscript):
        if isinstance(node, ast.Attribute):
            parts.append(node.attr)
        node = node.value
    if isinstance(node, ast.Name):
        parts.append(node.id)
    return ".".join(reversed(parts))


def forward_calls(module: nn.Module) -> list[tuple[str, bool]]:
    """``(dotted name, inside a comprehension)`` of every call in ``type(module).forward``, in order.

    Empty where there is no Python source to read (a compiled or dynamically made forward).
    """
    calls = _Calls()
    if (source := source_of(type(module).forward)) is not None:
        calls.visit(source)
    return calls.found


def children_in_order(module: nn.Module) -> list[str]:
    """Names of the children that ``module.forward`` calls, in the order in which it calls them first.

    >>> children_in_order(llama_layer)  # doctest: +SKIP
    ['input_layernorm', 'self_attn', 'post_attention_layernorm', 'mlp']
    """
    children = dict(module.named_children())
    order: list[str] = []
    for name, _ in forward_calls(module):
        child = name.removeprefix("self.")
        if name.startswith("self.") and child in children and child not in order:
            order.append(child)
    return order


def children_around_attention(module: nn.Module) -> tuple[list[str], list[str]]:
    """The children that an attention module calls before its attention operation, and after it."""
    children = dict(module.named_children())
    before: list[str] = []
    after: list[str] = []
    seen = False
    for name, _ in forward_calls(module):
        if name == ATTENTION_CALL:
            seen = True
        child = name.removeprefix("self.")
        if name.startswith("self.") and child in children:
            (after if seen else before).append(child)
    return before, after


def calls_attention(module: nn.Module) -> bool:
    """Whether this module's own forward calls transformers' attention interface."""
    return any(name == ATTENTION_CALL for name, _ in forward_calls(module))


def attention_in_comprehension(module: nn.Module) -> bool:
    """Whether the (last) attention call is made once per window, inside a comprehension."""
    inside = [looped for name, looped in forward_calls(module) if name == ATTENTION_CALL]
    return bool(inside) and inside[-1]
