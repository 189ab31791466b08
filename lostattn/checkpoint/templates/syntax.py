"""A template's syntax tree with a charge put in wherever it may go round, write out, join or compare."""

from __future__ import annotations

from typing import Any

from jinja2 import nodes
from jinja2.visitor import NodeTransformer


class Charging(NodeTransformer):
    """Puts in calls of the environment: ``charge`` heads bodies, ``weigh`` goes around values, ``join`` is ``~``."""

    def visit_For(self, node: Any) -> nodes.Node:
        """What goes round, or can be called again and again: each time is charged, with the text that stands in it."""
        self.generic_visit(node)
        stands = sum(len(one.data) for part in node.body for one in _within(part))
        charge = nodes.ExprStmt(_call("charge", [nodes.Const(stands)], node), lineno=node.lineno)
        node.body = [charge, *node.body]
        return node

    visit_Macro = visit_CallBlock = visit_Block = visit_For

    def visit_Concat(self, node: nodes.Concat) -> nodes.Node:
        """``a ~ b``."""
        self.generic_visit(node)
        return _call("join", node.nodes, node)

    def visit_Compare(self, node: nodes.Compare) -> nodes.Node:
        """``a == b``, ``a in b``: equal parts of lists are compared one by one, however often they are shared."""
        self.generic_visit(node)
        node.expr = _call("weigh", [node.expr], node)
        for one in node.ops:
            one.expr = _call("weigh", [one.expr], node)
        return node

    def visit_Test(self, node: nodes.Test) -> nodes.Node:
        """``a is eq(b)``."""
        self.generic_visit(node)
        if node.name not in ("defined", "undefined"):
            node.node = _call("weigh", [node.node], node)
        node.args = [_call("weigh", [one], node) for one in node.args]
        return node

    def visit_Dict(self, node: nodes.Dict) -> nodes.Node:
        """``{a: b}``: a key is hashed, with everything in it."""
        self.generic_visit(node)
        for pair in node.items:
            if not isinstance(pair.key, nodes.Const):
                pair.key = _call("weigh", [pair.key], node)
        return node

    def visit_Getitem(self, node: nodes.Getitem) -> nodes.Node:
        """``a[b]``, where b is no constant."""
        self.generic_visit(node)
        if node.ctx == "load" and not isinstance(node.arg, nodes.Const | nodes.Slice):
            node.arg = _call("weigh", [node.arg], node)
        return node


def _within(node: nodes.Node) -> list[nodes.TemplateData]:
    own = [node] if isinstance(node, nodes.TemplateData) else []
    return [*own, *node.find_all(nodes.TemplateData)]


def _call(name: str, arguments: list[Any], at: nodes.Node) -> nodes.Call:
    called = nodes.EnvironmentAttribute(name, lineno=at.lineno)
    return nodes.Call(called, arguments, [], None, None, lineno=at.lineno)
