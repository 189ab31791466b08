"""Room on a disk: looked at before long work, and what is done where there is none."""

from __future__ import annotations

import errno
import os
import shutil
import sys
import tempfile
from pathlib import Path

from lostattn.errors import NoRoom

_FULL = {errno.ENOSPC, errno.EFBIG, *(getattr(errno, name) for name in ("EDQUOT",) if hasattr(errno, name))}


def is_full(error: BaseException) -> bool:
    """Whether an error says that a disk, a quota or a largest size of files is reached."""
    if isinstance(error, OSError):
        return error.errno in _FULL
    # safetensors writes by itself, and tells the number in words alone.
    told = str(error)
    return type(error).__name__ == "SafetensorError" and any(f"(os error {number})" in told for number in _FULL)


def need(folder: Path, size: int) -> None:
    """Fail as a full disk does where there is no room for so many bytes, before any is written.

    Raises:
        OSError: there is none.
    """
    if _free(folder) < size:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), str(folder))


def check_room(folder: Path, needed: int, what: str) -> None:
    """Look whether there is room for what is about to be made.

    Args:
        folder: where; the nearest one above that is there counts.
        needed: bytes, an estimate.
        what: what they are for, for the message.

    Raises:
        NoRoom: there is less.
    """
    free = _free(folder)
    if free < needed:
        raise NoRoom(
            f"{what} needs about {_told(needed)}, and {_told(free)} are free where {str(folder)!r} lies. "
            "Make room there, or name a folder on another disk."
        )


def _free(folder: Path) -> int:
    """Bytes that are free where a folder lies or will lie; without end where the system does not tell."""
    at = folder.absolute()
    while not at.exists() and at != at.parent:
        at = at.parent
    try:
        return shutil.disk_usage(at).free
    except OSError:
        return sys.maxsize


def other_places() -> list[Path]:
    """Folders on which to keep what has no room at its own place: the user's cache, then that of temporary files."""
    cache = os.environ.get("XDG_CACHE_HOME") or os.path.join(os.path.expanduser("~"), ".cache")
    user = os.getuid() if hasattr(os, "getuid") else "user"
    return [Path(cache, "lostattn", "kept"), Path(tempfile.gettempdir(), f"lostattn-kept-{user}")]


def _told(n: int) -> str:
    for unit in ("bytes", "KB", "MB", "GB"):
        if n < 10_000:
            return f"{n} {unit}"
        n //= 1000
    return f"{n} TB"
