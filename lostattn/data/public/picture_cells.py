"""Pictures as tables hold them: bytes, base64, the path of a file, the index of another row, or a list of those."""

from __future__ import annotations

import base64
import binascii
from collections.abc import Callable
from pathlib import Path
from typing import Any

from lostattn.data.scoring.asked_for import listed
from lostattn.errors import InputError
from lostattn.pictures.loading import is_there
from lostattn.saved.inside import inside
from lostattn.saved.reading import read_bytes

LONGEST_INDEX = 64
"""VLMEvalKit's rule: a text of so many characters is no picture but names the row that holds it."""
Lookup = Callable[[str], Any]
"""What stands in the picture's cell of the row with some index; None where no row has it."""


def picture_bytes(cell: Any, where: str, folder: Path | None, lookup: Lookup) -> tuple[bytes, ...]:
    """The files of the pictures that a cell holds.

    Args:
        cell: ``{"bytes", "path"}`` as the hub has it, bytes, or a text.
        where: the row, for messages.
        folder: where files lie that cells name.
        lookup: finds the cell of another row.

    Raises:
        InputError: an empty cell, a row or file that is not there, or a text that is no picture.
    """
    if isinstance(cell, dict):
        inner = cell.get("bytes")
        cell = inner if inner else cell.get("path")
    if isinstance(cell, bytes | bytearray | memoryview) and len(cell):
        return (bytes(cell),)
    several = cell if isinstance(cell, list | tuple) else listed(cell) if isinstance(cell, str) else ()
    if several:
        return tuple(file for one in several for file in picture_bytes(one, where, folder, lookup))
    text = str(cell).strip() if isinstance(cell, str | int) and not isinstance(cell, bool) else ""
    if not text or text.lower() == "nan":
        raise InputError(f"{where} has no picture; its cell is empty.")
    if len(text) <= LONGEST_INDEX:
        return _named(text, where, folder, lookup)
    if folder is not None and len(text) < 1024 and (file := _file(text, where, folder)) is not None:
        return (file,)
    return (_decoded(text, where),)


def _named(text: str, where: str, folder: Path | None, lookup: Lookup) -> tuple[bytes, ...]:
    other = lookup(text)
    if isinstance(other, str) and len(other.strip()) <= LONGEST_INDEX and lookup(other.strip()) is not None:
        raise InputError(f"{where} has its picture in row {text!r}, which holds none but names row {other.strip()!r}.")
    if other is not None:
        return picture_bytes(other, f"{where} (by row {text!r})", folder, lambda _: None)
    if folder is not None and (file := _file(text, where, folder)) is not None:
        return (file,)
    raise InputError(f"{where} has its picture in row or file {text!r}, and there is neither; is the table whole?")


def _file(name: str, where: str, folder: Path) -> bytes | None:
    if "." not in name.rsplit("/", 1)[-1]:
        return None
    path = Path(inside(folder, name, where))
    return read_bytes(path, "a picture") if is_there(path) else None


def _decoded(text: str, where: str) -> bytes:
    try:
        return base64.b64decode(text.split(",", 1)[1] if text.startswith("data:") else text, validate=True)
    except (binascii.Error, ValueError) as error:
        raise InputError(f"{where} has {text[:30]!r}… for a picture, which is no base64 ({error}).") from error
