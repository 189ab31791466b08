"""Files as they come from strangers and from half a run: cut, of another kind, with other values in their places."""

from __future__ import annotations

import copy
import json
import os
import socket
from collections.abc import Iterator
from pathlib import Path
from typing import Any

DEEP = "[" * 200_000
ALIENS = [None, True, -1, 1 << 70, 1.5, float("nan"), float("inf"), "", "\x00", "x" * 500, [], {}, [[]], {"a": 1}]


def in_the_way(folder: Path) -> Iterator[str]:
    """Names in a folder that are no files, each of another sort; a reader that opened some would wait for ever."""
    (folder / "a folder").mkdir()
    os.mkfifo(folder / "a pipe")
    (folder / "to a device").symlink_to("/dev/zero")
    (folder / "round and round").symlink_to(folder / "round and round")
    (folder / "to nothing").symlink_to(folder / "nothing")
    with socket.socket(socket.AF_UNIX) as listening:
        listening.bind(os.path.relpath(folder / "a socket"))
    yield from ("a folder", "a pipe", "to a device", "round and round", "to nothing", "a socket")
    yield from ("missing", "\x00", "n" * 300, "a/" * 3000, "half \ud800")


def cut(content: bytes) -> Iterator[tuple[str, bytes]]:
    """What is left of a file, or stands in its place."""
    yield "empty", b""
    yield "a byte", content[:1]
    for part in (7, 8, 9, 40, len(content) // 2, len(content) - 1):
        yield f"its first {part} bytes", content[:part]
    yield "zeros", bytes(len(content))
    yield "ones", b"\xff" * len(content)
    yield "no UTF-8", b'{"a": "\xff\xfe"}'
    yield "deep", DEEP.encode()
    yield "deep dicts", b'{"a":' * 200_000
    yield "a list", b"[1, 2]"
    yield "a text", b'"text"'
    yield "a page", b"<!doctype html><title>404</title>"


def places(value: Any, at: tuple[Any, ...] = ()) -> Iterator[tuple[Any, ...]]:
    """The place of everything inside JSON, as keys and indices."""
    inside = value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ()
    for key, part in inside:
        yield (*at, key)
        yield from places(part, (*at, key))


def changed(value: Any, at: tuple[Any, ...], alien: Any) -> Any:
    """JSON with another value in one place."""
    out = copy.deepcopy(value)
    held = out
    for key in at[:-1]:
        held = held[key]
    held[at[-1]] = alien
    return out


def without(value: Any, at: tuple[Any, ...]) -> Any:
    """JSON that lacks what stands in one place."""
    out = copy.deepcopy(value)
    held = out
    for key in at[:-1]:
        held = held[key]
    del held[at[-1]]
    return out


def texts(value: Any) -> Iterator[tuple[str, str]]:
    """Texts of JSON that are not what they seem, of a dict."""
    whole = json.dumps(value)
    yield "a key twice", f'{{"format": 1, "format": 1, {whole[1:]}'
    yield "a number too large", f'{{"huge": 1e999, {whole[1:]}'
    yield "a number of 5,000 digits", f'{{"huge": {"9" * 5000}, {whole[1:]}'
    yield "half a surrogate pair", f'{{"half": "\\ud83d", {whole[1:]}'
    yield "nested", f'{{"deep": {"[" * 500}{"]" * 500}, {whole[1:]}'
    yield "no JSON", whole[:-1]
    yield "more behind it", f"{whole} {whole}"


def tensor_file(tensors: dict[str, Any], held: Any, data: bytes) -> bytes:
    """A safetensors file whose header says what it is told."""
    said = {} if held is None else {"__metadata__": {"lostattn": held if isinstance(held, str) else json.dumps(held)}}
    return header_file(json.dumps({**said, **tensors}), data)


def header_file(header: str, data: bytes = b"", length: int | None = None) -> bytes:
    text = header.encode()
    return (len(text) if length is None else length).to_bytes(8, "little") + text + data


def taken_apart(content: bytes) -> tuple[dict[str, Any], dict[str, Any], bytes]:
    """What a file claims of its tensors, what it says in words, and its values."""
    n = int.from_bytes(content[:8], "little")
    header = json.loads(content[8 : 8 + n])
    return header, json.loads(header.pop("__metadata__")["lostattn"]), content[8 + n :]
