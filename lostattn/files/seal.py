"""The seal of a folder: ``run.json``, which holds the digest of every other file that belongs to the run.

It is written when all others are complete, so a folder that fits its seal is one run whole. A folder without one (of an
earlier version, or made by hand) is read as it stands.
"""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from lostattn.errors import InputError
from lostattn.files.places import PathLike
from lostattn.saved.inside import inside, is_below
from lostattn.saved.reading import read_json
from lostattn.saved.shape import COUNT, MapOf, checked

SEAL = "run.json"
KEY = "sealed"
FORMAT = "lostattn.run/1"
_WHAT = "seal of a run"
_SHAPE = {"format": str, "files": MapOf({"bytes": COUNT, "sha256": str}), "self": str}
_PIECE = 1 << 20  # bytes at a time
_LEVELS = 3  # how far above a file the seal of its run may lie


@dataclass(frozen=True)
class Seal:
    """What a ``run.json`` holds: what the run says of itself, and the size and digest of each file by its path."""

    about: dict[str, Any] = field(default_factory=dict)
    files: dict[str, dict[str, Any]] = field(default_factory=dict)

    def text(self) -> str:
        """As it is written."""
        content = {**self.about, KEY: {"format": FORMAT, "files": dict(sorted(self.files.items()))}}
        content[KEY]["self"] = _own(content)
        return json.dumps(content, indent=2, ensure_ascii=False) + "\n"


def digest(path: Path) -> dict[str, Any]:
    """The size and digest of a file."""
    found, size = hashlib.sha256(), 0
    with open(path, "rb") as file:
        while piece := file.read(_PIECE):
            found.update(piece)
            size += len(piece)
    return {"bytes": size, "sha256": found.hexdigest()}


def files_below(folder: Path) -> Iterator[str]:
    """Whatever is no folder, by its path in it; links are not followed."""
    for root, folders, files in os.walk(folder):
        links = [name for name in folders if os.path.islink(os.path.join(root, name))]
        for name in sorted([*files, *links]):
            yield Path(root, name).relative_to(folder).as_posix()


def sealing(folder: Path, about: Mapping[str, Any]) -> Seal:
    """The seal of everything in a folder."""
    return Seal(dict(about), {name: digest(folder / name) for name in files_below(folder) if name != SEAL})


def read_seal(folder: Path) -> Seal | None:
    """The seal of a folder; None where it has none.

    Raises:
        InputError: there is one, and it is torn or edited.
    """
    path = folder / SEAL
    if not path.is_file():
        return None
    content = read_json(path, _WHAT)
    if not isinstance(content, dict) or KEY not in content:
        return None  # of an earlier version, or somebody else's
    held = checked(content.pop(KEY), _SHAPE, str(path), _WHAT)
    own = held.pop("self")
    if own != _own({**content, KEY: held}):
        raise InputError(f"{str(path)!r} is not as it was written: it was edited, or is torn. {_recover(folder)}")
    out = [name for name in held["files"] if not is_below(name)]
    if out:
        raise InputError(f"{str(path)!r} seals {out[0][:200]!r}, which leads out of the folder. {_recover(folder)}")
    return Seal(content, held["files"])


def check_run(folder: PathLike, only: Iterable[str] | None = None) -> bool:
    """Whether a folder is one run whole, as its ``run.json`` tells it.

    Args:
        folder: the folder.
        only: the files to look at, by their paths in it (default: all that are sealed). Those that are not sealed are
            left alone.

    Returns:
        True where it is whole; False where it has no seal to tell by.

    Raises:
        InputError: a file is missing or is not the one that was sealed; the message names it and says what to do.
    """
    folder = Path(folder)
    seal = read_seal(folder)
    if seal is None:
        return False
    for name in seal.files if only is None else [name for name in only if name in seal.files]:
        held, path = seal.files[name], Path(inside(folder, name, f"{str(folder / SEAL)!r}"))
        if not path.is_file():
            raise InputError(f"{str(folder)!r} is no whole run: {name!r} is missing. {_recover(folder)}")
        if path.stat().st_size != held["bytes"] or digest(path) != held:
            raise InputError(
                f"{str(folder)!r} is no whole run: {name!r} is not the file that was sealed (edited since, or of "
                f"another run). {_recover(folder)}"
            )
    return True


def covering(folder: Path) -> tuple[Path, Seal] | None:
    """The folder whose seal holds files of ``folder``, itself or one above, and that seal."""
    folder = folder.resolve()
    for above in [folder, *folder.parents][: _LEVELS + 1]:
        seal = read_seal(above)
        if seal is not None:
            return above, seal
    return None


def check_files(paths: Iterable[Path]) -> None:
    """Hold files of one folder to the seal of their run, where they have one.

    Raises:
        InputError: as :func:`check_run`.
    """
    paths = [path.absolute() for path in paths]
    if paths and (found := covering(paths[0].parent)) is not None:
        above, _ = found
        check_run(above, [(path.parent.resolve() / path.name).relative_to(above).as_posix() for path in paths])


def _own(content: dict[str, Any]) -> str:
    """The digest of the seal's own content."""
    text = json.dumps(content, sort_keys=True, ensure_ascii=False)
    return hashlib.sha256(text.encode("utf-8", "surrogatepass")).hexdigest()


def _recover(folder: Path) -> str:
    return (
        f"Make the run again, or copy it again from where it is whole; to take the files as they are, delete "
        f"{str(folder / SEAL)!r}."
    )
