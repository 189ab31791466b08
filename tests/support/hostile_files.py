"""Files that would run code if anybody unpickled them."""

from __future__ import annotations

import io
import os
import pickle
import zipfile
from collections.abc import Iterator
from functools import partial
from typing import Any

import torch
import zstandard


def packed(content: bytes) -> bytes:
    return zstandard.ZstdCompressor(level=3).compress(content)


def saved(value: Any, **settings: Any) -> bytes:
    buffer = io.BytesIO()
    torch.save(value, buffer, **settings)
    return buffer.getvalue()


class Acting:
    """Unpickled, it calls a function."""

    def __init__(self, *call: Any) -> None:
        self.call = call

    def __reduce__(self) -> Any:
        return self.call[0], tuple(self.call[1:])


def archive(data: bytes, **parts: bytes) -> bytes:
    """An archive as ``torch.save`` lays it out, around any pickle."""
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w", zipfile.ZIP_STORED) as made:
        made.writestr("archive/data.pkl", data)
        made.writestr("archive/byteorder", b"little")
        for name, part in parts.items():
            made.writestr(f"archive/data/{name.removeprefix('n')}", part)
    return buffer.getvalue()


def acting_files(mark: str) -> Iterator[tuple[str, bytes]]:
    """Files that would make the folder ``mark`` if anybody unpickled them, each in another way."""
    act = Acting(os.mkdir, mark)
    yield "a result that acts", saved({"sent": act})
    yield "a result that acts, by torch's old format", saved({"sent": act}, _use_new_zipfile_serialization=False)
    yield "beside a tensor", saved({"sent": {"logits": torch.zeros(1, 2, 3), "kept": {}}, "more": act})
    yield "as a key", saved({"sent": {(act,): 1}})
    yield "by exec", saved({"sent": Acting(exec, f"import os; os.mkdir({mark!r})")})
    yield "by eval", saved({"sent": Acting(eval, f"__import__('os').mkdir({mark!r})")})
    yield "by a second pickle", saved({"sent": Acting(pickle.loads, pickle.dumps(act))})
    yield "by torch.load", saved({"sent": Acting(partial(torch.load, weights_only=False), io.BytesIO(saved(act)))})
    yield "by getattr", archive(b"\x80\x02cbuiltins\ngetattr\ncos\nsystem\nX\x04\x00\x00\x00join\x86R.")
    made = os.fsencode(mark)
    for protocol in range(6):
        yield f"a bare pickle of protocol {protocol}", pickle.dumps(act, protocol)
        yield f"an archive around protocol {protocol}", archive(pickle.dumps({"sent": act}, protocol))
    yield "INST", archive(b"(S'" + made + b"'\nios\nmkdir\n.")
    yield "OBJ", archive(b"(cos\nmkdir\nX" + len(made).to_bytes(4, "little") + made + b"o.")
    yield "NEWOBJ", archive(b"\x80\x02cos\nmkdir\nX" + len(made).to_bytes(4, "little") + made + b"\x85\x81.")
    yield "BUILD", archive(b"\x80\x02ctorch._utils\n_rebuild_tensor_v2\n}X\x08\x00\x00\x00__code__K\x01sb.")
    yield "EXT1", archive(b"\x80\x02\x82\x01.")
    yield "a persistent name", archive(b"\x80\x02cos\nmkdir\n)RQ.")
    yield "a name with dots", archive(pickle.dumps(Acting(os.system, "mkdir " + mark), 4))
    yield "a wrapper of tensors", saved({"sent": Acting(torch._utils._rebuild_wrapper_subclass, os.mkdir, mark)})
