"""Annotations as they stand in a signature, read as kinds of arguments."""

from __future__ import annotations

import builtins
import collections.abc
import importlib
import inspect
import os
import re
import sys
import types
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Annotated, Any, Literal, TypeVar, Union, get_args, get_origin

import torch

from lostattn.arguments import kinds
from lostattn.arguments.kinds import Kind
from lostattn.arguments.tensors import tensor_kind

_DOTTED = re.compile(r"\b([a-z_]\w*(?:\.[a-z_]\w*)*)\.[A-Z]\w*")


def annotation_of(parameter: inspect.Parameter, module: str) -> Any:
    """A parameter's annotation, which a module writes as text; ``Any`` where it names what checkers alone know."""
    written = parameter.annotation
    if written is inspect.Parameter.empty:
        return Any
    written = getattr(written, "__forward_arg__", written)
    if not isinstance(written, str):
        return written
    names = {**vars(builtins), **vars(sys.modules[module])}
    for path in _DOTTED.findall(written):
        if path.partition(".")[0] not in vars(sys.modules[module]):  # imported for checkers of types alone
            importlib.import_module(path)
            names[path.partition(".")[0]] = sys.modules[path.partition(".")[0]]
    try:
        return eval(written, names)
    except NameError:
        return Any


def kind_of(annotation: Any) -> Kind | None:
    """What an annotation asks of a value; ``None`` where that is nothing."""
    if annotation in (Any, object) or isinstance(annotation, TypeVar):
        return None
    if annotation is None:
        annotation = type(None)
    origin = get_origin(annotation)
    if origin in (Union, types.UnionType):
        return _union(get_args(annotation))
    if origin is Annotated:
        base, *metadata = get_args(annotation)
        return kinds.limited(kind_of(base), metadata)
    if origin is Literal:
        return _literal(get_args(annotation))
    if origin is not None:
        return _generic(origin, get_args(annotation))
    if hasattr(annotation, "dim_str"):
        return tensor_kind(annotation)
    return _plain(annotation)


def _plain(annotation: Any) -> Kind | None:
    """A class without arguments."""
    if annotation in kinds.PLAIN:
        return kinds.PLAIN[annotation]
    if not isinstance(annotation, type):
        return None
    if annotation is collections.abc.Callable or annotation in _CONTAINERS or issubclass(annotation, Mapping):
        return _generic(annotation, ())
    if getattr(annotation, "_is_protocol", False) and not getattr(annotation, "_is_runtime_protocol", False):
        return None
    article = "an" if annotation.__name__[0] in "AEIOU" else "a"
    told = vars(annotation).get("EXPECTED", f"{article} {annotation.__name__}")
    return Kind(lambda v: isinstance(v, annotation), told)


def _union(members: tuple[Any, ...]) -> Kind | None:
    found = [kind_of(member) for member in members]
    known = [kind for kind in found if kind is not None]
    if len(known) < len(found):
        return None  # one of them takes everything
    if torch.device in members:
        known = [kind for kind in known if kind is not kinds.PLAIN[str]]
    if any(member is Path or get_origin(member) is os.PathLike for member in members):
        known = [kind for kind in known if kind not in (kinds.PLAIN[str], kinds.PLAIN[Path])] + [kinds.PATH]
    return kinds.union(known)


def _literal(values: tuple[Any, ...]) -> Kind:
    told = f"one of {', '.join(map(repr, values))}"
    known = tuple(value for value in values if isinstance(value, str))
    return Kind(lambda v: any(type(v) is type(one) and v == one for one in values), told, known=known)


def _generic(origin: Any, arguments: tuple[Any, ...]) -> Kind | None:
    """A container, a function, a class of things."""
    if origin is collections.abc.Callable:
        return kinds.function(len(arguments[0]) if arguments and isinstance(arguments[0], list) else None)
    if origin is os.PathLike:
        return kinds.PATH
    if origin is type:
        return Kind(lambda v: isinstance(v, type), "a class")
    inner = [kind_of(one) for one in arguments if one is not Ellipsis]
    if origin is tuple and arguments and Ellipsis not in arguments:
        return kinds.row(inner)
    if isinstance(origin, type) and issubclass(origin, Mapping):
        key, value = inner if len(inner) == 2 else (None, None)
        return kinds.mapping(origin, key, value)
    if isinstance(origin, type) and issubclass(origin, collections.abc.Iterable):
        return kinds.sequence(origin, _CONTAINERS.get(origin, "several"), inner[0] if inner else None)
    return Kind(lambda v: isinstance(v, origin), f"a {origin.__name__}")


_CONTAINERS: dict[Callable[..., Any], str] = {
    list: "a list",
    tuple: "a tuple",
    set: "a set",
    collections.abc.Sequence: "a list",
    collections.abc.Iterable: "a list",
    collections.abc.Collection: "a list",
}
