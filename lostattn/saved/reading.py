"""Reading back what was saved: regular files up to a length, texts and JSON. A file may come from anybody."""

from __future__ import annotations

import json
import os
import stat
from typing import Any

from lostattn.errors import InputError

Where = str | os.PathLike[str]
LONGEST_TEXT = 1 << 30  # bytes of a text file that is read as a whole


def read_bytes(path: Where, what: str, most: int = LONGEST_TEXT) -> bytes:
    """The bytes of a regular file.

    Args:
        path: of the file; what it links to counts.
        what: what such a file holds, for messages.
        most: bytes that it may have.

    Raises:
        InputError: there is none, it cannot be read, is a folder, a pipe or a device, or is longer.
    """
    told = f"expected the file of {_article(what)}."
    try:
        _check_kind(os.stat(path), path, told)  # before it is opened: opening a device may already do something
        # A pipe that took the file's place since would be waited for; opened so, it is found out by what it is.
        handle = os.open(path, os.O_RDONLY | getattr(os, "O_NONBLOCK", 0) | getattr(os, "O_BINARY", 0))
    except (OSError, ValueError, TypeError) as error:  # ValueError: a null byte in the name
        raise InputError(f"{_shown(path)} cannot be read ({_reason(error)}); {told}") from error
    with os.fdopen(handle, "rb") as file:
        about = os.fstat(handle)
        _check_kind(about, path, told)
        if about.st_size > most:
            raise InputError(f"{_shown(path)} has {about.st_size} bytes, and up to {most} are read; {told}")
        try:
            return file.read(most)
        except OSError as error:
            raise InputError(f"{_shown(path)} cannot be read ({_reason(error)}); {told}") from error


def read_text(path: Where, what: str, most: int = LONGEST_TEXT) -> str:
    """The text of a regular file in UTF-8; a mark of the byte order at its beginning is left out.

    Raises:
        InputError: as :func:`read_bytes`, or it is no UTF-8.
    """
    try:
        return read_bytes(path, what, most).decode("utf-8-sig")
    except UnicodeDecodeError as error:
        raise InputError(f"{_shown(path)} holds no {what}: it is no UTF-8 ({_reason(error)}).") from error


def read_json(path: Where, what: str, most: int = LONGEST_TEXT) -> Any:
    """What a JSON file holds.

    Raises:
        InputError: as :func:`read_text`, or it is no JSON.
    """
    return parsed_json(read_text(path, what, most), _shown(path), what)


def parsed_json(text: str | bytes, where: str, what: str) -> Any:
    """What a JSON text holds.

    Args:
        text: the text.
        where: where it stands, for messages.
        what: what it ought to hold.

    Raises:
        InputError: it is no JSON, or nests so deep that nobody meant it.
    """
    try:
        return json.loads(text)
    except (ValueError, TypeError) as error:
        raise InputError(f"{where} holds no {what}: it is no JSON ({_reason(error)}).") from error
    except RecursionError as error:
        raise InputError(f"{where} holds no {what}: it nests too deep.") from error


def _shown(path: Any) -> str:
    return repr(os.fspath(path))[:300] if isinstance(path, str | os.PathLike) else repr(path)[:300]


def _article(what: str) -> str:
    return f"{'an' if what[:1] in 'aeiou' else 'a'} {what}"


def _reason(error: Exception) -> str:
    return str(getattr(error, "strerror", None) or error)[:200]


def _kind(mode: int) -> str:
    kinds = {stat.S_ISDIR: "a folder", stat.S_ISFIFO: "a pipe", stat.S_ISSOCK: "a socket"}
    return next((told for is_kind, told in kinds.items() if is_kind(mode)), "a device")


def _check_kind(about: os.stat_result, path: Where, told: str) -> None:
    if not stat.S_ISREG(about.st_mode):
        raise InputError(f"{_shown(path)} is no regular file but {_kind(about.st_mode)}; {told}")
