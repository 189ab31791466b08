"""Tensors on disk with a few words about them: one safetensors file, written whole or not at all."""

from __future__ import annotations

import json
import os
import tempfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from torch import Tensor

from lostattn.errors import InputError

Where = str | os.PathLike[str]


def write_tensors(path: Where, tensors: Mapping[str, Tensor], held: Mapping[str, Any]) -> Path:
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


def read_tensors(path: Where, kind: str, what: str) -> tuple[dict[str, Tensor], dict[str, Any]]:
    """The tensors of a file, and what was written about them.

    Args:
        path: of the file.
        kind: what its ``"format"`` must say.
        what: what such a file holds, for messages.

    Raises:
        InputError: there is no such file, it is no safetensors file, or it is of another kind.
    """
    from safetensors import SafetensorError, safe_open

    if not Path(path).is_file():
        raise InputError(f"there is no file {str(path)!r}; give one that holds {what}.")
    try:
        with safe_open(str(path), framework="pt") as file:
            held = json.loads((file.metadata() or {}).get("lostattn", "{}"))
            tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
    except SafetensorError as error:
        raise InputError(f"{str(path)!r} is no safetensors file: {error}.") from error
    if held.get("format") != kind:
        raise InputError(f"{str(path)!r} does not hold {what} of this format ({kind}).")
    return tensors, held
