"""Tensors that were saved as safetensors, and what was written about them: looked at before any value is read.

A header may claim anything: more bytes than the file has, shapes of terabytes, tensors over each other. So it is read
first, as the JSON that it is, and each claim is held against the length of the file.
"""

from __future__ import annotations

import math
import os
from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor

from lostattn.errors import InputError
from lostattn.saved.reading import Where, opened, parsed_json
from lostattn.saved.shape import COUNT, MapOf, checked, fixed, one_of

LONGEST_HEADER = 100_000_000  # bytes, as safetensors has it
MOST_AXES = 64  # of a tensor, as torch has it
LARGEST = 1 << 53  # the product of a shape's sizes, those that are zero left out: torch counts strides by it
_WIDTHS = {
    **dict.fromkeys(("BOOL", "U8", "I8", "F8_E5M2", "F8_E4M3", "F8_E5M2FNUZ", "F8_E4M3FNUZ", "F8_E8M0"), 1),
    **dict.fromkeys(("U16", "I16", "F16", "BF16"), 2),
    **dict.fromkeys(("U32", "I32", "F32"), 4),
    **dict.fromkeys(("U64", "I64", "F64", "C64"), 8),
}
_KEY, _METADATA = "lostattn", "__metadata__"
_TENSOR = {
    "dtype": one_of(*_WIDTHS),
    "shape": [COUNT],
    "data_offsets": fixed(COUNT, COUNT),
}


def read_tensors(
    path: Where, kind: str, what: str, shape: Mapping[str, Any]
) -> tuple[dict[str, Tensor], dict[str, Any]]:
    """The tensors of a file, and what was written about them.

    Args:
        path: of the file.
        kind: what its ``"format"`` must say.
        what: what such a file holds, for messages: ``"means"``, ``"a pool"``.
        shape: of what was written about them, as :func:`lostattn.saved.shape.checked` takes it.

    Raises:
        InputError: there is no such file, it is no safetensors file or not whole, it is of another kind, or what was
            written about the tensors is not what this kind has.
    """
    from safetensors import safe_open

    if isinstance(path, str | os.PathLike) and not os.path.exists(
        path
    ):  # False of a name that is too long, or with a null byte
        raise InputError(f"there is no file {str(path)[:300]!r}; give one that holds {what}.")
    where = repr(str(path))[:300]
    header = _read_header(path, where, what)
    text = header.get(_METADATA, {}).get(_KEY)
    said = f"{where} does not hold {what}: what it says of itself"
    held = None if text is None else parsed_json(text, said, loose=True)
    if not isinstance(held, dict) or held.get("format") != kind:
        raise InputError(f"{where} does not hold {what} of this format ({kind}).")
    checked(held, shape, where, what)
    try:
        with safe_open(str(path), framework="pt") as file:
            return {name: file.get_tensor(name) for name in file.keys()}, held  # noqa: SIM118
    except Exception as error:  # its own error, and torch's where a dtype or a size is none of torch's
        raise _damaged(where, what, str(error)[:200]) from error


def require_tensors(tensors: Mapping[str, Tensor], expected: Mapping[str, tuple[tuple[int | None, ...], str]]) -> None:
    """Hold tensors of a file to what they are to be.

    Args:
        tensors: those of the file.
        expected: by name, the sizes of a tensor (``None`` for any), and what its numbers are: ``"whole"``, ``"real"``,
            ``"pixel"`` (uint8).

    Raises:
        InputError: one is not there, or is another.
    """
    for name, (sizes, sort) in expected.items():
        told = f"{str(list(sizes)).replace('None', 'any')} of {sort} numbers"
        if name not in tensors:
            raise InputError(f"it has no tensor {name[:200]!r}; expected one of shape {told}.")
        value = tensors[name]
        fits = len(value.shape) == len(sizes)
        fits = fits and all(n in (None, have) for n, have in zip(sizes, value.shape, strict=True))
        if not fits or not _is_of(value.dtype, sort):
            found = f"{list(value.shape)} of {str(value.dtype).removeprefix('torch.')}"
            raise InputError(f"{name[:200]!r} is of shape {found}; expected {told}.")


def _is_of(dtype: torch.dtype, sort: str) -> bool:
    if sort == "whole":
        return dtype in (torch.int8, torch.int16, torch.int32, torch.int64)
    return dtype == torch.uint8 if sort == "pixel" else dtype.is_floating_point


def _read_header(path: Where, where: str, what: str) -> dict[str, Any]:
    """The header of a file, once each of its claims is one that the file can keep."""
    with opened(path, f"tensors ({what})") as file:
        size = os.fstat(file.fileno()).st_size
        start = file.read(8)
        length = int.from_bytes(start, "little")
        if len(start) < 8 or length > min(size - 8, LONGEST_HEADER):
            claim = f"a file of {size} bytes whose header is to have {length}" if len(start) == 8 else f"{size} bytes"
            raise _damaged(where, what, f"it is {claim}")
        text = file.read(length)
    header = parsed_json(text, f"{where} is no safetensors file: its header")
    checked(header, {f"{_METADATA}?": MapOf(str)}, where, "header of tensors")
    tensors = {name: one for name, one in header.items() if name != _METADATA}
    checked(tensors, MapOf(_TENSOR), where, "header of tensors")
    for name, one in tensors.items():
        wrong = _wrong(one, size - 8 - length)
        if wrong:
            raise _damaged(where, what, f"the tensor {name[:80]!r} {wrong}")
    return dict(header)


def _wrong(one: Mapping[str, Any], held: int) -> str:
    """What the claims about one tensor have against each other, or against the bytes that there are."""
    shape, (start, end) = one["shape"], one["data_offsets"]
    told = f"is to be {one['dtype']} of shape {str(shape)[:80]}"
    if len(shape) > MOST_AXES or math.prod(n for n in shape if n) > LARGEST:
        return f"{told}, more than any tensor here"
    n_bytes = math.prod(shape) * _WIDTHS[one["dtype"]]
    if not 0 <= start <= end <= held:
        return f"is to lie from byte {start} to {end} of {held}"
    return "" if n_bytes == end - start else f"{told}, {n_bytes} bytes, and has {end - start}"


def _damaged(where: str, what: str, why: str) -> InputError:
    return InputError(f"{where} is no safetensors file, or not whole: {why}. Give the whole file that holds {what}.")
