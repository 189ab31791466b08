"""Where something is to be written, and whether it can be."""

from __future__ import annotations

import os
import sys
import tempfile
from pathlib import Path

from lostattn.errors import InputError

PathLike = str | os.PathLike[str]


def cache_folder() -> Path:
    """Where this user's own cache of the package lies: ``LOSTATTN_CACHE``, or in the system's folder for caches."""
    own = os.environ.get("LOSTATTN_CACHE")
    if own:
        return Path(own)
    if sys.platform == "win32":
        base = os.environ.get("LOCALAPPDATA") or str(Path.home() / "AppData" / "Local")
    elif sys.platform == "darwin":
        base = str(Path.home() / "Library" / "Caches")
    else:
        base = os.environ.get("XDG_CACHE_HOME") or str(Path.home() / ".cache")
    return Path(base) / "lostattn"


def writable_folder(path: PathLike) -> Path:
    """Make ``path`` a folder that can be written to, or say at once why it cannot be one.

    Raises:
        InputError: a part of the path is a file, or nothing may be written there.
    """
    folder = Path(path)
    try:
        folder.mkdir(parents=True, exist_ok=True)
        # Permission bits do not tell the whole story (root, read-only mounts): only writing does.
        with tempfile.TemporaryFile(dir=folder):
            pass
    except (OSError, ValueError) as error:
        raise unwritable(folder, error) from error
    return folder


def unwritable(folder: Path, error: Exception) -> InputError:
    """What to say of a folder that cannot be written to."""
    reason = getattr(error, "strerror", None) or str(error)
    return InputError(f"Cannot write to the folder {str(folder)!r} ({reason}). Pass a folder that can be written to.")


def in_use(folder: Path) -> bool:
    """Whether this process works in the folder, or it is where a disk is mounted: such a one is not moved."""
    try:
        here = Path.cwd().resolve()
    except FileNotFoundError:  # the working folder was deleted
        return os.path.ismount(folder)
    return os.path.ismount(folder) or folder == here or folder in here.parents
