"""What killed writers left: begun places are finished, the rest is swept, and readers wait for those who live."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from lostattn.errors import InputError
from lostattn.files.locks import folder_lock
from lostattn.files.seal import SEAL, Seal, covering, digest, files_below
from lostattn.files.staging import Stage, abandoned, sync


def sweep(folder: Path) -> None:
    """Finish what writers that are gone had begun to put in place in a folder, and delete what else they left.

    Whoever calls it holds the folder's lock.
    """
    with abandoned(folder) as found:
        for stage in found:
            with contextlib.suppress(OSError, ValueError):  # ValueError: a name that is none, which no writer gave
                go_on(stage)
                stage.remove()


@contextmanager
def reading(place: Path) -> Iterator[None]:
    """Read from a folder while nobody puts things into it, after a killed writer's work there is finished."""
    try:
        place = Path(os.path.realpath(place))  # raises nothing of links that go round in a circle
    except (OSError, ValueError):  # no name of a file: whoever reads there will say so
        yield
        return
    for folder in (place.parent, place):
        with abandoned(folder) as found:
            begun = any(stage.committed() for stage in found)
        if begun:
            with folder_lock(folder), contextlib.suppress(OSError):
                sweep(folder)
    with folder_lock(place.parent, place, shared=True):
        yield


def go_on(stage: Stage) -> None:
    """Put the rest of a committed stage in place; nothing where none was committed."""
    content = stage.committed()
    name = content.get("place") if content is not None else None
    if content is None or not isinstance(name, str) or name != os.path.basename(name) or name == "..":
        return
    place = stage.folder.parent / name  # "" is the folder of the stage itself
    if name and place.is_symlink():  # a writer's place is where its links led, so this is no writer's
        return
    if content.get("files"):
        gone = content.get("gone")
        put_files(stage, place, [one for one in gone if isinstance(one, str)] if isinstance(gone, list) else [])
    elif stage.new.is_dir() and not os.path.lexists(place):
        os.rename(stage.new, place)
    sync(stage.folder.parent)


def put_files(stage: Stage, place: Path, gone: list[str]) -> None:
    """Move the files of a stage to their places one by one, the seal last, and delete those that went with the old."""
    names = sorted(files_below(stage.new), key=lambda name: (name == SEAL, name))
    for name in names:
        _real_folder(place, Path(name).parent)
        os.replace(stage.new / name, place / name)
    for name in gone:
        if _is_inside(place, name):
            (place / name).unlink(missing_ok=True)
    sync(place)
    if SEAL not in names:
        _reseal(place, names)


def _reseal(place: Path, names: list[str]) -> None:
    """Have the seal that covers these files, if one does, hold them as they are now."""
    try:
        found = covering(place)
    except InputError:  # it does not fit anyway
        return
    if found is None:
        return
    above, seal = found
    at = place.resolve().relative_to(above)
    files = {name: digest(above / name) for name in ((at / one).as_posix() for one in names) if name in seal.files}
    if files:
        files = {**seal.files, **files}
        write_seal(above, Seal(seal.about, files))


def write_seal(folder: Path, seal: Seal) -> None:
    """Write ``run.json``, whole."""
    beside = folder / f".{SEAL}.new"
    beside.write_text(seal.text(), encoding="utf-8")
    sync(beside)
    os.replace(beside, folder / SEAL)
    sync(folder)


def _real_folder(place: Path, below: Path) -> None:
    """Make the folders below a place; a link among them would lead the files elsewhere.

    Raises:
        NotADirectoryError: one of them is something else.
    """
    at = place
    for part in below.parts:
        at = at / part
        if at.is_symlink():
            raise NotADirectoryError(f"{at} is a link")
        at.mkdir(exist_ok=True)


def _is_inside(place: Path, name: str) -> bool:
    parts = Path(name).parts
    return (
        not Path(name).is_absolute()
        and ".." not in parts
        and not any((place / Path(*parts[:k])).is_symlink() for k in range(1, len(parts)))
    )
