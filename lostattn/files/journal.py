"""The rows of a long run as they come, so that a run that was broken off goes on where it was.

A journal is a folder: ``settings.json`` says of what run, and each process that works on it appends to a file of its
own, ``rows-0001.jsonl``, one unit of work a line, which is on the disk before the next unit begins. A line that was
torn when the process ended is no line. What is left to do is what has no line.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import logging
import os
import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from lostattn.errors import InputError, NoRoom
from lostattn.files.disk import is_full, other_places
from lostattn.files.locks import Taken, Unknown, hold
from lostattn.files.places import PathLike, unwritable
from lostattn.files.publishing import write_text
from lostattn.files.staging import sync
from lostattn.saved.reading import read_json

SETTINGS = "settings.json"
ENDINGS = (".parquet", ".csv", ".json")  # of the files that hold a table
WORKER = "worker"  # an empty folder, held by the process that works on the run
log = logging.getLogger("lostattn")


class Journal:
    """A run's own folder of rows, held by this process until it is closed.

    Args:
        folder: where; made if it is not there.
        settings: of the run: texts, numbers, lists and dicts, by name. Rows of others are not gone on with.
        resume: go on with what is there. Otherwise it is begun anew, and what is there is deleted.

    Attributes:
        done: what was written, by the unit's name.

    Raises:
        InputError: another process works on it; the folder cannot be written to, or holds other things; with ``resume``
            what is there is of other settings.
    """

    def __init__(self, folder: PathLike, settings: Mapping[str, Any], resume: bool = False) -> None:
        self.folder = Path(folder)
        self.settings = json.loads(json.dumps(settings))
        self.done: dict[str, Any] = {}
        self._file: Any = None
        self._held = contextlib.ExitStack()
        try:
            self.folder.mkdir(parents=True, exist_ok=True)
            strange = [path.name for path in self.folder.iterdir() if not _is_own(path)]
            if strange and not (self.folder / SETTINGS).exists():
                raise InputError(
                    f"{str(self.folder)!r} holds {strange[0]!r} and is no journal of a run; name a folder of its own."
                )
            self._hold()
            self._begin(resume)
        except OSError as error:
            self.close()
            if is_full(error):
                raise NoRoom(f"there is no room for the rows of this run at {str(self.folder)!r} ({error}).") from error
            raise unwritable(self.folder, error) from error
        except BaseException:
            self.close()
            raise

    def __enter__(self) -> Journal:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def add(self, unit: str, content: Any) -> Any:
        """Write what a unit gave, and have it on the disk.

        Returns:
            The content as it will be read back.

        Raises:
            NoRoom: the disk is full; the message says where the row was kept.
        """
        line = json.dumps({"unit": unit, "content": content}, ensure_ascii=False)
        try:
            if self._file is None:
                self._file = _own_file(self.folder)
            _append(self._file, line)
        except OSError as error:
            if not is_full(error):
                raise
            self._keep(line, error)
        self.done[unit] = json.loads(line)["content"]
        return self.done[unit]

    def close(self) -> None:
        """Let the folder go; what is there stays."""
        if self._file is not None:
            self._file.close()
            self._file = None
        self._held.close()

    def remove(self) -> None:
        """Delete what is there, once it is no longer needed."""
        self.close()
        for folder in (self.folder, *self._elsewhere()):
            shutil.rmtree(folder, ignore_errors=True)

    def _hold(self) -> None:
        worker = self.folder / WORKER  # not the folder itself, which is held whenever something is written there
        worker.mkdir(exist_ok=True)
        try:
            self._held.callback(os.close, hold(worker))
        except Taken as error:
            raise InputError(
                f"another process works on the run in {str(self.folder)!r}; wait for it, or name another place."
            ) from error
        except Unknown:  # nobody can tell
            pass

    def _begin(self, resume: bool) -> None:
        path = self.folder / SETTINGS
        if path.exists() and resume:
            self._check(read_json(path, "settings of a run"))
            for folder in (self.folder, *self._elsewhere()):
                self.done |= _read(folder)
            return
        begun = sum(1 for _ in self.folder.rglob("rows-*.jsonl"))
        if begun:
            log.warning("%s: an interrupted run is begun anew; resume goes on with one", self.folder)
        for inside in self.folder.iterdir():
            if inside.name != WORKER:
                shutil.rmtree(inside) if inside.is_dir() else inside.unlink()
        for folder in self._elsewhere():
            shutil.rmtree(folder, ignore_errors=True)
        write_text(path, json.dumps(self.settings, indent=1, ensure_ascii=False) + "\n")

    def _check(self, before: Any) -> None:
        told = list(_differences(before, self.settings))
        if told:
            raise InputError(
                f"the run in {str(self.folder)!r} was begun with other settings: {'; '.join(told[:5])}. "
                "Resume with those, or begin anew without resume."
            )

    def _elsewhere(self) -> list[Path]:
        """Where the rows are kept for which there is no room here."""
        place = f"{self.folder.absolute()} {json.dumps(self.settings, sort_keys=True)}"
        name = hashlib.sha256(place.encode("utf-8", "surrogatepass")).hexdigest()[:16]
        return [folder / f"rows-{name}" for folder in other_places()]

    def _keep(self, line: str, error: OSError) -> None:
        """Put a line where there is room, and say so.

        Raises:
            NoRoom: always.
        """
        told = f"There is no room for the rows of this run at {str(self.folder)!r} ({error})."
        goes_on = "Make room there and go on with resume: what is done is not done again"
        for folder in self._elsewhere():
            try:
                folder.mkdir(parents=True, exist_ok=True)
                with _own_file(folder) as file:
                    _append(file, line)
            except OSError:
                continue
            raise NoRoom(f"{told} The last row was kept in {str(folder)!r}. {goes_on}.") from error
        raise NoRoom(f"{told} {goes_on}, but for the last row.") from error


def unfinished(place: Path) -> Path:
    """Where the rows of a run are kept until what it writes is there: beside its place, or in it."""
    place = Path(os.path.abspath(place))
    name = f"{place.stem if place.suffix in ENDINGS else place.name}.unfinished"
    beside = place.parent
    return beside / name if os.access(beside, os.W_OK) or not place.is_dir() else place / name


def _own_file(folder: Path) -> Any:
    """A file that no other process writes to."""
    number = 1 + len(list(folder.glob("rows-*.jsonl")))
    while True:
        try:
            file = open(folder / f"rows-{number:04d}.jsonl", "xb", buffering=0)  # noqa: SIM115
        except FileExistsError:
            number += 1
            continue
        sync(folder)
        return file


def _append(file: Any, line: str) -> None:
    rest = memoryview(f"{line}\n".encode("utf-8", "surrogatepass"))
    while rest:  # a disk that is nearly full takes a part
        rest = rest[file.write(rest) :]
    os.fsync(file.fileno())


def _read(folder: Path) -> dict[str, Any]:
    """The units of a folder. What is no whole line is left out, wherever it stands: it will be made again."""
    found: dict[str, Any] = {}
    for path in sorted(folder.glob("rows-*.jsonl")):
        for line in path.read_bytes().split(b"\n")[:-1]:
            try:
                row = json.loads(line.decode("utf-8", "surrogatepass"))
                found.setdefault(row["unit"], row["content"])
            except (ValueError, KeyError, TypeError):
                continue
    return found


def _is_own(path: Path) -> bool:
    return (
        path.name == WORKER
        or path.name.endswith(".part")
        or (path.name.startswith("rows-") and path.suffix == ".jsonl")
    )


def _differences(before: Any, now: Any, at: str = "") -> list[str]:
    """In which settings two runs differ, in words."""
    if isinstance(before, dict) and isinstance(now, dict):
        found = []
        for name in dict.fromkeys([*before, *now]):
            found += _differences(before.get(name), now.get(name), f"{at}.{name}".lstrip("."))
        return found
    if before == now:
        return []
    return [f"{at or 'settings'} was {json.dumps(before)[:120]} and is {json.dumps(now)[:120]}"]
