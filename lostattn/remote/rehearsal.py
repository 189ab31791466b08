"""``remote="local"``: the whole way of a remote call, in this process.

The trace is serialized as for a server, rebuilt while this package and the type checkers cannot be imported, run as
the server runs it (the rebuilt copy, not the caller's objects), and its result saved and loaded again. It is stricter
than nnsight's own simulation, which runs the caller's own objects. What it cannot show: another Python, other
versions, a sandbox without weights.
"""

from __future__ import annotations

import importlib.abc
import io
import linecache
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import torch
from nnsight.tracing.backend import Backend
from nnsight.tracing.globals import BLOCKS, SOURCES
from nnsight.tracing.tracer import _saves, dec, inc, mark
from nnsight.tracing.util import push

from lostattn.remote.results import read_result
from lostattn.remote.shipping import PACKAGE, packed_request

# Of what this package stands on, what a server does not have.
ABSENT = (PACKAGE, "jaxtyping", "beartype", "transformer_lens", "circuitsvis")


class Rehearsal(Backend):
    """Runs a captured trace as a server would; ``sent`` and ``received`` count the bytes, compressed as they travel."""

    def __init__(self, model: Any) -> None:
        self.model = model
        self.sent = 0
        self.received = 0

    def __call__(self, tracer: Any) -> None:
        """Send, run and bring back."""
        import zstandard
        from nnsight.schema.request import RequestModel

        blob = packed_request(tracer, compress=True)
        self.sent = len(blob)
        with sources_kept(), classes_apart(), absent(ABSENT):
            there = RequestModel.deserialize(blob, self.model._remoteable_persistent_objects(), compress=True)
            result = execute_trace(there)
        self.received = len(zstandard.ZstdCompressor(level=3).compress(result))
        values = read_result(result, False, "the rehearsal")
        for value in values.values():
            mark(value)  # an enclosing trace lets only marked values through
        push(tracer.info.frame, values)


def execute_trace(tracer: Any) -> bytes:
    """Run a rebuilt trace and save what its block marked, as a server does."""
    inc()
    try:
        tracer.execute(tracer.info.code)
        saved = {name: value for name, value in tracer.info.frame.f_locals.items() if id(value) in _saves()}
    finally:
        dec()
    buffer = io.BytesIO()
    torch.save(saved, buffer)
    return buffer.getvalue()


@contextmanager
def sources_kept() -> Iterator[None]:
    """Undo what rebuilding a block leaves in the caches of source text, which are shared by the whole process."""
    kept = [(cache, dict(cache)) for cache in (linecache.cache, SOURCES, BLOCKS)]
    try:
        yield
    finally:
        for cache, before in kept:
            cache.clear()
            cache.update(before)


@contextmanager
def classes_apart() -> Iterator[None]:
    """While this is open, a class that was sent is built anew.

    cloudpickle would find that this process has it already, and put the rebuilt methods into the caller's own class.
    """
    from cloudpickle import cloudpickle  # type: ignore[import-untyped]

    known = cloudpickle._DYNAMIC_CLASS_TRACKER_BY_ID
    before = dict(known)
    known.clear()
    try:
        yield
    finally:
        known.clear()
        known.update(before)


class _Refusing(importlib.abc.MetaPathFinder):
    def __init__(self, packages: Sequence[str]) -> None:
        self.packages = packages

    def find_spec(self, name: str, path: Any = None, target: Any = None) -> None:
        """Refuse the packages, and leave every other name to the finders that follow."""
        if name.partition(".")[0] in self.packages:
            raise ModuleNotFoundError(f"No module named {name!r} where the trace runs.", name=name)


@contextmanager
def absent(packages: Sequence[str]) -> Iterator[None]:
    """While this is open, the packages cannot be imported, as if they were not installed."""
    hidden = {name: module for name, module in sys.modules.items() if name.partition(".")[0] in packages}
    refusing = _Refusing(packages)
    for name in hidden:
        del sys.modules[name]
    sys.meta_path.insert(0, refusing)
    try:
        yield
    finally:
        sys.meta_path.remove(refusing)
        sys.modules.update(hidden)
