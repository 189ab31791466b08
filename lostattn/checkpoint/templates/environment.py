"""The environment in which a checkpoint's chat template is rendered: jinja's sandbox, with an end to everything.

What a template has at transformers' hands it has here: the same settings, filters and functions. Beside that, each
step is charged to the rendering's :class:`Budget`, and what could make much of little (``"a" * 10**10``, a width, a
list that holds itself twice) is looked at before it is done.
"""

from __future__ import annotations

import functools
import json
import re
from collections.abc import Callable
from datetime import datetime
from typing import Any

import jinja2
from jinja2 import nodes, pass_context
from jinja2.ext import Extension, loopcontrols
from jinja2.runtime import Macro
from jinja2.sandbox import ImmutableSandboxedEnvironment
from jinja2.utils import Namespace

from lostattn.checkpoint.templates.budget import BITS, DEEPEST, Budget, TooMuch, current, measured
from lostattn.checkpoint.templates.methods import check_format, check_method, check_width, replaced_length
from lostattn.checkpoint.templates.syntax import Charging

LONGEST_SOURCE, MOST_PARTS = 1 << 17, 20_000  # characters of a template, and nodes of its syntax tree
WIDEST_INDENT = 16
LEFT_OUT = ("urlize", "xmlattr", "random", "striptags", "wordwrap")  # nothing that a prompt is made of
# What looks at the outside of a list alone, so that its inside need not be counted each time.
SHALLOW = {"length", "count", "first", "last", "default", "d", "list", "reverse", "select", "reject", "selectattr"}
SHALLOW |= {"rejectattr", "map", "items", "batch", "slice", "attr"}


class Bounded(ImmutableSandboxedEnvironment):
    """jinja's sandbox, in which everything is charged to the budget of the rendering."""

    intercepted_binops = frozenset({"+", "-", "*", "/", "//", "%", "**"})

    def __init__(self) -> None:
        super().__init__(
            trim_blocks=True,
            lstrip_blocks=True,
            optimized=False,  # folding constants would do their operations before there is anybody to count
            finalize=_finalize,
            extensions=[Generation, loopcontrols],
        )
        self.filters = {name: _bounded(name, made) for name, made in self.filters.items() if name not in LEFT_OUT}
        self.filters["tojson"] = _bounded("tojson", _tojson)
        self.globals = {
            **{name: self.globals[name] for name in ("range", "cycler", "joiner")},
            "dict": _made_dict,
            "namespace": PlainNamespace,
            "raise_exception": _raise_exception,
            "strftime_now": _strftime_now,
        }

    def _generate(self, source: nodes.Template, *arguments: Any, **keywords: Any) -> str:
        parts = sum(1 for _ in source.find_all(nodes.Node))
        if parts > MOST_PARTS:
            raise TooMuch(f"has {parts} parts, and up to {MOST_PARTS} are read")
        return super()._generate(Charging().visit(source), *arguments, **keywords)

    def charge(self, stands: int) -> None:
        """One turn of a loop or macro, in which so much text stands."""
        _budget().step(stands)

    def weigh(self, value: Any) -> Any:
        """A value that is about to be compared or hashed."""
        return _budget().weigh(value)

    def join(self, *values: Any) -> str:
        """``a ~ b``."""
        budget = _budget()
        budget.allow(sum(budget.allow(len(v)) if isinstance(v, str) else len(str(budget.weigh(v))) for v in values))
        return "".join(map(str, values))

    def getitem(self, obj: Any, argument: Any) -> Any:
        """A part of a value: a slice is a copy."""
        found = super().getitem(obj, argument)
        if isinstance(argument, slice) and isinstance(found, str | list | tuple):
            _budget().step(len(found))
        return found

    def wrap_str_format(self, value: Any) -> Callable[..., str] | None:
        """``str.format`` in the sandbox's way, with widths looked at."""
        formatting = super().wrap_str_format(value)
        if formatting is None:
            return None
        text, budget = str(value.__self__), _budget()

        @functools.wraps(formatting)
        def formatted(*arguments: Any, **keywords: Any) -> str:
            check_format(text, percent=False)
            size = sum(len(str(budget.weigh(one))) for one in (*arguments, *keywords.values()))
            budget.allow(len(text) + (text.count("{") + 1) * (size + 1))
            return formatting(*arguments, **keywords)

        return formatted

    def call_binop(self, context: Any, operator: str, left: Any, right: Any) -> Any:
        """An operation on two values, once what it makes is known to be of a size that can be."""
        budget = _budget()
        for text, times in ((left, right), (right, left)):
            if operator == "*" and isinstance(text, str | bytes | list | tuple) and isinstance(times, int):
                budget.allow(len(text) * max(0, times))
        if operator == "+" and isinstance(left, str | bytes | list | tuple) and isinstance(right, type(left) | str):
            budget.allow(len(left) + len(right))
        if operator == "%" and isinstance(left, str):
            check_format(left, percent=True)
            budget.allow(len(left) + (left.count("%") + 1) * (len(str(budget.weigh(right))) + 1))
        if isinstance(left, int) and isinstance(right, int):
            _check_digits(operator, left, right)
        budget.step()
        return super().call_binop(context, operator, left, right)

    def call(__self, __context: Any, __obj: Any, *args: Any, **kwargs: Any) -> Any:
        """A call of anything, which may call others in turn."""
        budget = _budget()
        budget.step()
        owner = getattr(__obj, "__self__", None)
        if owner is not None and owner is not __self:
            args = check_method(budget, owner, str(getattr(__obj, "__name__", "")), args, kwargs)
        elif owner is None and not isinstance(__obj, Macro):
            budget.weigh([*args, *kwargs.values()])
        budget.depth += 1
        try:
            if budget.depth > DEEPEST:
                raise TooMuch(f"calls itself more than {DEEPEST} deep")
            made = super().call(__context, __obj, *args, **kwargs)
        finally:
            budget.depth -= 1
        if isinstance(made, str | list | tuple):
            budget.allow(len(made))
        return made


class Generation(Extension):
    """transformers' tag around what the model says, which writes what stands in it."""

    tags = {"generation"}

    def parse(self, parser: Any) -> nodes.Node:
        """The tag and its body."""
        line = next(parser.stream).lineno
        return nodes.Scope(parser.parse_statements(("name:endgeneration",), drop_needle=True), lineno=line)


class PlainNamespace(Namespace):
    """A namespace of names that a template may have."""

    def __init__(*args: Any, **kwargs: Any) -> None:  # noqa: N805 (a template may call a name self)
        self, rest = args[0], args[1:]
        attributes = dict(*rest, **kwargs)
        for name in attributes:
            _check_name(name)
        Namespace.__init__(self, attributes)

    def __setitem__(self, name: str, value: Any) -> None:
        _check_name(name)
        super().__setitem__(name, value)


def _check_name(name: Any) -> None:
    if isinstance(name, str) and name.startswith("_"):
        raise jinja2.exceptions.SecurityError(f"stores {name!r} in a namespace; names begin with a letter")


def _budget() -> Budget:
    found = current()
    if found is None:
        raise TooMuch("is rendered outside of a budget")
    return found


@pass_context
def _finalize(context: Any, value: Any) -> Any:
    """A value that is written: as it is, once it is found to be of a size that can be."""
    if isinstance(value, str):
        _budget().allow(len(value))
        return value
    text = str(_budget().weigh(value))
    _budget().allow(len(text))
    return text


def _bounded(name: str, made: Callable[..., Any]) -> Callable[..., Any]:
    """A filter of jinja, whose arguments and result are charged."""
    wants = getattr(getattr(made, "jinja_pass_arg", None), "name", None)

    @pass_context
    @functools.wraps(made)
    def filtered(context: Any, value: Any, *arguments: Any, **keywords: Any) -> Any:
        budget = _budget()
        for one in (*arguments, *keywords.values()):
            check_width(budget.weigh(one))
        if isinstance(value, str):
            budget.allow(len(value))
        elif name not in SHALLOW:
            budget.weigh(value)
        if name == "join":
            value = list(value)  # which may come one by one
        _check_growth(budget, name, value, [*arguments, *keywords.values()])
        first = {None: [], "context": [context], "eval_context": [context.eval_ctx]}.get(wants, [context.environment])
        found = made(*first, value, *arguments, **keywords)
        if isinstance(found, str | list | tuple):
            budget.allow(len(found))
        return found

    return filtered


def _check_growth(budget: Budget, name: str, value: Any, arguments: list[Any]) -> None:
    """Filters that make much of little."""
    texts = [one for one in arguments if isinstance(one, str)]
    if name == "replace" and len(texts) >= 2:
        budget.allow(replaced_length(str(value), texts[0], texts[1]))
    elif name == "join":
        budget.allow(measured(value)[0] + len(value) * max(map(len, texts), default=0))
    elif name == "indent":
        budget.allow(len(str(value)) + (str(value).count("\n") + 1) * max(map(_width, arguments), default=0))
    elif name == "tojson" and any(_width(one) > WIDEST_INDENT for one in arguments):
        raise TooMuch(f"indents by more than {WIDEST_INDENT}")
    elif name == "format":
        check_format(str(value), percent=True)
        size = sum(len(str(one)) for one in arguments)
        budget.allow(len(str(value)) + (str(value).count("%") + 1) * (size + 1))


def _width(value: Any) -> int:
    return value if type(value) is int else len(value) if isinstance(value, str) else 0


def _check_digits(operator: str, left: int, right: int) -> None:
    """Refuse to make a number of thousands of digits."""
    bits = {"*": left.bit_length() + right.bit_length(), "**": left.bit_length() * max(0, right)}.get(operator, 0)
    if bits > BITS or max(left.bit_length(), right.bit_length()) > BITS:
        raise TooMuch(f"makes a number of more than {BITS} bits")


def _tojson(
    value: Any, ensure_ascii: bool = False, indent: Any = None, separators: Any = None, sort_keys: bool = False
) -> str:
    # As transformers has it: jinja's own would escape what means something in HTML.
    return json.dumps(value, ensure_ascii=ensure_ascii, indent=indent, separators=separators, sort_keys=sort_keys)


def _raise_exception(message: Any) -> None:
    raise jinja2.exceptions.TemplateError(str(message)[:500])


def _made_dict(*arguments: Any, **keywords: Any) -> dict[Any, Any]:
    return dict(*arguments, **keywords)


def _strftime_now(layout: Any) -> str:
    if not isinstance(layout, str) or len(layout) > 200 or re.search(r"%[^a-zA-Z%]*\d{3,}", layout):
        raise TooMuch("asks for the time in a layout that is none")
    return datetime.now().strftime(layout)


@functools.lru_cache(16)
def compiled(source: str) -> jinja2.Template:
    """A template, ready to be rendered within a :func:`budget`.

    Raises:
        TooMuch: it is longer than a template is.
        TemplateError: it is none.
    """
    if len(source) > LONGEST_SOURCE:
        raise TooMuch(f"has {len(source)} characters, and up to {LONGEST_SOURCE} are read")
    return Bounded().from_string(source)
