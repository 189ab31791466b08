"""Files of tensors, with a few words about them."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from torch import Tensor

from lostattn.errors import InputError
from lostattn.files.places import PathLike
from lostattn.files.publishing import write_file


def write_tensors(path: PathLike, tensors: Mapping[str, Tensor], held: Mapping[str, Any]) -> Path:
    """Write tensors by name, and ``held`` as JSON in the file's metadata.

    ``.safetensors`` is added where the path has no ending. An interrupted write leaves what was there before.

    Raises:
        InputError: the folder cannot be written to, or ``held`` has what JSON cannot hold.
        NoRoom: the disk has no room for it; the message says where it was kept instead.
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
    size = sum(value.nbytes for value in whole.values())
    return write_file(place, lambda beside: save_file(whole, beside, metadata={"lostattn": text}), size)
