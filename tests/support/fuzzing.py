"""Files that nobody meant, for every reader of files: random bytes, sound files damaged, JSON of other shapes.

What a reader makes of one is a right object or the toolkit's own error; anything else, and whatever takes longer than
:data:`LONGEST` seconds, is a crash.
"""

from __future__ import annotations

import copy
import json
import signal
import warnings
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import hypothesis.strategies as st
from damaged_files import places, taken_apart, tensor_file
from hypothesis import HealthCheck, Phase, given, seed, settings

from lostattn.errors import LostAttnError

LONGEST = 20  # seconds for one file on a busy machine


@dataclass
class Reader:
    """A reader of files, sound ones to begin with, and how their JSON is got at."""

    name: str
    read: Callable[[Path], Any]
    sound: list[bytes]
    suffix: str = ""
    kind: str = "bytes"  # "json", "lines" (of JSON), "tensors" (JSON in a safetensors header), "bytes"
    counts: Counter[str] = field(default_factory=Counter)


SCALARS = (
    st.none()
    | st.booleans()
    | st.integers(-3, 70)
    | st.sampled_from(
        [1 << 31, 1 << 53, 1 << 63, -(1 << 63), 1 << 70, 10**30, 0.5, -1.5, 1e300, float("nan"), float("inf")]
    )
    | st.floats()
    | st.text(max_size=12)
    | st.sampled_from(["", "\x00", "\ud83d", "\u2028", "image", "last", "../x", "cuda:9", "float32", "x" * 3000])
)
JSONISH = st.recursive(
    SCALARS,
    lambda inner: (
        st.lists(inner, max_size=4)
        | st.dictionaries(
            st.text(max_size=6) | st.sampled_from(["type", "tensor", "tuple", "slice", "dict"]), inner, max_size=3
        )
        | st.builds(lambda depth, one: _nested(depth, one), st.sampled_from([3, 90, 400]), inner)
    ),
    max_leaves=6,
)


def _nested(depth: int, value: Any) -> Any:
    for _ in range(depth):
        value = [value]
    return value


@st.composite
def other_json(draw: Any, value: Any) -> Any:
    """JSON with a few places changed, taken out, put elsewhere or doubled."""
    value = json.loads(json.dumps(value))
    for _ in range(draw(st.integers(1, 3))):
        found = list(places(value))
        if not found:
            return draw(JSONISH)
        at = found[draw(st.integers(0, len(found) - 1))]
        held = value
        for key in at[:-1]:
            held = held[key]
        how = draw(st.sampled_from(["change", "change", "take out", "move", "double"]))
        if how == "take out":
            del held[at[-1]]
        elif how == "move":
            other = found[draw(st.integers(0, len(found) - 1))]
            held[at[-1]] = copy.deepcopy(_at(value, other))
        elif how == "double" and isinstance(held, list):
            held.insert(at[-1], held[at[-1]])
        else:
            held[at[-1]] = draw(JSONISH)
    return value


def _at(value: Any, at: tuple[Any, ...]) -> Any:
    for key in at:
        value = value[key]
    return value


@st.composite
def damaged(draw: Any, content: bytes) -> bytes:
    """A file with bits turned, cut short, or with a piece of itself elsewhere."""
    out = bytearray(content)
    for _ in range(draw(st.integers(1, 4))):
        if not out:
            break
        at = draw(st.integers(0, len(out) - 1))
        # Headers and footers are where a file says what it is.
        at = draw(st.sampled_from([at, at % 64, len(out) - 1 - at % 64]))
        at = min(max(at, 0), len(out) - 1)
        how = draw(st.sampled_from(["bit", "byte", "bytes", "cut", "take out", "repeat", "splice"]))
        if how == "bit":
            out[at] ^= 1 << draw(st.integers(0, 7))
        elif how == "byte":
            out[at] = draw(st.sampled_from([0, 1, 0x7F, 0x80, 0xFF, 0x22, 0x5B, 0x7B]))
        elif how == "bytes":
            out[at : at + 8] = draw(st.sampled_from([b"\xff" * 8, bytes(8), b"\x00\x00\x00\x00\xff\xff\xff\x7f"]))
        elif how == "cut":
            del out[at:]
        elif how == "take out":
            del out[at : at + draw(st.integers(1, 64))]
        elif how == "repeat":
            out[at:at] = out[at : at + 64] * draw(st.integers(1, 8))
        else:
            out[at:at] = draw(st.binary(max_size=32))
    return bytes(out)


@st.composite
def files(draw: Any, reader: Reader) -> bytes:
    """A file for a reader."""
    content = draw(st.sampled_from(reader.sound))
    how = draw(st.sampled_from(["random", "damaged", "damaged", "shaped", "shaped", "shaped"]))
    if how == "random":
        return draw(st.binary(max_size=200))
    if how == "damaged" or reader.kind == "bytes":
        return draw(damaged(content))
    if reader.kind == "json":
        return _text(draw(other_json(json.loads(content))))
    if reader.kind == "lines":
        lines = [json.loads(line) for line in content.decode().split("\n") if line]
        at = draw(st.integers(0, len(lines) - 1))
        lines[at] = draw(other_json(lines[at]))
        return b"\n".join(map(_text, lines))
    tensors, held, data = taken_apart(content)
    if draw(st.booleans()):
        held = draw(other_json(held))
    else:
        tensors = draw(other_json(tensors))
    return tensor_file(tensors if isinstance(tensors, dict) else {"x": tensors}, held, data)


def _text(value: Any) -> bytes:
    return json.dumps(value).encode("utf-8", "surrogatepass")


def tried(reader: Reader, folder: Path, content: bytes) -> None:
    """Read a file, and count what became of it.

    Raises:
        AssertionError: it ended in another error than the toolkit's own.
    """
    path = folder / f"fuzzed{reader.suffix}"
    path.write_bytes(content)
    reader.counts["tried"] += 1
    try:
        with warnings.catch_warnings(), _alarm():
            warnings.simplefilter("ignore")
            reader.read(path)
        reader.counts["read"] += 1
    except LostAttnError as error:
        assert len(str(error)) < 10_000, "an error that nobody can read"
        reader.counts["refused"] += 1
    except BaseException:
        reader.counts["crashes"] += 1
        raise


@contextmanager
def _alarm() -> Iterator[None]:
    def ring(*_: object) -> None:
        raise AssertionError(f"a reader took more than {LONGEST} s")

    before = signal.signal(signal.SIGALRM, ring)
    signal.setitimer(signal.ITIMER_REAL, LONGEST)
    try:
        yield
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, before)


def fuzz(reader: Reader, folder: Path, n: int, start: int | None = None) -> None:
    """Try a reader on ``n`` files: always the same ones, or those that a seed begins.

    Raises:
        AssertionError: one ended in another error; hypothesis shows the smallest that does.
    """

    @settings(
        max_examples=n,
        deadline=None,
        database=None,
        derandomize=start is None,
        suppress_health_check=list(HealthCheck),
        phases=(Phase.generate, Phase.shrink),
    )
    @given(files(reader))
    def check(content: bytes) -> None:
        tried(reader, folder, content)

    (check if start is None else seed(start)(check))()
