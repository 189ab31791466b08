"""Files that a folder of somebody else's names: they lie in the folder, or they are not read."""

from __future__ import annotations

import os
import re
import unicodedata

from lostattn.errors import InputError

_DRIVE = re.compile(r"[A-Za-z]:")
_ADDRESS = re.compile(r"[A-Za-z][A-Za-z0-9+.-]*://|(data|file|https?|ftps?):", re.IGNORECASE)


def is_below(name: str) -> bool:
    """Whether a name is the path of a file in a folder, by what is written: links may still lead out."""
    return os.path.normpath(name) == name and not name.startswith("/") and name.split("/")[0] not in ("", ".", "..")


def _blobs(root: str) -> list[str]:
    """Where the files of a folder lie that is a snapshot in the hub's cache, where each file is a link to a blob."""
    parts = root.split(os.sep)
    above = [os.sep.join(parts[:k]) for k in range(1, len(parts)) if parts[k] == "snapshots"]
    return [f"{one}/blobs" for one in above if os.path.isdir(f"{one}/blobs") and os.path.isdir(f"{one}/refs")]


def inside(folder: str | os.PathLike[str], name: str, where: str) -> str:
    """The path of a file that lies in a folder, links followed.

    Args:
        folder: the folder.
        name: of the file, relative to the folder, with ``/`` between its parts.
        where: what names it, as messages begin: ``"Question 'a'"``.

    Raises:
        InputError: the name leads out of the folder, by itself or by a link, or is none.
    """

    def refused(why: str) -> InputError:
        return InputError(
            f"{where} names the file {name[:200]!r}, {why}. A folder of data reads its own files alone; put the file "
            "into the folder, and name it by its place there, such as 'images/1.png'."
        )

    if _ADDRESS.match(name):
        raise refused("which is an address")
    if not name or any(unicodedata.category(c) in ("Cc", "Cs") for c in name):
        raise refused("which is no name of a file")
    if name.startswith("/") or "\\" in name or _DRIVE.match(name):
        raise refused("which is a place on a machine")
    if ".." in name.split("/"):
        raise refused("which leads out of the folder")
    root = os.path.realpath(folder)
    path = os.path.realpath(os.path.join(root, name))
    if not any(path.startswith(home.rstrip(os.sep) + os.sep) for home in (root, *_blobs(root))):
        raise refused("which is the folder itself" if path == root else "a link that leads out of the folder")
    return path
