"""What a caller's own hook raises inside a pass, told by the caller's line rather than by the frames around it."""

from __future__ import annotations

import inspect
import linecache
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from types import TracebackType

from lostattn.errors import HookFailed
from lostattn.kernels.edits import call_hook

# What goes wrong by itself. An exception of a class of the caller's own is meant to come out, and does, as it is.
_ACCIDENTS = ("builtins", "torch", "numpy", "einops", "jaxtyping")


@contextmanager
def hook_errors() -> Iterator[None]:
    """While this is open, an error inside a hook of the caller's comes out with the hook's own frames alone.

    Raises:
        HookFailed: a hook failed, or returned what is no new value; the message says in which line. What it raised is
            the cause, so that its lines stand first in the traceback.
    """
    try:
        yield
    except Exception as error:
        found = _of_hook(error.__traceback__)
        if found is None or type(error).__module__.partition(".")[0] not in _ACCIDENTS:
            raise
        hook, function, own = found
        error.__traceback__, error.__context__ = own, None
        if own is None:  # it was called in vain, or returned something else: its own lines are all done
            raise HookFailed(f"{error} The hook is {_named(function)}.") from None
        said = f"{type(error).__name__}: {error}"
        raise HookFailed(f"the hook {_named(function)} at {hook!r} failed{_line(own)}: {said}") from error


def _of_hook(traceback: TracebackType | None) -> tuple[str, object, TracebackType | None] | None:
    """The point and the function of the hook that a traceback ends in, and what of it lies inside that function."""
    code = inspect.unwrap(call_hook).__code__
    while traceback is not None:
        frame, inside = traceback.tb_frame, traceback.tb_next
        if frame.f_code is code:
            return frame.f_locals["hook"].name, frame.f_locals["function"], inside
        traceback = inside
    return None


def _line(traceback: TracebackType) -> str:
    """The last line of the caller's own in a traceback that begins in the hook."""
    file = traceback.tb_frame.f_code.co_filename
    last = traceback
    while last.tb_next is not None:
        last = last.tb_next
        if last.tb_frame.f_code.co_filename == file:
            traceback = last
    code = linecache.getline(file, traceback.tb_lineno).strip()
    return f" in {Path(file).name}, line {traceback.tb_lineno}" + (f" ({code})" if code else "")


def _named(function: object) -> str:
    return str(getattr(function, "__qualname__", type(function).__name__))
