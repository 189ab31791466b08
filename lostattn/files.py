"""Files written whole or not at all: several together, or tensors with a few words about them."""

from __future__ import annotations

import json
import os
import tempfile
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from torch import Tensor

from lostattn.errors import InputError

PathLike = str | os.PathLike[str]


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
        reason = getattr(error, "strerror", None) or str(error)
        raise InputError(
            f"Cannot write to the folder {str(folder)!r} ({reason}). Pass a folder that can be written to."
        ) from error
    return folder


@contextmanager
def write_together(*paths: Path) -> Iterator[list[Path]]:
    """Names beside ``paths`` to write to; all are put in place when the block ends, none if it raises."""
    beside = [path.with_name(f".{path.name}.{os.getpid()}.tmp") for path in paths]
    try:
        yield beside
        for temporary in beside:
            with open(temporary, "rb") as file:
                os.fsync(file.fileno())
        for temporary, path in zip(beside, paths, strict=True):
            os.replace(temporary, path)
    finally:
        for temporary in beside:
            temporary.unlink(missing_ok=True)


def write_tensors(path: PathLike, tensors: Mapping[str, Tensor], held: Mapping[str, Any]) -> Path:
    """Write tensors by name, and ``held`` as JSON in the file's metadata.

    ``.safetensors`` is added where the path has no ending. An interrupted write leaves what was there before.

    Raises:
        InputError: the folder cannot be written to, or ``held`` has what JSON cannot hold.
    """
    from safetensors.torch import save_file

    place = Path(path)
    place = place if place.suffix else place.with_suffix(".safetensors")
    try:
        text = json.dumps(held)
    except TypeError as error:
        raise InputError(f"save(**meta) holds what has no place in JSON: {error}.") from error
    # A tensor may stand under several names, or be a view: a file holds each name's own values.
    whole = {name: value.detach().cpu().contiguous().clone() for name, value in tensors.items()}
    try:
        place.parent.mkdir(parents=True, exist_ok=True)
        handle, beside = tempfile.mkstemp(dir=place.parent, prefix=f".{place.name}.")
    except OSError as error:
        raise InputError(f"{str(place.parent)!r} cannot be written to: {error}. Choose another folder.") from error
    os.close(handle)
    try:
        save_file(whole, beside, metadata={"lostattn": text})
        os.replace(beside, place)
    except BaseException:
        Path(beside).unlink(missing_ok=True)
        raise
    return place
