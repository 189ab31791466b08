"""Locks on folders, which end with the process that holds them, however it ends."""

from __future__ import annotations

import contextlib
import os
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

try:
    import fcntl
except ImportError:  # Windows
    fcntl = None  # type: ignore[assignment]


PATIENCE = 60.0
"""Seconds to wait for a folder. Writers hold it for moments; whoever holds it longer is no writer of ours."""


class Taken(Exception):
    """Somebody else holds the lock."""


class Unknown(Exception):
    """Locks cannot be had here, so nobody can tell who holds one."""


@contextmanager
def folder_lock(*folders: Path, shared: bool = False) -> Iterator[None]:
    """Wait for folders, in this order, and hold them; where locks cannot be had (some network disks) go on without.

    Writers hold a folder for the moments in which they put things in place; readers share it while they read.
    """
    with contextlib.ExitStack() as held:
        for folder in folders:
            with contextlib.suppress(Unknown, FileNotFoundError):
                held.callback(os.close, _lock(folder, shared, wait=True))
        yield


def hold(folder: Path) -> int:
    """Hold a folder without waiting; closing the handle lets it go.

    Raises:
        Taken: somebody holds it.
        Unknown: locks cannot be had here.
        FileNotFoundError: there is none.
    """
    return _lock(folder, shared=False, wait=False)


def _lock(folder: Path, shared: bool, wait: bool) -> int:
    if fcntl is None:
        raise Unknown
    until = time.monotonic() + PATIENCE
    while True:
        try:
            handle = os.open(folder, os.O_RDONLY | os.O_DIRECTORY)
        except FileNotFoundError:
            raise
        except OSError as error:
            raise Unknown from error
        if _locked(folder, handle, shared):
            return handle
        os.close(handle)
        if not wait:
            raise Taken
        if time.monotonic() > until:
            raise Unknown
        time.sleep(0.002)


def _locked(folder: Path, handle: int, shared: bool) -> bool:
    """Whether the open folder is held now, and is still the one of that name; closed where that cannot be told."""
    try:
        fcntl.flock(handle, (fcntl.LOCK_SH if shared else fcntl.LOCK_EX) | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    except OSError as error:
        os.close(handle)
        raise Unknown from error
    return _is_still(folder, handle)


def _is_still(folder: Path, handle: int) -> bool:
    try:
        return os.path.samestat(os.stat(folder), os.fstat(handle))
    except FileNotFoundError:
        return False
