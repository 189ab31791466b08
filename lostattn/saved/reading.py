"""Reading back what was saved: regular files up to a length, texts and JSON. A file may come from anybody."""

from __future__ import annotations

import json
import math
import os
import re
import stat
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any, BinaryIO

from lostattn.errors import InputError, LostAttnError

Where = str | os.PathLike[str]
LONGEST_TEXT = 1 << 30  # bytes of a text file that is read as a whole
DEEPEST = 100  # lists and dicts within each other: whoever reads them calls itself as often, a few times over
LONGEST_NUMBER = 400  # digits of a whole number; the largest float has 309


@contextmanager
def opened(path: Where, what: str) -> Iterator[BinaryIO]:
    """A regular file, opened for reading.

    Args:
        path: of the file; what it links to counts.
        what: what such a file holds, for messages.

    Raises:
        InputError: there is none, it cannot be read, or is a folder, a pipe or a device.
    """
    told = f"expected the file of {_article(what)}."
    if not isinstance(path, str | os.PathLike):
        raise InputError(f"{_shown(path)} is a {type(path).__name__} and no path; {told}")
    try:
        _check_kind(os.stat(path), path, told)  # before it is opened: opening a device may already do something
        # A pipe that took the file's place since would be waited for; opened so, it is found out by what it is.
        handle = os.open(path, os.O_RDONLY | getattr(os, "O_NONBLOCK", 0) | getattr(os, "O_BINARY", 0))
    except (OSError, ValueError) as error:  # ValueError: a null byte in the name, or half a surrogate pair
        raise InputError(f"{_shown(path)} cannot be read ({_reason(error)}); {told}") from error
    with os.fdopen(handle, "rb") as file:
        _check_kind(os.fstat(handle), path, told)
        try:
            yield file
        except OSError as error:
            raise InputError(f"{_shown(path)} cannot be read ({_reason(error)}); {told}") from error


def read_bytes(path: Where, what: str, most: int = LONGEST_TEXT) -> bytes:
    """The bytes of a regular file.

    Args:
        path: of the file; what it links to counts.
        what: what such a file holds, for messages.
        most: bytes that it may have.

    Raises:
        InputError: as :func:`opened`, or it is longer.
    """
    with opened(path, what) as file:
        size = os.fstat(file.fileno()).st_size
        if size > most:
            raise InputError(
                f"{_shown(path)} has {size} bytes, and up to {most} are read; expected the file of {_article(what)}."
            )
        return file.read(most)


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
    return parsed_json(read_text(path, what, most), f"{_shown(path)} holds no {what}: it")


def parsed_json(text: str | bytes, where: str, loose: bool = False) -> Any:
    """What a JSON text holds.

    Args:
        text: the text.
        where: where it stands, as messages begin: ``"'a.json' holds no job: it"``.
        loose: whether NaN and infinities may stand in it, as Python's ``json`` writes them.

    Raises:
        InputError: it is no JSON, names a key twice, holds a number that no float holds or half a surrogate pair, or
            nests so deep that nobody meant it.
    """
    try:
        value = json.loads(
            text,
            object_pairs_hook=_dict,
            parse_int=_whole,
            parse_float=_finite,
            parse_constant=float if loose else _no_constant,
        )
    except json.JSONDecodeError as error:
        raise InputError(f"{where} is not JSON: {error.msg} at line {error.lineno}, column {error.colno}.") from error
    except (ValueError, TypeError) as error:
        raise InputError(f"{where} is not JSON: {_reason(error)}.") from error
    except RecursionError as error:
        raise InputError(f"{where} nests too deep.") from error
    _check_inside(value, where)
    return value


@contextmanager
def told_where(where: Any, what: str) -> Iterator[None]:
    """Names the file in errors about what stands in it."""
    try:
        yield
    except LostAttnError as error:
        raise InputError(f"{_shown(where)} holds no {what}: {error}") from error


def _dict(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    made = dict(pairs)
    if len(made) < len(pairs):
        keys = [key for key, _ in pairs]
        twice = next(key for key in keys if keys.count(key) > 1)
        raise ValueError(f"it names {twice[:80]!r} twice")
    return made


def _whole(text: str) -> int:
    if len(text) > LONGEST_NUMBER:
        raise ValueError(f"it holds a number of {len(text)} digits")
    return int(text)


def _finite(text: str) -> float:
    number = float(text)
    if math.isinf(number):
        raise ValueError(f"it holds {text[:40]}, more than any number here")
    return number


def _no_constant(text: str) -> float:
    raise ValueError(f"it holds {text}, which is no number of JSON")


def _check_inside(value: Any, where: str) -> None:
    """Whether a value is one that texts, messages and functions that call themselves can take."""
    level: list[Any] = [value]
    for _ in range(DEEPEST):
        texts = [one for one in level if isinstance(one, str)]
        texts += [key for one in level if isinstance(one, dict) for key in one]
        half = next((found for text in texts if (found := re.search("[\ud800-\udfff]", text))), None)
        if half is not None:
            raise InputError(
                f"{where} holds {hex(ord(half[0]))}, half of a surrogate pair and no character; take it out."
            )
        lists = (one.values() if isinstance(one, dict) else one for one in level if isinstance(one, dict | list))
        level = [inner for one in lists for inner in one]
        if not level:
            return
    raise InputError(f"{where} nests too deep: more than {DEEPEST} lists within each other.")


def _shown(path: Any) -> str:
    return repr(os.fspath(path))[:300] if isinstance(path, str | os.PathLike) else repr(path)[:300]


def _article(what: str) -> str:
    if what.startswith(("a ", "an ")):
        return what
    return f"{'an' if what[:1] in 'aeiou' else 'a'} {what}"


def _reason(error: Exception) -> str:
    return str(getattr(error, "strerror", None) or error)[:200]


def _kind(mode: int) -> str:
    kinds = {stat.S_ISDIR: "a folder", stat.S_ISFIFO: "a pipe", stat.S_ISSOCK: "a socket"}
    return next((told for is_kind, told in kinds.items() if is_kind(mode)), "a device")


def _check_kind(about: os.stat_result, path: Where, told: str) -> None:
    if not stat.S_ISREG(about.st_mode):
        raise InputError(f"{_shown(path)} is no regular file but {_kind(about.st_mode)}; {told}")
