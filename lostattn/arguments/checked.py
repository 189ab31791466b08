"""The decorator that holds the arguments of public functions and classes to their signatures."""

from __future__ import annotations

import functools
import inspect
from collections.abc import Callable
from dataclasses import replace
from typing import Any, NoReturn, TypeVar

import numpy as np
from torch import Tensor

from lostattn.arguments.annotations import annotation_of, kind_of
from lostattn.arguments.described import described
from lostattn.arguments.kinds import SANE, SANE_OR_ELSEWHERE, Kind
from lostattn.arguments.tensors import disagreement
from lostattn.errors import InputError, UnknownArgument, nearest

T = TypeVar("T")
MAGIC = ("__init__", "__getitem__", "__call__")


def checked_call(target: T) -> T:
    """A function, or a class with its public methods, that refuses arguments which its annotations do not allow.

    Raises (when it is called):
        InputError: an argument of another kind; the message says what was received and what was expected.
        UnknownArgument: a keyword that it does not take, with the nearest that it does.
    """
    if isinstance(target, type):
        for name, member in list(vars(target).items()):
            if name in MAGIC or not name.startswith("_"):
                # A value that looks at its own fields says more of them than annotations do.
                held = _checked_member(member, name == "__init__" and "__post_init__" in vars(target))
                if held is not member:
                    setattr(target, name, held)
        return target
    return _checked_function(target)  # type: ignore[return-value, arg-type]


def check_handed_on(keywords: dict[str, Any], function: Callable[..., Any]) -> None:
    """Refuse keywords that the function which they are handed on to does not take, before anything else is done.

    Raises:
        UnknownArgument: with the nearest that it does.
    """
    known = list(inspect.signature(function).parameters)
    for name in keywords:
        if name not in known:
            _refuse_name(function.__qualname__, name, known)


def check_fields(value: Any, *names: str) -> None:
    """Hold fields of a dataclass to their annotations, from its ``__post_init__``.

    Raises:
        InputError: a field of another kind.
    """
    kinds = _kinds_of_fields(vars(type(value))["__init__"])
    for name in names:
        kind, given = kinds[name], getattr(value, name)
        if kind is not None and not kind.fits(given):
            _refuse(name, given, kind)


@functools.cache
def _kinds_of_fields(made_by: Callable[..., Any]) -> dict[str, Kind | None]:
    return _Signature(inspect.unwrap(made_by), False).kinds


def _checked_member(member: Any, names_alone: bool) -> Any:
    if isinstance(member, classmethod | staticmethod):
        return type(member)(_checked_function(member.__func__))
    return _checked_function(member, names_alone) if inspect.isfunction(member) else member


def _checked_function(function: Callable[..., Any], names_alone: bool = False) -> Callable[..., Any]:
    held: list[_Signature] = []  # read at the first call: what annotations name may be imported later than this

    @functools.wraps(function)
    def call(*arguments: Any, **keywords: Any) -> Any:
        if not held:
            held.append(_Signature(function, names_alone))
        signature = held[0]
        for value, fits in zip(arguments, signature.fits, strict=False):
            if fits is not None and not fits(value):
                signature.refuse(arguments, keywords)
        if signature.rest is not None and len(arguments) > len(signature.fits):
            signature.check_rest(arguments)
        for name, value in keywords.items():
            fits = signature.by_name.get(name, _takes_nothing)
            if fits is not None and not fits(value):
                signature.refuse(arguments, keywords)
        if signature.tensors:
            signature.check_together(arguments, keywords)
        return function(*arguments, **keywords)

    call.__checked__ = True  # type: ignore[attr-defined]
    return call


def _takes_nothing(_: Any) -> bool:
    """The kind of a keyword that there is not."""
    return False


class _Signature:
    """What a function takes: a kind for each parameter."""

    def __init__(self, function: Callable[..., Any], names_alone: bool) -> None:
        self.name = function.__qualname__.removesuffix(".__init__")
        parameters = inspect.signature(function).parameters.values()
        self.kinds: dict[str, Kind | None] = {}
        self.positional: list[str] = []
        self.rest: Kind | None = None
        self.open = False
        for one in parameters:
            kind = None if names_alone else kind_of(annotation_of(one, function.__module__))
            if kind is None and one.name not in ("self", "cls"):
                kind = SANE_OR_ELSEWHERE if names_alone else SANE
            if one.kind is one.VAR_POSITIONAL:
                self.rest = kind
                continue
            if one.kind is one.VAR_KEYWORD:
                self.open = True
                continue
            if kind is not None and one.default is not one.empty and not kind.fits(one.default):
                kind = _or_default(kind, one.default)
            self.kinds[one.name] = kind
            if one.kind is not one.KEYWORD_ONLY:
                self.positional.append(one.name)
        self.by_name: Any = {name: None if kind is None else kind.fits for name, kind in self.kinds.items()}
        self.fits = [self.by_name[name] for name in self.positional]
        if self.open:
            self.by_name = _Open(self.by_name)
        of_tensors = [name for name, kind in self.kinds.items() if kind is not None and kind.axes is not None]
        self.tensors = of_tensors if len(of_tensors) > 1 else []

    def refuse(self, arguments: tuple[Any, ...], keywords: dict[str, Any]) -> None:
        """Say which argument is wrong, and how."""
        for name in keywords:
            if name not in self.kinds and not self.open:
                _refuse_name(self.name, name, [one for one in self.kinds if one not in ("self", "cls")])
        for name, value in (*zip(self.positional, arguments, strict=False), *keywords.items()):
            kind = self.kinds.get(name)
            if kind is not None and not kind.fits(value):
                _refuse(name, value, kind)

    def check_rest(self, arguments: tuple[Any, ...]) -> None:
        """Check what ``*rest`` takes."""
        kind = self.rest
        for i, value in enumerate(arguments[len(self.positional) :]):
            if kind is not None and not kind.fits(value):
                _refuse(f"argument {i + 1} of {self.name}", value, kind)

    def check_together(self, arguments: tuple[Any, ...], keywords: dict[str, Any]) -> None:
        """Check that tensors of one call go together."""
        by_name = {**dict(zip(self.positional, arguments, strict=False)), **keywords}
        given = [
            (name, value, kind)
            for name in self.tensors
            if (value := by_name.get(name)) is not None and (kind := self.kinds[name]) is not None
        ]
        wrong = disagreement(given) if len(given) > 1 else None
        if wrong is not None:
            raise InputError(wrong)


class _Open(dict[str, Any]):
    """The kinds of a function that takes any further keyword."""

    def get(self, name: str, default: Any = None) -> Any:
        return super().get(name)


def _or_default(kind: Kind, default: Any) -> Kind:
    return replace(kind, fits=lambda v: v is default or kind.fits(v))


def _refuse_name(function: str, name: str, known: list[str]) -> NoReturn:
    said = f"{function} takes no argument {name!r}; expected {', '.join(known) or 'none'}."
    raise UnknownArgument(said + nearest(name, known))


def _refuse(name: str, value: Any, kind: Kind) -> NoReturn:
    if kind.parts is not None:
        for place, part, inner in kind.parts(value):
            if not inner.fits(part):
                _refuse(f"{name}{place}", part, inner)
    near = nearest(value, kind.known) if isinstance(value, str) and kind.known else ""
    raise InputError(f"{name} is {described(value)}; expected {kind.told}.{near}{_hint(name, value, kind)}")


def _hint(name: str, value: Any, kind: Kind) -> str:
    """How to make the value what was expected, where that is plain."""
    if isinstance(value, np.ndarray) and "tensor" in kind.told:
        return f" Make it a tensor: torch.from_numpy({name})."
    if isinstance(value, Tensor) and "floating-point tensor" in kind.told and not value.is_floating_point():
        return f" Convert it: {name}.float()."
    if isinstance(value, str) and kind.told.startswith("a list"):
        return f" Put it in a list: [{described(value)}]."
    if isinstance(value, list) and kind.told.startswith("a tuple"):
        return f" Make it a tuple: tuple({name})."
    if isinstance(value, bytes) and ("a str" in kind.told or "a path" in kind.told):
        return " Decode it: os.fsdecode(…)."
    return ""
