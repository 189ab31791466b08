"""What a server sends back, read without running anything of it: tensors and plain values, or a clear refusal.

A result is what ``torch.save`` writes: a zip archive of a pickle and the bytes of each tensor, compressed as a whole.
``torch.load`` would unpickle it, and a pickle runs what its maker wants. Here the archive is opened with bounds on what
it may grow to, the pickle is walked by :mod:`lostattn.remote.plain_values`, and each tensor is laid over its own bytes.
"""

from __future__ import annotations

import io
import re
import struct
import zipfile
import zlib
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from lostattn.remote.failures import UnreadableResult
from lostattn.remote.memory import largest
from lostattn.remote.plain_values import Name, Refused, plain_value

GROWTH = 200  # how many times its compressed size a result may be; activations shrink to a half, masks to much less
SMALL = 1 << 28  # bytes that any result may have, however well it was compressed
WINDOW = 1 << 27  # of zstd's strongest setting
MOST_PARTS = 200_000  # tensors of one result
LARGEST_PICKLE = 1 << 26  # bytes of what is no tensor
BROKEN_ZIP = (
    *(zipfile.BadZipFile, NotImplementedError, RuntimeError, EOFError, OSError),
    *(ValueError, KeyError, IndexError, OverflowError, struct.error, zlib.error),
)

_DTYPES = {name: dtype for name, dtype in vars(torch).items() if isinstance(dtype, torch.dtype)}
_OF_STORAGE = {
    f"{name}Storage": dtype
    for name, dtype in {
        **{"Double": torch.float64, "Float": torch.float32, "Half": torch.float16, "BFloat16": torch.bfloat16},
        **{"Long": torch.int64, "Int": torch.int32, "Short": torch.int16, "Char": torch.int8, "Byte": torch.uint8},
        **{"Bool": torch.bool, "ComplexFloat": torch.complex64, "ComplexDouble": torch.complex128},
        "Untyped": torch.uint8,
    }.items()
}


def read_result(content: bytes, compressed: bool, host: str) -> dict[str, Any]:
    """The values that a job left, by name.

    Args:
        content: as it came.
        compressed: whether it was to be compressed with zstd.
        host: who sent it, for messages.

    Raises:
        UnreadableResult: it is larger than it may be, no file of ``torch.save``, or holds what is neither a tensor nor
            a plain value.
    """
    try:
        found = _Archive(unpacked(content, len(content)) if compressed else content).value()
    except Refused as error:
        raise UnreadableResult(
            f"{host} sent {error}. A result holds tensors, numbers, texts, lists and dicts, as torch.save writes them; "
            "nothing else is read, so that nothing of a server runs here. Return such values from hooks and metrics; "
            'remote="local" reads its results the same way.'
        ) from error
    if not isinstance(found, dict):
        raise UnreadableResult(f"{host} sent a {type(found).__name__} as its result; expected values by name.")
    return found


def unpacked(content: bytes, n_bytes: int) -> bytes:
    """What zstd packed, as long as it is no larger than ``n_bytes`` may grow to.

    Raises:
        Refused: it is larger, or was not packed by zstd.
    """
    import zstandard

    most = min(max(SMALL, GROWTH * n_bytes), largest())
    whole = io.BytesIO()
    try:
        with zstandard.ZstdDecompressor(max_window_size=WINDOW).stream_reader(content) as reader:
            while chunk := reader.read(1 << 20):
                whole.write(chunk)
                if whole.tell() > most:
                    raise Refused(
                        f"{n_bytes} bytes that grow to more than {most} when they are unpacked. If they are meant, "
                        "ask for fewer points at a time"
                    )
    except zstandard.ZstdError as error:
        raise Refused(f"what zstd did not pack ({error})") from error
    return whole.getvalue()


@dataclass(frozen=True)
class _Storage:
    """The bytes that a tensor lies in, and what they are numbers of."""

    values: Tensor


class _Archive:
    """A file of ``torch.save``."""

    def __init__(self, content: bytes) -> None:
        try:
            self.zip = zipfile.ZipFile(io.BytesIO(content))
            self.parts = {part.filename: part for part in self.zip.infolist()}
        except BROKEN_ZIP as error:
            raise Refused(f"what torch.save does not write ({str(error)[:200]})") from error
        self._check_parts(len(content))
        self.room = max(SMALL, GROWTH * len(content))
        self.storages: dict[tuple[str, torch.dtype], _Storage] = {}
        pickles = [name for name in self.parts if re.fullmatch(r"[^/]{1,200}/data\.pkl", name)]
        if len(pickles) != 1:
            raise Refused(f"an archive with {len(pickles)} values in it; expected one")
        self.folder = pickles[0].removesuffix("data.pkl")

    def _check_parts(self, n_bytes: int) -> None:
        """Each part as it is and once: nothing compressed within, nothing that lies over another."""
        if len(self.parts) > MOST_PARTS or len(self.zip.infolist()) != len(self.parts):
            raise Refused("an archive with too many parts, or two of one name")
        for part in self.parts.values():
            if part.compress_type != zipfile.ZIP_STORED or part.flag_bits & 1 or part.file_size != part.compress_size:
                raise Refused("an archive whose parts are packed again; torch.save writes them as they are")
        if sum(part.file_size for part in self.parts.values()) > n_bytes:
            raise Refused("an archive whose parts lie over each other")

    def value(self) -> Any:
        """What was saved."""
        if self.bytes_of("byteorder", b"little").strip() != b"little":
            raise Refused("numbers whose bytes are in another order than this machine's")
        data = self.bytes_of("data.pkl")
        if len(data) > LARGEST_PICKLE:
            raise Refused(f"{len(data)} bytes beside its tensors; up to {LARGEST_PICKLE} are read")
        makers = {
            **{Name("torch._utils", f"_rebuild_tensor_v{version}"): self.tensor for version in (2, 3)},
            **_PLAIN_MAKERS,
        }
        return plain_value(data, makers, _CONSTANTS, self.stored)

    def bytes_of(self, name: str, otherwise: bytes | None = None) -> bytes:
        """One part of the archive, whole and with its checksum right."""
        part = self.parts.get(self.folder + name)
        if part is None:
            if otherwise is not None:
                return otherwise
            raise Refused(f"an archive without {name[:80]!r}")
        try:
            return self.zip.read(part)
        except BROKEN_ZIP as error:
            raise Refused(f"a damaged archive ({str(error)[:200]})") from error

    def stored(self, key: Any) -> _Storage:
        """The storage that a pickle names: ``("storage", kind, number, device, n)``."""
        if not (isinstance(key, tuple) and len(key) == 5 and key[0] == "storage" and isinstance(key[1], Name)):
            raise Refused("a reference that is no tensor's storage")
        _, kind, number, _, n = key
        dtype = _OF_STORAGE.get(kind.name) if kind.module in ("torch", "torch.storage") else None
        if dtype is None or not isinstance(number, str) or not re.fullmatch(r"\d{1,9}", number):
            raise Refused(f"a storage of {kind}, which holds no plain numbers")
        if (number, dtype) not in self.storages:
            whole = self.storages.get((number, torch.uint8)) or _Storage(_owned(self.bytes_of(f"data/{number}")))
            self.storages[number, torch.uint8] = whole
            self.storages[number, dtype] = _Storage(_typed(whole.values, dtype))
        found = self.storages[number, dtype]
        if type(n) is not int or n != found.values.numel():
            raise Refused(f"a storage of {n!r} numbers in {found.values.numel()}")
        return found

    def tensor(
        self,
        storage: Any,
        offset: Any,
        size: Any,
        stride: Any,
        requires_grad: Any = False,
        hooks: Any = None,
        dtype: Any = None,
        more: Any = None,
    ) -> Tensor:
        """A tensor over its storage, after a look at whether it lies within."""
        if not isinstance(storage, _Storage) or hooks or more:
            raise Refused("a tensor of a kind that is not read; return dense tensors")
        if isinstance(dtype, dict) and dtype:  # of a plain tensor: that it is a conjugate or negative of another
            raise Refused("a tensor that is a view of its conjugate; return it resolved")
        values = _typed(storage.values, dtype) if isinstance(dtype, torch.dtype) else storage.values
        numbers = (offset, *_sizes(size), *_sizes(stride))
        if len(size) != len(stride) or any(type(n) is not int or n < 0 for n in numbers):
            raise Refused("a tensor whose shape is none")
        count = 1
        for n in size:
            count *= n
        if count and offset + sum((n - 1) * step for n, step in zip(size, stride, strict=True)) >= values.numel():
            raise Refused("a tensor that reaches beyond its bytes")
        if count * values.element_size() > self.room:  # one value may stand for many: strides of zero
            raise Refused(f"a tensor that stands for {count} numbers in {values.nbytes} bytes")
        return values.as_strided(tuple(size), tuple(stride), offset) if count else values.new_empty(tuple(size))


def _owned(content: bytes) -> Tensor:
    values = torch.empty(len(content), dtype=torch.uint8)
    if content:
        values.numpy()[:] = memoryview(content)
    return values


def _typed(values: Tensor, dtype: torch.dtype) -> Tensor:
    if values.dtype is dtype:
        return values
    if values.dtype is not torch.uint8 or values.numel() % dtype.itemsize:
        raise Refused(f"{values.numel()} bytes of {dtype}, which do not come out even")
    # A bool is one byte, of which torch expects 0 or 1.
    return values.ne(0) if dtype is torch.bool else values.view(dtype)


def _sizes(value: Any) -> tuple[Any, ...]:
    if not isinstance(value, tuple | list) or len(value) > 64:
        raise Refused("a tensor whose shape is none")
    return tuple(value)


def _parameter(values: Any, *_: Any) -> Tensor:
    if not isinstance(values, Tensor):
        raise Refused("a parameter that is no tensor")
    return values


def _encoded(text: Any, encoding: Any) -> bytes:
    """Bytes, which older pickles write as text."""
    if not isinstance(text, str) or encoding not in ("latin1", "latin-1"):
        raise Refused("a text in an encoding that is not read")
    return text.encode("latin-1")


def _ordered(items: Any = ()) -> dict[Any, Any]:
    if not isinstance(items, list | tuple) or not all(isinstance(one, list | tuple) and len(one) == 2 for one in items):
        raise Refused("a dict whose items are no pairs")
    if not all(isinstance(key, str | int) for key, _ in items):
        raise Refused("a dict whose keys are neither texts nor numbers")
    return dict(items)


def _members(values: Any) -> Any:
    if not isinstance(values, list | tuple) or not all(isinstance(one, str | bytes | int | float) for one in values):
        raise Refused("a set of what is neither texts nor numbers")
    return values


def _set(values: Any = ()) -> set[Any]:
    return set(_members(values))


def _frozenset(values: Any = ()) -> frozenset[Any]:
    return frozenset(_members(values))


def _no_bytes() -> bytes:
    """Of none alone: other bytes are written as text in older pickles, and by themselves in newer ones."""
    return b""


def _bytearray(content: Any = b"", encoding: Any = None) -> bytearray:
    if isinstance(content, bytes) and encoding is None:
        return bytearray(content)
    return bytearray(_encoded(content, encoding))


def _complex(real: Any, imaginary: Any) -> complex:
    if not (isinstance(real, int | float) and isinstance(imaginary, int | float)):
        raise Refused("a complex number of what are no numbers")
    return complex(real, imaginary)


def _size(value: Any = ()) -> torch.Size:
    if not all(type(n) is int for n in _sizes(value)):
        raise Refused("a shape of what are no whole numbers")
    return torch.Size(value)


def _device(kind: Any, index: Any = None) -> torch.device:
    if kind not in ("cpu", "cuda", "mps", "meta") or not (index is None or type(index) is int):
        raise Refused("a device that is none")
    return torch.device(kind) if index is None else torch.device(kind, index)


def _builtin(name: str, maker: Any) -> Mapping[Name, Any]:
    return {Name(module, name): maker for module in ("builtins", "__builtin__")}


_CONSTANTS: dict[Name, Any] = {Name("torch", name): dtype for name, dtype in _DTYPES.items()}
_PLAIN_MAKERS: dict[Name, Any] = {
    Name("torch._utils", "_rebuild_parameter"): _parameter,
    Name("torch", "Size"): _size,
    Name("torch", "device"): _device,
    Name("collections", "OrderedDict"): _ordered,
    Name("_codecs", "encode"): _encoded,
    **_builtin("set", _set),
    **_builtin("frozenset", _frozenset),
    **_builtin("bytearray", _bytearray),
    **_builtin("bytes", _no_bytes),
    **_builtin("complex", _complex),
}
