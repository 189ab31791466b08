"""Plain values from pickled bytes, read by a machine that can build plain values and nothing else.

``pickle`` runs what a file tells it to run. Here its instructions are walked one by one: those that make numbers,
texts, lists, dicts and the like are obeyed, and a call is obeyed only where it makes a tensor or another plain value of
a fixed list. Nothing is imported, no method of anything is called and no attribute is set, whatever the bytes say.
"""

from __future__ import annotations

import io
import pickletools
import warnings
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

MOST = 2_000_000  # instructions of one pickle, each of which makes one value at the most
MOST_MADE = 1 << 28  # bytes and values that calls are given, together: each may copy what it is given
DEEPEST = 64  # lists within lists
WIDEST = 1 << 63  # whole numbers are smaller than this


class Refused(ValueError):
    """The bytes hold something that is no plain value, or are no pickle at all; the message says what."""


@dataclass(frozen=True)
class Name:
    """A class or function that the bytes name: compared with the ones that are known, and never looked up."""

    module: str
    name: str

    def __str__(self) -> str:
        return f"{self.module}.{self.name}"[:200]


Maker = Callable[..., Any]
_MARK = object()
_COPIED = (str, bytes, bytearray, list, tuple, dict, set, frozenset)


def plain_value(
    data: bytes, makers: Mapping[Name, Maker], constants: Mapping[Name, Any], stored: Callable[[Any], Any]
) -> Any:
    """The value that the bytes hold.

    Args:
        data: a pickle of protocol 2 to 5.
        makers: what may be called, by the name that a pickle gives it. Each checks its own arguments.
        constants: what may stand for itself, such as a dtype.
        stored: what stands for something that is stored beside the pickle, from the name that the pickle gives it.

    Raises:
        Refused: the bytes hold anything else.
    """
    machine = _Machine(makers, constants, stored)
    try:
        # A wrong escape in a text is a warning of Python's own; it must not become what comes out of here.
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", DeprecationWarning)
            for count, (code, argument, _) in enumerate(pickletools.genops(io.BytesIO(data))):
                if count >= MOST:
                    raise Refused(f"more than {MOST} values")
                machine.obey(code.name, argument)
    except (IndexError, UnicodeDecodeError, OverflowError) as error:
        raise Refused(f"what is no pickle ({error})") from error
    except Refused:
        raise
    except ValueError as error:  # genops: cut short, or no instruction of a pickle
        raise Refused(f"what is no pickle ({str(error)[:200]})") from error
    found = machine.found()
    check_plain(found)
    return found


class _Machine:
    """The stack and the memory of a pickle that is being read."""

    def __init__(
        self, makers: Mapping[Name, Maker], constants: Mapping[Name, Any], stored: Callable[[Any], Any]
    ) -> None:
        self.makers = makers
        self.constants = constants
        self.stored = stored
        self.made = 0
        self.stack: list[Any] = []
        self.memory: dict[int, Any] = {}

    def found(self) -> Any:
        """What stands on the stack at the end."""
        if len(self.stack) != 1:
            raise Refused("what is no pickle (it ends in the middle)")
        return self.stack[0]

    def obey(self, code: str, argument: Any) -> None:
        """Carry out one instruction.

        Raises:
            Refused: it is none of those that make plain values.
        """
        if code in _CONSTANTS:
            self.stack.append(_CONSTANTS[code])
        elif code in _LITERALS:
            self.stack.append(_checked_number(argument) if isinstance(argument, int) else argument)
        elif code in _EMPTY:
            self.stack.append(_EMPTY[code]())
        elif code in _SHORT_TUPLES:
            n = _SHORT_TUPLES[code]
            if len(self.stack) < n:
                raise Refused("what is no pickle (a tuple of nothing)")
            self.stack[len(self.stack) - n :] = [tuple(self.stack[len(self.stack) - n :])]
        elif code in _OBEYED:
            _OBEYED[code](self, argument)
        elif code not in ("PROTO", "FRAME", "STOP"):
            raise Refused(f"an instruction of pickle that makes no plain value ({code})")

    def to_mark(self) -> list[Any]:
        """Everything above the last mark; the mark goes too."""
        for i in range(len(self.stack) - 1, -1, -1):
            if self.stack[i] is _MARK:
                above = self.stack[i + 1 :]
                del self.stack[i:]
                return above
        raise Refused("what is no pickle (a mark is missing)")

    def mark(self, _: Any) -> None:
        self.stack.append(_MARK)

    def make_tuple(self, _: Any) -> None:
        self.stack.append(tuple(self.to_mark()))

    def append(self, _: Any) -> None:
        value = self.stack.pop()
        self._held(list).append(value)

    def appends(self, _: Any) -> None:
        values = self.to_mark()
        self._held(list).extend(values)

    def set_item(self, _: Any) -> None:
        value, key = self.stack.pop(), self.stack.pop()
        self._held(dict)[_checked_key(key)] = value

    def set_items(self, _: Any) -> None:
        items = self.to_mark()
        if len(items) % 2:
            raise Refused("what is no pickle (a key without a value)")
        self._held(dict).update((_checked_key(key), value) for key, value in zip(items[::2], items[1::2], strict=True))

    def add_items(self, _: Any) -> None:
        items = self.to_mark()
        self._held(set).update(map(_checked_key, items))

    def frozen_set(self, _: Any) -> None:
        self.stack.append(frozenset(map(_checked_key, self.to_mark())))

    def pop(self, _: Any) -> None:
        self.stack.pop()

    def pop_mark(self, _: Any) -> None:
        self.to_mark()

    def put(self, index: int) -> None:
        self.memory[index] = self.stack[-1]

    def memoize(self, _: Any) -> None:
        self.memory[len(self.memory)] = self.stack[-1]

    def get(self, index: int) -> None:
        if index not in self.memory:
            raise Refused("what is no pickle (it repeats a value that it never had)")
        self.stack.append(self.memory[index])

    def named(self, argument: str) -> None:
        module, _, name = argument.partition(" ")
        self._push_named(Name(module, name))

    def named_from_stack(self, _: Any) -> None:
        name, module = self.stack.pop(), self.stack.pop()
        if not (isinstance(name, str) and isinstance(module, str)):
            raise Refused("what is no pickle (a name that is no text)")
        self._push_named(Name(module, name))

    def _push_named(self, name: Name) -> None:
        self.stack.append(self.constants.get(name, name))

    def call(self, _: Any) -> None:
        arguments, called = self.stack.pop(), self.stack.pop()
        if not isinstance(called, Name) or called not in self.makers:
            told = str(called) if isinstance(called, Name) else type(called).__name__
            raise Refused(f"a call of {told}, which makes no plain value")
        if not isinstance(arguments, tuple):
            raise Refused(f"a call of {called} without arguments")
        self.made += sum(len(one) for one in arguments if isinstance(one, _COPIED))
        if self.made > MOST_MADE:
            raise Refused(f"calls that copy more than {MOST_MADE >> 20} MiB")
        try:
            self.stack.append(self.makers[called](*arguments))
        except (TypeError, RuntimeError, OverflowError) as error:
            raise Refused(f"a call of {called} that cannot be meant ({str(error)[:200]})") from error

    def fetch(self, _: Any) -> None:
        self.stack.append(self.stored(self.stack.pop()))

    def _held(self, kind: type) -> Any:
        """The collection on top of the stack; calls make tensors of their own, so nothing else is ever added to."""
        held = self.stack[-1]
        if type(held) is not kind:
            raise Refused(f"what is no pickle (values are added to a {type(held).__name__})")
        return held


_CONSTANTS = {"NONE": None, "NEWTRUE": True, "NEWFALSE": False}
_LITERALS = {
    *("INT", "BININT", "BININT1", "BININT2", "LONG", "LONG1", "LONG4", "FLOAT", "BINFLOAT"),
    *("UNICODE", "BINUNICODE", "SHORT_BINUNICODE", "BINUNICODE8"),
    *("BINBYTES", "SHORT_BINBYTES", "BINBYTES8", "BYTEARRAY8"),
}
_EMPTY: dict[str, Callable[[], Any]] = {"EMPTY_LIST": list, "EMPTY_DICT": dict, "EMPTY_SET": set, "EMPTY_TUPLE": tuple}
_SHORT_TUPLES = {"TUPLE1": 1, "TUPLE2": 2, "TUPLE3": 3}
_OBEYED: dict[str, Callable[[_Machine, Any], None]] = {
    "MARK": _Machine.mark,
    "TUPLE": _Machine.make_tuple,
    "APPEND": _Machine.append,
    "APPENDS": _Machine.appends,
    "SETITEM": _Machine.set_item,
    "SETITEMS": _Machine.set_items,
    "ADDITEMS": _Machine.add_items,
    "FROZENSET": _Machine.frozen_set,
    "POP": _Machine.pop,
    "POP_MARK": _Machine.pop_mark,
    "MEMOIZE": _Machine.memoize,
    "GLOBAL": _Machine.named,
    "STACK_GLOBAL": _Machine.named_from_stack,
    "REDUCE": _Machine.call,
    "BINPERSID": _Machine.fetch,
    **dict.fromkeys(("PUT", "BINPUT", "LONG_BINPUT"), _Machine.put),
    **dict.fromkeys(("GET", "BINGET", "LONG_BINGET"), _Machine.get),
}


def _checked_number(value: int) -> int:
    """A whole number that a computer counts with: with others a file could make comparing keys take for ever."""
    if not -WIDEST <= value < WIDEST:
        raise Refused("a whole number of more than 64 bits")
    return value


def _checked_key(key: Any) -> Any:
    """What may stand as a key or in a set: a text or number, or a few of them; hashing others may take for ever."""
    parts = key if isinstance(key, tuple) and len(key) <= DEEPEST else (key,)
    if not all(part is None or isinstance(part, str | bytes | int | float) for part in parts):
        raise Refused(f"a key that is a {type(key).__name__}; keys are texts and numbers")
    return key


def check_plain(value: Any) -> None:
    """Refuse what is left unfinished, and what is so deep or shared so often that looking at it would never end.

    Raises:
        Refused: with what it is.
    """
    todo: list[tuple[Any, int]] = [(value, 0)]
    seen = 0
    while todo:
        one, depth = todo.pop()
        seen += 1
        if depth > DEEPEST:
            raise Refused(f"values within values, more than {DEEPEST} deep")
        if seen > MOST:
            raise Refused(f"more than {MOST} values")
        if isinstance(one, Name):
            raise Refused(f"{one}, which is no plain value")
        if one is _MARK:
            raise Refused("what is no pickle (a mark is left)")
        if isinstance(one, dict):
            todo += [(part, depth + 1) for part in one.values()]
        elif isinstance(one, list | tuple | set | frozenset):
            todo += [(part, depth + 1) for part in one]
