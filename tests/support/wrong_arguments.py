"""Every public callable called with one wrong argument at a time, and what came of it.

The cases are generated: the callables from the names that the package exports, the parameters from their signatures,
the values from a list of what people pass by mistake and from the right value bent out of shape. Run as a script, in a
process without the type checks of the tests, it prints the table::

    python tests/support/wrong_arguments.py                 # all of them
    python tests/support/wrong_arguments.py metrics data    # those whose names begin so
    python tests/support/wrong_arguments.py --every=9       # every ninth
"""

from __future__ import annotations

import functools
import inspect
import itertools
import os
import re
import signal
import sys
import tempfile
import warnings
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import right_arguments
import wrong_values
from meant_arguments import meant

LONGEST = 20  # seconds a case may take before it counts as one that never ends


RIGHT = "right arguments"
_PYTHONS_OWN = re.compile(r"unexpected keyword|positional argument|takes no arguments|multiple values")


@dataclass(frozen=True)
class Call:
    """One call to be made: with right arguments, or with one that is wrong."""

    name: str
    function: Any
    call: Any
    arguments: dict[str, Any]
    parameter: str
    what: str
    given: inspect.Parameter | None = None


@dataclass(frozen=True)
class Case:
    """One call that went wrong, or did not."""

    callable: str
    parameter: str
    what: str
    outcome: str  # "toolkit", "python", "meant", "raw", "silent"
    said: str


def callables() -> dict[str, Any]:
    """Every public function, class and method of the package, by its name from ``la`` on."""
    import lostattn

    found: dict[str, Any] = {}
    _members("", lostattn, found, set())
    return found


def _members(path: str, module: Any, found: dict[str, Any], seen: set[Any]) -> None:
    names = getattr(module, "__all__", None)
    if names is None:
        own = (n for n, v in vars(module).items() if getattr(v, "__module__", "") == module.__name__)
        names = [name for name in own if not name.startswith("_")]
    for name in sorted(names):
        value = getattr(module, name)
        if inspect.ismodule(value):
            if value.__name__ not in seen:
                seen.add(value.__name__)
                _members(f"{path}{name}.", value, found, seen)
        elif callable(value) and id(value) not in seen:
            seen.add(id(value))
            if not (isinstance(value, type) and issubclass(value, Exception)):
                found[path + name] = value
            if isinstance(value, type):
                _methods(f"{path}{name}", value, found, seen)


def _methods(path: str, kind: type, found: dict[str, Any], seen: set[Any]) -> None:
    if issubclass(kind, Exception):
        return
    for base in reversed(kind.__mro__):
        if not base.__module__.startswith("lostattn"):
            continue
        for name, member in vars(base).items():
            if name in ("__getitem__", "__call__") or not name.startswith("_"):
                if isinstance(member, classmethod | staticmethod) or inspect.isfunction(member):
                    found[f"{path}.{name}"] = getattr(kind, name)


def cases(name: str, function: Any, world: right_arguments.World) -> Iterator[Call]:
    """The calls with right arguments, and with one wrong one each."""
    signature = inspect.signature(function)
    parameters = [p for p in signature.parameters.values() if p.name not in ("self", "cls")]
    try:
        call = world.bound(name, function)
    except Exception as error:  # of an owner that could not be made: the table shows it, and goes on
        yield Call(name, function, functools.partial(_raised, error), {}, "", RIGHT)
        return
    if call is None:
        return
    right = world.arguments(name, parameters)
    yield Call(name, function, call, right, "", RIGHT)
    for unknown in ("no_such_argument", *(p.name[:-1] + "_" for p in parameters[:1] if len(p.name) > 3)):
        yield Call(name, function, call, right | {unknown: 1}, unknown, "an unknown keyword")
    for parameter in parameters:
        if parameter.kind in (parameter.VAR_KEYWORD, parameter.VAR_POSITIONAL):
            continue
        for what, value in wrong_values.of(world.value(name, parameter)):
            yield Call(name, function, call, right | {parameter.name: value}, parameter.name, what, parameter)


def outcome_of(call: Call, world: right_arguments.World) -> Case:
    """Make a call, and say what came of it."""
    from lostattn.errors import LostAttnError

    signal.signal(signal.SIGALRM, _too_long)
    signal.alarm(LONGEST)
    try:
        with warnings.catch_warnings(), world.no_pass(call.name):
            warnings.simplefilter("ignore")
            outcome, said = "silent", type(call.call(**call.arguments)).__name__
    except right_arguments.Taken:
        outcome, said = "silent", "led to a pass"
    except LostAttnError as error:
        outcome, said = "toolkit" if 20 < len(str(error)) < 1500 else "raw", str(error)
    except TypeError as error:
        outcome, said = "python" if _PYTHONS_OWN.search(str(error)) else "raw", repr(error)
    except BaseException as error:
        outcome, said = "raw", repr(error)
    finally:
        signal.alarm(0)
    if call.what == RIGHT:
        outcome = "meant" if outcome == "silent" else "raw"
    elif outcome == "silent" and meant(call.name, call.function, call.what, call.arguments[call.parameter], call.given):
        outcome = "meant"
    return Case(call.name, call.parameter, call.what, outcome, said[:300])


def _raised(error: Exception) -> None:
    raise error


def _too_long(*_: Any) -> None:
    raise TimeoutError(f"had not ended after {LONGEST} seconds")


def run(prefixes: list[str], every: int = 1) -> list[Case]:
    """What comes of every so-manyth call of the callables whose names begin so; of all where none is given."""
    world = right_arguments.World()
    out: list[Case] = []
    here = os.getcwd()
    with tempfile.TemporaryDirectory() as folder:
        os.chdir(folder)
        try:
            calls = (
                call
                for name, function in callables().items()
                if not prefixes or any(name == p or name.startswith(f"{p}.") for p in prefixes)
                for call in cases(name, function, world)
            )
            out = [outcome_of(call, world) for call in itertools.islice(calls, 0, None, every)]
        finally:
            os.chdir(here)
    return out


def table(found: list[Case]) -> str:
    """One line a callable: how many cases there were, and what came of them."""
    outcomes = ("toolkit", "python", "meant", "raw", "silent")
    counts: dict[str, Counter[str]] = {}
    for case in found:
        counts.setdefault(case.callable, Counter())[case.outcome] += 1
    lines = [f"{'callable':44} {'cases':>6} " + " ".join(f"{o:>8}" for o in outcomes)]
    for name, count in [*counts.items(), ("all", sum(counts.values(), Counter()))]:
        lines.append(f"{name:44} {count.total():6} " + " ".join(f"{count[o]:8}" for o in outcomes))
    return "\n".join(lines)


if __name__ == "__main__":
    asked = [a for a in sys.argv[1:] if not a.startswith("--")]
    steps = [int(a.removeprefix("--every=")) for a in sys.argv[1:] if a.startswith("--every=")]
    found = run(asked, *steps)
    print(table(found))
    for case in found:
        if case.outcome in ("raw", "silent"):
            print(f"{case.outcome:6} {case.callable}({case.parameter}= {case.what}): {case.said}")
