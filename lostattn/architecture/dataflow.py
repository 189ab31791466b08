"""What a module's forward does with its input, read from its source: which child gets what, and what is added up.

A small interpreter walks through the forward as Python would, with the module's own attributes for conditions
(``if self.layer_type == "linear_attention"``) and the defaults of its arguments, but with :class:`Value` s in the
place of tensors. They say where a tensor comes from: the module's input, a child's output, a sum, or something else.
Nothing is executed, so it works on a model without weights.

Of a layer, a child that adds what it makes to the stream itself (T5's and BERT's sublayers hold their own residual sum)
is opened: what happens in it is read as if the layer did it.
"""

from __future__ import annotations

import ast
import inspect
from dataclasses import dataclass, replace
from typing import Any

from torch import nn

from lostattn.architecture.source import source_of
from lostattn.weights.kinds import acting, is_norm

ATTENTION_CALL = "attention_interface"
TRANSPARENT = ("Dropout", "DropPath", "Identity")  # classes that hand on what they get when a model is not trained
DEPTH = 3  # of helper methods that are followed


@dataclass(frozen=True)
class Value:
    """Where a tensor comes from.

    ``factor`` is what it is multiplied by on the way: 1 where by nothing, ``None`` where by something that is no number
    of the config (a gate).
    """

    kind: str  # "input" | "child" | "sum" | "constant" | "tuple" | "other"
    child: str = ""
    factor: float | None = 1.0
    parts: tuple[Value, ...] = ()
    constant: Any = None

    @property
    def known(self) -> bool:
        """Whether it can be followed back to the input or to children."""
        return self.kind in ("input", "child", "sum")


OTHER = Value("other")
INPUT = Value("input")


@dataclass(frozen=True)
class Call:
    """One call of a child (or of the attention interface), with the values that it is given."""

    child: str
    given: tuple[Value, ...]


@dataclass(frozen=True)
class Flow:
    """The calls of a forward in order, and what it returns (the first value of a tuple)."""

    calls: tuple[Call, ...]
    result: Value


class _Returned(Exception):
    pass


def flow(module: nn.Module, opened: bool = False) -> Flow:
    """Read ``type(module).forward``; empty where there is no Python source to read.

    ``opened``: the module is a layer, and its children that hold a residual sum of their own are looked into.
    """
    reader = _Reader(module, opened)
    function = source_of(type(reader.module).forward)
    if function is None:
        return Flow((), OTHER)
    result = reader.run(function, [INPUT], {}, 0)
    first = result.parts[0] if result.kind == "tuple" and result.parts else result
    return Flow(tuple(reader.calls), first)


class _Reader:
    """The interpreter; ``calls`` grows as it goes."""

    def __init__(self, module: nn.Module, opens: bool) -> None:
        # Paths are below the root; ``self`` in the source is the module.
        self.root, self.module = module, acting(module)
        self.opens = opens
        self.paths = {id(one): path for path, one in module.named_modules()}
        self.calls: list[Call] = []
        self.depth = 0

    def run(self, function: ast.FunctionDef, given: list[Value], named: dict[str, Value], depth: int) -> Value:
        """Walk through one function; returns what it returns."""
        names: dict[str, Value] = {}
        arguments = [*function.args.posonlyargs, *function.args.args][1:]
        defaults = function.args.defaults
        for argument, default in zip(reversed(arguments), reversed(defaults), strict=False):
            names[argument.arg] = self._default(argument.arg, default)
        for argument, default_or_none in zip(function.args.kwonlyargs, function.args.kw_defaults, strict=True):
            if default_or_none is not None:
                names[argument.arg] = self._default(argument.arg, default_or_none)
        names.update({argument.arg: value for argument, value in zip(arguments, given, strict=False)})
        names.update(named)
        outer, self.depth = self.depth, depth
        returned = self._block(function.body, names)
        self.depth = outer
        return returned if returned is not None else OTHER

    def _default(self, name: str, default: ast.expr) -> Value:
        # What has cross-attention, or is it, is read as it runs with something to attend to.
        beside = [child for child, _ in self.module.named_children() if "cross" in child or "encoder_attn" in child]
        if name.startswith("encoder_hidden_states") and beside:
            return OTHER
        if name.startswith("cross_attention_states"):
            return OTHER
        return Value("constant", constant=default.value) if isinstance(default, ast.Constant) else OTHER

    # Statements

    def _block(self, body: list[ast.stmt], names: dict[str, Value]) -> Value | None:
        for statement in body:
            returned = self._statement(statement, names)
            if returned is not None:
                return returned
        return None

    def _statement(self, node: ast.stmt, names: dict[str, Value]) -> Value | None:
        if isinstance(node, ast.Return):
            return self.value(node.value, names) if node.value is not None else OTHER
        if isinstance(node, ast.Assign):
            value = self.value(node.value, names)
            for target in node.targets:
                self._assign(target, value, names)
        elif isinstance(node, ast.AnnAssign) and node.value is not None:
            self._assign(node.target, self.value(node.value, names), names)
        elif isinstance(node, ast.AugAssign):
            left = self.value(node.target, names)
            self._assign(node.target, _combined(node.op, left, self.value(node.value, names)), names)
        elif isinstance(node, ast.If):
            return self._if(node, names)
        elif isinstance(node, ast.Expr):
            self.value(node.value, names)
        elif isinstance(node, ast.For):
            self.value(node.iter, names)
            self._assign(node.target, OTHER, names)
            return self._block(node.body, names)
        elif isinstance(node, ast.With | ast.Try):
            return self._block(node.body, names)
        return None

    def _if(self, node: ast.If, names: dict[str, Value]) -> Value | None:
        truth = self.truth(node.test, names)
        if truth is not None:
            return self._block(node.body if truth else node.orelse, names)
        other = dict(names)
        returned = None
        if not _raises(node.body):
            returned = self._block(node.body, names)
        if returned is None:
            returned = self._block(node.orelse, other)
            for name, value in other.items():
                if not names.get(name, OTHER).known:
                    names[name] = value
            return returned
        return None if not _raises(node.orelse) and not returned.known else returned

    def _assign(self, target: ast.expr, value: Value, names: dict[str, Value]) -> None:
        if isinstance(target, ast.Name):
            names[target.id] = value
        elif isinstance(target, ast.Tuple | ast.List):
            parts = value.parts if value.kind == "tuple" else (value,)
            for i, part in enumerate(target.elts):
                self._assign(part, parts[i] if i < len(parts) else OTHER, names)

    # Conditions

    def truth(self, node: ast.expr, names: dict[str, Value]) -> bool | None:
        """Whether a condition holds; ``None`` where that depends on what runs."""
        if isinstance(node, ast.UnaryOp) and isinstance(node.op, ast.Not):
            inner = self.truth(node.operand, names)
            return None if inner is None else not inner
        if isinstance(node, ast.BoolOp):
            found = [self.truth(part, names) for part in node.values]
            decisive = isinstance(node.op, ast.Or)
            if decisive in found:
                return decisive
            return None if None in found else not decisive
        if isinstance(node, ast.Compare) and len(node.ops) == 1:
            return self._compare(node, names)
        if isinstance(node, ast.Call) and isinstance(node.func, ast.Name) and node.func.id == "hasattr":
            owner = self._constant(node.args[0], names)
            name = node.args[1]
            if owner is None or not isinstance(name, ast.Constant):
                return None
            return hasattr(owner[0], str(name.value))
        found_constant = self._constant(node, names)
        if found_constant is None:
            return None
        constant = found_constant[0]
        return bool(constant) if isinstance(constant, bool | int | float | str | type(None)) else None

    def _compare(self, node: ast.Compare, names: dict[str, Value]) -> bool | None:
        left, right = self._constant(node.left, names), self._constant(node.comparators[0], names)
        operator = node.ops[0]
        if isinstance(operator, ast.Is | ast.IsNot) and right is not None and right[0] is None:
            if left is None:
                value = self._peek(node.left, names)
                if value is None:
                    return None
                return isinstance(operator, ast.IsNot)
            return (left[0] is None) == isinstance(operator, ast.Is)
        if left is None or right is None:
            return None
        try:
            if isinstance(operator, ast.Eq | ast.NotEq):
                return bool(left[0] == right[0]) == isinstance(operator, ast.Eq)
            if isinstance(operator, ast.In | ast.NotIn):
                return (left[0] in right[0]) == isinstance(operator, ast.In)
            if isinstance(operator, ast.Gt | ast.GtE | ast.Lt | ast.LtE):
                return {
                    ast.Gt: left[0] > right[0], ast.GtE: left[0] >= right[0],
                    ast.Lt: left[0] < right[0], ast.LtE: left[0] <= right[0],
                }[type(operator)]  # fmt: skip
        except (TypeError, RuntimeError):
            return None
        return None

    def _peek(self, node: ast.expr, names: dict[str, Value]) -> Value | None:
        value = names.get(node.id) if isinstance(node, ast.Name) else None
        return value if value is not None and value.known else None

    def _constant(self, node: ast.expr, names: dict[str, Value]) -> tuple[Any] | None:
        """A value that is known without running, in a tuple of one."""
        if isinstance(node, ast.Constant):
            return (node.value,)
        if isinstance(node, ast.UnaryOp) and isinstance(node.op, ast.USub):
            number = self._constant(node.operand, names)
            return (-number[0],) if number is not None and isinstance(number[0], int | float) else None
        if isinstance(node, ast.Name):
            if node.id == "self":
                return (self.module,)
            value = names.get(node.id)
            return (value.constant,) if value is not None and value.kind == "constant" else None
        if isinstance(node, ast.List | ast.Tuple | ast.Set):
            parts = [self._constant(part, names) for part in node.elts]
            return None if any(p is None for p in parts) else ([p[0] for p in parts if p],)
        return self._constant_part(node, names) if isinstance(node, ast.Attribute | ast.Subscript) else None

    def _constant_part(self, node: ast.Attribute | ast.Subscript, names: dict[str, Value]) -> tuple[Any] | None:
        """An attribute or an element of a value that is known without running."""
        owner = self._constant(node.value, names)
        if owner is None:
            return None
        if isinstance(node, ast.Attribute):
            return (getattr(owner[0], node.attr),) if hasattr(owner[0], node.attr) else None
        index = self._constant(node.slice, names)
        try:
            return (owner[0][index[0]],) if index else None
        except (TypeError, KeyError, IndexError):
            return None

    # Expressions

    def value(self, node: ast.expr, names: dict[str, Value]) -> Value:
        """Where an expression's value comes from; calls in it are noted in the order in which Python makes them."""
        if isinstance(node, ast.Name) and node.id in names:
            return names[node.id]
        if isinstance(node, ast.Call):
            return self._call(node, names)
        if isinstance(node, ast.BinOp):
            left = self.value(node.left, names)
            return _combined(node.op, left, self.value(node.right, names))
        if isinstance(node, ast.Tuple | ast.List):
            return Value("tuple", parts=tuple(self.value(part, names) for part in node.elts))
        if isinstance(node, ast.Starred):
            return self.value(node.value, names)
        if isinstance(node, ast.IfExp):
            truth = self.truth(node.test, names)
            if truth is not None:
                return self.value(node.body if truth else node.orelse, names)
            found = self.value(node.body, names)
            other = self.value(node.orelse, names)
            return found if found.known else other
        constant = self._constant(node, names)
        if constant is not None:
            return Value("constant", constant=constant[0])
        if isinstance(node, ast.Subscript):
            return self._item(node, names)
        if isinstance(node, ast.ListComp | ast.GeneratorExp):
            for generator in node.generators:
                self.value(generator.iter, names)
                self._assign(generator.target, OTHER, names)
            return self.value(node.elt, names)
        for child in ast.iter_child_nodes(node):
            if isinstance(child, ast.expr):
                self.value(child, names)
        return OTHER

    def _item(self, node: ast.Subscript, names: dict[str, Value]) -> Value:
        value = self.value(node.value, names)
        index = self._constant(node.slice, names)
        if value.kind == "tuple" and index is not None and isinstance(index[0], int):
            return value.parts[index[0]] if -len(value.parts) <= index[0] < len(value.parts) else OTHER
        if index is not None and isinstance(index[0], int):
            return value if index[0] == 0 else OTHER
        return value if isinstance(node.slice, ast.Slice | ast.Tuple) else OTHER

    def _call(self, node: ast.Call, names: dict[str, Value]) -> Value:
        target = self._constant(node.func, names)
        module = target[0] if target is not None and isinstance(target[0], nn.Module) else None
        base = None
        if module is None and isinstance(node.func, ast.Attribute) and target is None:
            base = self.value(node.func.value, names)
        given = [self.value(part, names) for part in node.args]
        named = {k.arg: self.value(k.value, names) for k in node.keywords if k.arg is not None}
        every = (*given, *named.values())
        if module is not None:
            return self._module(module, given, named)
        if isinstance(node.func, ast.Name) and node.func.id == ATTENTION_CALL:
            self.calls.append(Call(ATTENTION_CALL, every))
            return Value("child", ATTENTION_CALL)
        followed = self._followed(node, given, named)
        if followed is not None:
            return followed
        if base is not None and base.known:
            return base  # a method of a tensor: view, to, float, reshape, …
        name = node.func.attr if isinstance(node.func, ast.Attribute) else getattr(node.func, "id", "")
        passes_on = "dropout" in name or name in ("clamp", "maybe_autocast")
        return given[0] if passes_on and given else OTHER

    def _followed(self, node: ast.Call, given: list[Value], named: dict[str, Value]) -> Value | None:
        """What a helper method gives that is called, or handed to a function that calls it."""
        if self.depth >= DEPTH:
            return None
        helper = self._helper(node.func)
        if helper is not None:
            return self.run(helper, given, named, self.depth + 1)
        handed = self._helper(node.args[0]) if node.args and isinstance(node.func, ast.Name) else None
        if handed is not None:  # apply_chunking_to_forward(self.feed_forward_chunk, …, stream)
            return self.run(handed, [value for value in given if value.known], {}, self.depth + 1)
        return None

    def _module(self, module: nn.Module, given: list[Value], named: dict[str, Value]) -> Value:
        every = (*given, *named.values())
        if type(acting(module)).__name__.endswith(TRANSPARENT):
            return every[0] if every else OTHER
        path = self.paths.get(id(module))
        if path is None:
            return OTHER
        inside = self._opened(module, given, named)
        if inside is not None:
            return inside
        self.calls.append(Call(path, every))
        tensors = [value for value in every if value.known]
        if len(tensors) > 1 and INPUT in tensors:
            # A child that is given the module's input beside something else joins them: a gated residual.
            return Value("sum", parts=(INPUT, Value("child", path, None)))
        return Value("child", path)

    def _opened(self, module: nn.Module, given: list[Value], named: dict[str, Value]) -> Value | None:
        """What a child gives that adds to the stream inside itself; its calls are noted as the layer's own."""
        streams = [value for value in (*given, *named.values()) if self._is_stream(value)]
        inside = acting(module)
        source = source_of(type(inside).forward) if self.opens and streams and inside._modules else None
        if source is None:
            return None
        known, outer = len(self.calls), self.module
        self.module = inside
        result = self.run(source, given, named, self.depth)
        self.module = outer
        made = self.calls[known:]
        seen = [result.parts[0] if result.kind == "tuple" and result.parts else result]
        seen += [call.given[0] for call in made if call.given]
        own = {call.child for call in made}
        if any(_adds_to(value, stream, own) for value in seen for stream in streams):
            return result
        del self.calls[known:]
        return None

    def _is_stream(self, value: Value) -> bool:
        """Whether a value is the layer's input, that with something added to it, or the norm of such."""
        if value == INPUT or (value.kind == "sum" and value.factor == 1.0 and INPUT in value.parts):
            return True
        made = next((c for c in self.calls if value.kind == "child" and c.child == value.child and c.given), None)
        if made is None or made.child == ATTENTION_CALL or made.given[0].kind != "sum":
            return False
        return is_norm(self.root.get_submodule(made.child))

    def _helper(self, node: ast.expr) -> ast.FunctionDef | None:
        """The source of ``self.method`` where it is a plain method of the module."""
        if not (isinstance(node, ast.Attribute) and isinstance(node.value, ast.Name) and node.value.id == "self"):
            return None
        method = getattr(type(self.module), node.attr, None)
        return source_of(method) if inspect.isfunction(method) else None


def _combined(operator: ast.operator, left: Value, right: Value) -> Value:
    if isinstance(operator, ast.Add):
        if left.kind == "tuple":  # (hidden_states,) + attention_outputs
            return Value("tuple", parts=(*left.parts, *right.parts))
        if left.known and right.known:
            return Value("sum", parts=(*_summands(left), *_summands(right)))
        known = left if left.known else right
        return known if _number(left) == 0 or _number(right) == 0 else OTHER
    if isinstance(operator, ast.Mult | ast.Div):
        main, by = (left, right) if left.known else (right, left)
        if not main.known or (isinstance(operator, ast.Div) and main is right):
            return OTHER
        number = _number(by)
        if number is not None and isinstance(operator, ast.Div):
            number = 1.0 / number if number else None
        factor = None if number is None or main.factor is None else main.factor * number
        return replace(main, factor=factor)
    return OTHER


def _summands(value: Value) -> tuple[Value, ...]:
    return value.parts if value.kind == "sum" and value.factor == 1.0 else (value,)


def _adds_to(value: Value, stream: Value, own: set[str]) -> bool:
    """Whether a value is the stream with one of these children's outputs added to it, as it is."""
    parts = _summands(value)
    added = [part for part in parts if part.kind == "child" and part.child in own and part.factor == 1.0]
    return bool(added) and value.kind == "sum" and all(part in parts for part in _summands(stream))


def _number(value: Value) -> float | None:
    constant = value.constant
    return float(constant) if isinstance(constant, int | float) and not isinstance(constant, bool) else None


def _raises(body: list[ast.stmt]) -> bool:
    return bool(body) and isinstance(body[-1], ast.Raise)
