"""Turning a captured trace into bytes that a server without this package can run.

nnsight sends functions as source. Three things are added to that here: this package is sent by value although it is
installed, for the moment of sending alone; so is any function of yours whose module is not installed, wherever it
lies; and a function that a type checker has wrapped (jaxtyping's import hook wraps every one) is sent as it was
written, since the wrapper exists on no server. What has no source is refused: it would travel as bytecode, which only
the very Python that made it can read.
"""

from __future__ import annotations

import functools
import importlib
import inspect
import io
import sys
import sysconfig
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from types import FunctionType
from typing import Any

from nnsight.intervention.serialization import CustomCloudPickler, _load_function, reduce_block

from lostattn.errors import InputError

PACKAGE = "lostattn"


class Pickler(CustomCloudPickler):
    """nnsight's pickler, which sends this package's functions without what was wrapped around them."""

    def _function_reduce(self, obj: FunctionType) -> Any:
        return self._dynamic_function_reduce(obj) if is_yours(obj) else super()._function_reduce(obj)

    def _dynamic_function_reduce(self, func: FunctionType) -> Any:
        func = as_written(func)
        reduced = super()._dynamic_function_reduce(func)
        if reduced[0] is not _load_function:
            raise InputError(
                f"{func.__module__}.{func.__qualname__} has no source that could be sent (what @dataclass, namedtuple "
                "or exec make has none), and a service may run another Python, which cannot read this one's bytecode. "
                "Write it out as a function or a plain class, or send the values that it holds."
            )
        if func.__name__ != "<lambda>" and is_yours(func) and not _is_its_source(func, reduced):
            raise InputError(
                f"the source of {func.__qualname__} cannot be found where it was ({func.__code__.co_filename}, line "
                f"{func.__code__.co_firstlineno}): the file has changed since it was imported. Start a new process."
            )
        return reduced


def as_written(function: FunctionType) -> FunctionType:
    """A function of this package without the wrapper of a type checker; any other as it is."""
    if (function.__module__ or "").partition(".")[0] != PACKAGE:
        return function
    return inspect.unwrap(function)


def _is_its_source(function: FunctionType, reduced: Any) -> bool:
    """Whether what nnsight would send is the source of this function, and no other lines."""
    return f"def {function.__name__}(" in reduced[1][0]


def is_yours(function: FunctionType) -> bool:
    """Whether a function comes from a file that is part of no installation."""
    file = getattr(sys.modules.get(function.__module__ or ""), "__file__", None)
    return file is not None and not _is_installed(file)


@functools.cache
def _is_installed(file: str) -> bool:
    """Whether a file is part of an installation; asked for every function of every job, so answered once a file."""
    installed = (sysconfig.get_path(kind) for kind in ("stdlib", "platstdlib", "purelib", "platlib"))
    return any(Path(file).is_relative_to(path) for path in installed)


@contextmanager
def shipped_by_value() -> Iterator[None]:
    """While this is open, pickling takes this package's functions and classes along instead of naming them."""
    from cloudpickle import (  # type: ignore[import-untyped]
        list_registry_pickle_by_value,
        register_pickle_by_value,
        unregister_pickle_by_value,
    )

    package = importlib.import_module(PACKAGE)
    known = PACKAGE in list_registry_pickle_by_value()
    if not known:
        register_pickle_by_value(package)
    try:
        yield
    finally:
        if not known:
            unregister_pickle_by_value(package)


def packed_request(tracer: Any, compress: bool) -> bytes:
    """The request's payload: the tracer and its block's source with the values that the block reads."""
    from nnsight.ndif import pull_env

    pull_env()  # what lies beside the user's script travels by value, as nnsight has it
    frame = tracer.info.frame
    block = reduce_block(tracer.node, frame.f_globals, dict(frame.f_locals))
    buffer = io.BytesIO()
    with shipped_by_value():
        Pickler(buffer, protocol=4).dump((tracer, block))
    data = buffer.getvalue()
    if compress:
        import zstandard

        data = zstandard.ZstdCompressor(level=6).compress(data)
    return data
