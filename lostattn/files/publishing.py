"""Writing: everything is made in a stage beside its place, is on the disk, and then appears.

One file appears in one rename. So does a folder that is a run of its own, sealed by its ``run.json``: the folder that
it replaces stays whole until then. Where a folder cannot be put in another's place (it holds what somebody else put
there, somebody works in it, a disk is mounted there), its files are put there one by one, the seal last; if that is
broken off, the next who reads or writes there finishes it.
"""

from __future__ import annotations

import contextlib
import os
import shutil
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any, NoReturn

from lostattn.errors import InputError, NoRoom
from lostattn.files.disk import is_full, need, other_places
from lostattn.files.exchange import exchange
from lostattn.files.locks import folder_lock
from lostattn.files.places import PathLike, in_use, unwritable
from lostattn.files.recovery import put_files, sweep
from lostattn.files.seal import SEAL, Seal, files_below, read_seal, sealing
from lostattn.files.staging import Stage, finish, staged, sync

Fill = Callable[[Path], object]
"""Writes into the file, or the folder, that it is given; it may be called again, for another place."""


def write_file(path: PathLike, fill: Fill, size: int = 0) -> Path:
    """Write one file whole or not at all: ``fill`` writes it at the path that it is given.

    Args:
        path: of the file.
        fill: writes it.
        size: bytes that it takes at the least, where that is known: a disk without room for them is not begun on.

    Raises:
        InputError: the folder cannot be written to.
        NoRoom: there is no room for it; the message says where it was kept instead.
    """
    place = Path(path)
    try:
        with _opened(place.name, place.parent) as stage:
            need(stage.new, size)
            fill(stage.new / place.name)
            finish(stage.new)
            _check_no_folder(place)
            os.replace(stage.new / place.name, place)
            sync(place.parent)
    except Exception as error:
        if not is_full(error):
            raise
        _keep(place, lambda folder: fill(folder / place.name), error, size)
    return place


def write_text(path: PathLike, text: str) -> Path:
    """:func:`write_file` of a text, as UTF-8."""
    return write_file(path, lambda place: place.write_text(text, encoding="utf-8"))


def write_folder(
    path: PathLike,
    fill: Fill,
    about: Mapping[str, Any] | None = None,
    adds: bool = False,
    sealed: bool = True,
    fresh: bool = False,
) -> Path:
    """Write a folder of files that is there whole or not at all: ``fill`` writes them into the folder it is given.

    Args:
        path: of the folder.
        fill: writes the files.
        about: what ``run.json`` says beside the digests.
        adds: what an earlier run left in the folder stays, beside what is written.
        sealed: ``False`` for files that lie among others and have no ``run.json`` of their own.
        fresh: refuse to write where something is.

    Raises:
        InputError: it cannot be written, or ``fresh`` and something is there.
        NoRoom: there is no room for it; the message says where it was kept instead.
    """
    place = Path(os.path.realpath(path))
    movable = sealed and not in_use(place) and (os.access(place.parent, os.W_OK) or not place.exists())
    beside = place.parent if movable else place
    try:
        with _opened(place.name, beside) as stage:
            fill(stage.new)
            finish(stage.new)
            own = sealing(stage.new, about or {}) if sealed else None
            _publish(stage, place, own, adds, fresh)
    except Exception as error:
        if not is_full(error):
            raise
        _keep(place, fill, error)
    return Path(path)


@contextmanager
def _opened(name: str, folder: Path) -> Iterator[Stage]:
    """A stage in a folder, which is made, and swept of what killed writers left."""
    with contextlib.ExitStack() as stack:
        try:
            folder.mkdir(parents=True, exist_ok=True)
            with folder_lock(folder):
                sweep(folder)
            stage = stack.enter_context(staged(name, folder))
        except (OSError, ValueError) as error:
            if is_full(error):
                raise
            raise unwritable(folder, error) from error
        yield stage


def _publish(stage: Stage, place: Path, own: Seal | None, adds: bool, fresh: bool) -> None:
    with folder_lock(*{place.parent: None, place: None} if stage.folder.parent != place else (place,)):
        if fresh and os.path.lexists(place) and not (place.is_dir() and not any(place.iterdir())):
            raise InputError(f"{place} exists and is not an empty folder; name a new one.")
        before = _seal_there(place)
        seal = None if own is None else _with_earlier(own, before, place, adds)
        if seal is not None:
            _write(stage.new / SEAL, seal.text())
        if seal is not None and stage.folder.parent != place and _is_ours(place, seal, before):
            _swap(stage, place, seal, before)
            return
        for name in files_below(stage.new):
            _check_no_folder(place / name)
        gone = [name for name in before.files if name not in seal.files] if before and seal else []
        try:
            place.mkdir(exist_ok=True)
        except OSError as error:
            raise unwritable(place, error) from error
        stage.commit({"place": "" if stage.folder.parent == place else place.name, "files": True, "gone": gone})
        put_files(stage, place, gone)


def _seal_there(place: Path) -> Seal | None:
    try:
        return read_seal(place)
    except InputError:  # torn or edited: what is written now replaces it
        return None


def _with_earlier(own: Seal, before: Seal | None, place: Path, adds: bool) -> Seal | None:
    """The seal to write: with what stays of an earlier run; None where another's ``run.json`` must stay."""
    if not adds:
        return own
    if before is None:
        return own if not (place / SEAL).exists() else None
    return Seal({**before.about, **own.about}, {**before.files, **own.files})


def _is_ours(place: Path, seal: Seal, before: Seal | None) -> bool:
    """Whether nothing in a folder is anybody else's, so that it can be replaced as a whole."""
    if not os.path.lexists(place):
        return True
    if not place.is_dir() or in_use(place):
        return False
    known = {SEAL, *seal.files, *(before.files if before is not None else ())}
    if any(name not in known for name in files_below(place)):
        return False
    folders = {Path(name).parent.as_posix() for name in known}
    return all(_holds_files(Path(root), place, folders) for root, _, _ in os.walk(place))


def _holds_files(folder: Path, place: Path, folders: set[str]) -> bool:
    """Whether a folder is one of the files' own: an empty one may be somebody's who is about to write there."""
    at = folder.relative_to(place).as_posix()
    return at == "." or any(one == at or one.startswith(f"{at}/") for one in folders)


def _check_no_folder(place: Path) -> None:
    if place.is_dir():
        raise InputError(f"{str(place)!r} is a folder, and a file is to be written there; name another, or move it.")


def _swap(stage: Stage, place: Path, seal: Seal, before: Seal | None) -> None:
    """Put the stage's folder in the place of the one there, which stays until then."""
    known = {SEAL, *seal.files, *(before.files if before is not None else ())}
    there = place.is_dir()
    if there:
        shutil.copymode(place, stage.new)
    for name in seal.files:
        if not (stage.new / name).exists() and (place / name).is_file():  # it stays
            (stage.new / name).parent.mkdir(parents=True, exist_ok=True)
            _link(place / name, stage.new / name)
    for root, _, _ in os.walk(stage.new, topdown=False):
        sync(Path(root))
    if not there:
        os.rename(stage.new, place)
    elif exchange(stage.new, place):
        _bring_late(stage.new, place, known)
    else:
        stage.commit({"place": place.name, "files": False})
        os.rename(place, stage.old)
        os.rename(stage.new, place)
        _bring_late(stage.old, place, known)
    sync(place.parent)


def _link(old: Path, new: Path) -> None:
    try:
        os.link(old, new)
    except OSError:  # a disk without hard links
        shutil.copy2(old, new)


def _bring_late(old: Path, place: Path, known: set[str]) -> None:
    """What somebody put into the old folder after it was looked at goes to the new one."""
    ours = {Path(name).parts[0] for name in known}
    with contextlib.suppress(OSError):
        for name in os.listdir(old):
            if name not in ours and not os.path.lexists(place / name):
                os.rename(old / name, place / name)


def _write(path: Path, text: str) -> None:
    beside = path.with_name(f".{path.name}.new")
    beside.write_text(text, encoding="utf-8")
    sync(beside)
    os.replace(beside, path)


def _keep(place: Path, fill: Fill, error: Exception, size: int = 0) -> NoReturn:
    """Write what has no room at its place to where there is some, and say so."""
    told = f"There is no room for {str(place)!r} ({error})."
    for elsewhere in other_places():
        try:
            with _opened(place.name, elsewhere) as stage:
                need(stage.new, size)
                fill(stage.new)
                finish(stage.new)
                kept = elsewhere / f"{place.name}.{stage.folder.name.rsplit('.', 2)[1]}"
                os.rename(stage.new, kept)
        except (OSError, InputError):
            continue
        except Exception as again:
            if not is_full(again):
                raise
            continue
        raise NoRoom(f"{told} What was there before is untouched; it was kept in {str(kept)!r}.") from error
    raise NoRoom(f"{told} What was there before is untouched, and there is no room elsewhere.") from error
