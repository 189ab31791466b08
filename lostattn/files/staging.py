"""The hidden folder in which something is made before it appears, and whether its writer still lives.

``.NAME.TOKEN.part/`` lies beside the place, so that putting things there is a rename. It holds ``new/``, which is
being filled; ``old/``, where what is replaced waits between two renames; and ``commit``, once putting in place has
begun: from then on whoever finds it goes on with it. The writer holds a lock on it, which ends with the process.
"""

from __future__ import annotations

import contextlib
import json
import os
import re
import secrets
import shutil
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from lostattn.errors import InputError
from lostattn.files.locks import Taken, Unknown, hold
from lostattn.saved.reading import read_json

_NAME = re.compile(r"\..+\.[0-9a-f]{16}\.part")
_LONGEST = 40  # characters of a place's name that its stage takes: four bytes each still leave room for the rest
_LONGEST_COMMIT = 1 << 26  # bytes of the names of files that go
_AGE = 86_400  # seconds; where nobody can tell whose a stage is, one that old is nobody's


class Stage:
    """Such a folder; ``new`` is the one to fill."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.new = folder / "new"
        self.old = folder / "old"
        self._commit = folder / "commit"

    def commit(self, content: dict[str, Any]) -> None:
        """From now on, what is here is put in place even if this process ends."""
        beside = self.folder / "commit.new"
        beside.write_text(json.dumps(content), encoding="utf-8")
        sync(beside)
        os.replace(beside, self._commit)
        sync(self.folder)

    def committed(self) -> dict[str, Any] | None:
        """What was committed; None where nothing was.

        A stage may have come with a folder from somebody else: one whose parts are links, which would have the files of
        another place moved, is nobody's commit.
        """
        if any(os.path.islink(part) for part in (self.new, self.old, self._commit)):
            return None
        try:
            content = read_json(self._commit, "commit of files", _LONGEST_COMMIT)
        except InputError:
            return None
        return content if isinstance(content, dict) else None

    def remove(self) -> None:
        """Delete it; what cannot be deleted is left to the next that comes by."""
        self._commit.unlink(missing_ok=True)  # first: a stage half deleted is not to be gone on with
        shutil.rmtree(self.folder, ignore_errors=True)


@contextmanager
def staged(name: str, beside: Path) -> Iterator[Stage]:
    """A stage for something of this name in a folder; it is gone when the block ends.

    Raises:
        OSError: the folder cannot be written to.
    """
    with contextlib.ExitStack() as held:
        stage = _made(name, beside, held)
        held.callback(stage.remove)
        stage.new.mkdir()
        yield stage


def _made(name: str, beside: Path, held: contextlib.ExitStack) -> Stage:
    while True:
        stage = Stage(beside / f".{name[:_LONGEST]}.{secrets.token_hex(8)}.part")
        stage.folder.mkdir()
        try:
            held.callback(os.close, hold(stage.folder))
        except Unknown:
            pass
        except (Taken, FileNotFoundError):
            continue  # a sweep came between making and holding it
        return stage


@contextmanager
def abandoned(folder: Path) -> Iterator[list[Stage]]:
    """The stages in a folder whose writers are gone, held so that nobody else takes them."""
    with contextlib.ExitStack() as held:
        found = []
        for path in _stages(folder):
            try:
                handle = hold(path)
            except (Taken, FileNotFoundError):
                continue
            except Unknown:
                if not _is_old(path):
                    continue
            else:
                held.callback(os.close, handle)
            found.append(Stage(path))
        yield found


def _stages(folder: Path) -> list[Path]:
    try:
        with os.scandir(folder) as entries:
            named = [entry for entry in entries if _NAME.fullmatch(entry.name)]
            return [Path(entry.path) for entry in named if entry.is_dir(follow_symlinks=False)]
    except OSError:
        return []


def _is_old(path: Path) -> bool:
    try:
        return time.time() - path.stat().st_mtime > _AGE
    except OSError:
        return False


def sync(path: Path) -> None:
    """Have a file, or the names in a folder, on the disk before going on."""
    try:
        handle = os.open(path, os.O_RDONLY)
    except PermissionError:  # a folder on Windows
        return
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


def finish(folder: Path) -> None:
    """Give every file in a folder the mode that the user's umask gives, and have all on the disk."""
    probe = folder.parent / "mode"
    probe.touch()  # the umask itself cannot be read without setting it, for other threads too
    mode = probe.stat().st_mode & 0o777
    for root, _, files in os.walk(folder, topdown=False):
        for name in files:
            os.chmod(os.path.join(root, name), mode)
            sync(Path(root, name))
        sync(Path(root))
