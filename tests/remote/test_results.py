"""What a server sends is read as tensors and plain values, or refused: nothing of it runs, and nothing of it bursts."""

from __future__ import annotations

import io
import pickle
import pickletools
import resource
import zipfile
from collections import OrderedDict

import hypothesis.strategies as st
import pytest
import torch
import zstandard
from hostile_files import acting_files, archive, packed, saved
from hypothesis import given, settings

from lostattn.remote.failures import UnreadableResult
from lostattn.remote.results import read_result

DTYPES = [torch.float64, torch.float32, torch.float16, torch.bfloat16, torch.complex64, torch.complex128]
DTYPES += [
    torch.int64,
    torch.int32,
    torch.int16,
    torch.int8,
    torch.uint8,
    torch.bool,
    torch.float8_e4m3fn,
    torch.uint16,
]


def read(content: bytes, compressed: bool = False):
    return read_result(content, compressed, "http://there")


def same(a: object, b: object) -> bool:
    """Whether two values are one, bit for bit and type for type."""
    if isinstance(a, torch.Tensor):
        whole = isinstance(b, torch.Tensor) and a.dtype == b.dtype and a.shape == b.shape and a.stride() == b.stride()
        return whole and a.contiguous().view(-1).tolist().__repr__() == b.contiguous().view(-1).tolist().__repr__()
    if isinstance(a, dict):
        return isinstance(b, dict) and list(a) == list(b) and all(same(a[key], b[key]) for key in a)
    if isinstance(a, list | tuple):
        return type(a) is type(b) and len(a) == len(b) and all(map(same, a, b))
    return type(a) is type(b) and a == b


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
def test_a_tensor_of_each_dtype_comes_back(dtype):
    made = torch.arange(24).reshape(2, 3, 4).remainder(2).to(dtype)
    views = {"whole": made, "turned": made.transpose(0, 2), "part": made[1, :, 1:3], "one": made[1, 2, 3]}
    views |= {"none": made[:0], "wide": made[:1].expand(5, 3, 4)}
    found = read(saved({"sent": views}))["sent"]
    assert same(views, found)
    assert found["whole"].untyped_storage().data_ptr() == found["turned"].untyped_storage().data_ptr()


def test_plain_values_come_back():
    value = {
        "sent": [None, True, 3, -(1 << 40), 2.5, float("inf"), "Wörter", b"\x00\xff", (1, (2,)), {1, 2}, 1j],
        "more": OrderedDict(a=torch.Size([2, 3]), b=torch.device("cuda", 1), c=torch.float16, d=frozenset({"x"})),
        "bytes": bytearray(b"\x00\xff"),
        "parameter": torch.nn.Parameter(torch.ones(3)),
    }
    for protocol in (2, 3, 4, 5):
        found = read(saved(value, pickle_protocol=protocol))
        assert same(value["sent"], found["sent"]) and same(value["bytes"], found["bytes"])
        assert same(dict(value["more"]), found["more"])
        assert type(found["parameter"]) is torch.Tensor and not found["parameter"].requires_grad
    assert same(value["sent"], read(packed(saved(value)), True)["sent"])


PLAIN = st.recursive(
    st.none()
    | st.booleans()
    | st.integers(-(1 << 63), (1 << 63) - 1)
    | st.floats(allow_nan=False)
    | st.text()
    | st.binary(),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(), inner, max_size=4) | st.tuples(inner, inner),
    max_leaves=12,
)


@settings(max_examples=150, deadline=None)
@given(PLAIN, st.sampled_from([2, 3, 4, 5]))
def test_whatever_is_plain_is_as_torch_reads_it(value, protocol):
    content = saved({"sent": value}, pickle_protocol=protocol)
    assert same(torch.load(io.BytesIO(content), weights_only=False), read(content))


def test_nothing_of_a_file_runs(tmp_path):
    mark = tmp_path / "it ran"
    files = dict(acting_files(str(mark)))
    for told, content in files.items():
        with pytest.raises(UnreadableResult, match="http://there sent"):
            read(content)
        with pytest.raises(UnreadableResult, match="http://there sent"):
            read(packed(content), True)
        assert not mark.exists(), told
    assert len(files) > 20
    pickle.loads(files["a bare pickle of protocol 2"])
    assert mark.exists(), "unpickled, such a file acts"


BAD = {
    "nothing": b"",
    "no zip": b"PK\x03\x04" + bytes(100),
    "an empty zip": b"PK\x05\x06" + bytes(18),
    "no value": archive(b""),
    "cut": archive(b"\x80\x02}"),
    "two values": archive(b"\x80\x02K\x01K\x02."),
    "a number of millions of bits": archive(pickle.dumps({"sent": 1 << 100_000})),
    "no dict": archive(b"\x80\x02K\x01."),
    "a mark that is left": archive(b"\x80\x02]((e."),
    "lists in lists": archive(b"\x80\x02" + b"]" * 1000 + b"a" * 999 + b"."),
    "a list in itself": archive(b"\x80\x02]q\x00h\x00a."),
    "lists that double": archive(b"\x80\x02]q\x00" + b"".join(b"](h\x00h\x00eq\x00" for _ in range(60)) + b"."),
    "tuples that double, as a key": archive(b"\x80\x02})q\x00" + b"h\x00h\x00\x86q\x00" * 60 + b"K\x01s."),
    "texts that double": archive(
        b"\x80\x02]X\x00\x00\x10\x00"
        + b"a" * (1 << 20)
        + b"q\x00"
        + b"c_codecs\nencode\nh\x00X\x06\x00\x00\x00latin1\x86R" * 400
        + b"."
    ),
    "a storage that is none": archive(
        b"\x80\x02(X\x07\x00\x00\x00storagectorch\nFloatStorage\nX\x01\x00\x00\x000X\x03\x00\x00\x00cpuK\x05tQ."
    ),
}


@pytest.mark.parametrize("told", BAD)
def test_what_is_no_result_is_refused(told):
    with pytest.raises(UnreadableResult, match="http://there sent"):
        read(BAD[told])


def tensor_file(size: tuple[int, ...], stride: tuple[int, ...], offset: int = 0, n: object = 6, held: int = 6) -> bytes:
    """A tensor over ``held`` floats that says of itself what it is told."""

    class Laid:
        def __reduce__(self):
            return torch._utils._rebuild_tensor_v2, (Stored(), offset, size, stride, False, {})

    class Stored:
        pass

    class Pickler(pickle.Pickler):
        def persistent_id(self, value):
            return ("storage", torch.FloatStorage, "0", "cpu", n) if isinstance(value, Stored) else None

    buffer = io.BytesIO()
    Pickler(buffer, 2).dump({"sent": Laid()})
    return archive(buffer.getvalue(), n0=torch.arange(held).float().numpy().tobytes())


def test_a_tensor_stays_within_its_bytes():
    assert read(tensor_file((2, 3), (3, 1)))["sent"].tolist() == [[0, 1, 2], [3, 4, 5]]
    for wrong in [
        {"size": (2, 4), "stride": (3, 1)},
        {"size": (2, 3), "stride": (3, 1), "offset": 1},
        {"size": (2, 3), "stride": (-3, 1), "offset": 5},
        {"size": (2, 3), "stride": (3, 1), "offset": -1},
        {"size": (2, 3), "stride": (3,)},
        {"size": (1 << 40,), "stride": (0,)},
        {"size": (1 << 62, 1 << 62), "stride": (0, 0)},
        {"size": (True, 3), "stride": (3, 1)},
        {"size": (2.0, 3), "stride": (3, 1)},
        {"size": "ab", "stride": "ab"},
        {"size": (2, 3), "stride": (3, 1), "n": 7},
        {"size": (2, 3), "stride": (3, 1), "n": "6"},
        {"size": (1,) * 65, "stride": (1,) * 65},
    ]:
        with pytest.raises(UnreadableResult, match="http://there sent"):
            read(tensor_file(**wrong))


def test_a_bool_is_one():
    odd = archive(pickletools_of("BoolStorage"), n0=bytes([0, 1, 2, 255]))
    assert read(odd)["sent"].tolist() == [False, True, True, True]


def pickletools_of(kind: str) -> bytes:
    """The pickle of a tensor of four numbers of a kind."""
    with zipfile.ZipFile(io.BytesIO(saved({"sent": torch.zeros(4, dtype=torch.bool)}))) as made:
        data = made.read("archive/data.pkl")
    assert any(argument == f"torch {kind}" for _, argument, _ in pickletools.genops(data))
    return data


def test_what_grows_is_refused_before_it_has_grown():
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    bomb = zstandard.ZstdCompressor(level=19).compressobj()
    content = b"".join(bomb.compress(bytes(1 << 24)) for _ in range(64)) + bomb.flush()
    assert len(content) < 1 << 20, "a gibibyte of zeros"
    with pytest.raises(UnreadableResult, match="that grow to more than"):
        read(content, True)
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w", zipfile.ZIP_DEFLATED) as made:
        made.writestr("archive/data.pkl", bytes(1 << 28))
    with pytest.raises(UnreadableResult, match="packed again"):
        read(buffer.getvalue())
    grown = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before
    assert grown < 900 << 10, "kibibytes: the bound of small results, and what this test holds itself"


def test_an_archive_whose_parts_lie_over_each_other_is_refused():
    content = saved({"sent": [torch.zeros(1000) + i for i in range(20)]})
    with zipfile.ZipFile(io.BytesIO(content)) as made:
        first = next(part for part in made.infolist() if part.filename.endswith("/data/0"))
        offset = first.header_offset.to_bytes(4, "little")
        others = [part.header_offset.to_bytes(4, "little") for part in made.infolist() if "/data/" in part.filename]
    end = content.index(b"PK\x01\x02")
    directory = content[end:]
    for other in others:
        directory = directory.replace(other, offset)
    with pytest.raises(UnreadableResult, match="http://there sent"):
        read(content[:end] + directory)


@settings(max_examples=300, deadline=None)
@given(st.data())
def test_a_mutated_file_is_read_or_refused(data):
    content = bytearray(_SAMPLE)
    for _ in range(data.draw(st.integers(1, 6))):
        at = data.draw(st.integers(0, len(content) - 1))
        content[at] = data.draw(st.integers(0, 255))
    cut = data.draw(st.integers(0, len(content)) | st.just(len(content)))
    try:
        read(bytes(content[:cut]))
    except UnreadableResult:
        pass


_SAMPLE = saved(
    {"sent": {"logits": torch.arange(24.0).reshape(2, 3, 4), "kept": {"a": torch.zeros(2, 3).half(), "b": [1, "two"]}}}
)


@settings(max_examples=300, deadline=None)
@given(st.data())
def test_a_mutated_pickle_is_read_or_refused(data):
    """Past the archive's checksum: the pickle itself is changed, and the archive made around it."""
    with zipfile.ZipFile(io.BytesIO(_SAMPLE)) as made:
        content = bytearray(made.read("archive/data.pkl"))
        parts = {f"n{i}": made.read(f"archive/data/{i}") for i in range(2)}
    for _ in range(data.draw(st.integers(1, 6))):
        at = data.draw(st.integers(0, len(content) - 1))
        content[at] = data.draw(st.integers(0, 255))
    try:
        read(archive(bytes(content), **parts))
    except UnreadableResult:
        pass
