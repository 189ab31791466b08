"""The way over the hub, tried against one on loopback: commits, gates, broken downloads, the cache."""

from __future__ import annotations

from pathlib import Path

import huggingface_hub.constants
import pytest
from benchmark_files import PARQUET, POPE_COLUMNS, parquet, pope_rows, write_parquet
from small_hub import DataSet, SmallHub

from lostattn import data
from lostattn.data import Questions
from lostattn.data.public import BENCHMARKS
from lostattn.errors import InputError

OLD, NEW = "1" * 40, "2" * 40
POPE = "lmms-lab/POPE"
FILE = "Full/random-00000-of-00001.parquet"


def pope_file(folder: Path, images: int) -> bytes:
    return parquet(folder / f"{images}.parquet", pope_rows(images, ("random",)), POPE_COLUMNS).read_bytes()


@pytest.fixture
def hub(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> SmallHub:
    """Two commits of POPE, of 2 and 3 pictures, and a gated set; entered by the test."""
    sets = {
        POPE: DataSet(
            {OLD: {FILE: pope_file(tmp_path, 2)}, NEW: {FILE: pope_file(tmp_path, 3), "README.md": b"about"}},
            {"v1": OLD},
        ),
        "AI4Math/MathVista": DataSet({NEW: {PARQUET["mathvista", "testmini"][0]: b"x"}}, gated=True),
    }
    found = SmallHub(sets)
    monkeypatch.setenv("HF_ENDPOINT", found.address)
    for name, value in (("HF_HUB_CACHE", str(tmp_path / "cache")), ("HF_HUB_OFFLINE", False)):
        monkeypatch.setattr(huggingface_hub.constants, name, value)
    return found


def pope(**more: object) -> Questions:
    return data.load("pope", split="random", allow_rows=True, **more)  # type: ignore[arg-type]


def test_a_revision_is_a_commit(hub: SmallHub) -> None:
    with hub:
        newest = pope()
        assert len(newest) == 18 and newest[0].facts["revision"] == NEW and newest[0].facts["source"] == POPE
        for revision in (OLD, "v1"):
            pinned = pope(revision=revision)
            assert len(pinned) == 12 and {q.facts["revision"] for q in pinned} == {OLD}
        assert len(pope(n=6)) == 6
        with pytest.raises(InputError, match=f"{POPE}' has no revision 'v2'; name a commit"):
            pope(revision="v2")
        with pytest.raises(InputError, match="the hub has no data set 'some/copy'"):
            pope(source="some/copy")
    assert not any("README" in path for _, path, _ in hub.asked), "only the split's files are fetched"


def test_counts_are_those_of_the_published_set(hub: SmallHub) -> None:
    with hub, pytest.raises(InputError, match="18 rows instead of 3000"):
        data.load("pope", split="random", n=6)


def test_a_gated_set(hub: SmallHub) -> None:
    with hub, pytest.raises(InputError, match="'AI4Math/MathVista' is gated: accept its terms on its page, log in"):
        data.load("mathvista")


def test_a_set_without_the_split(hub: SmallHub) -> None:
    with hub, pytest.raises(InputError, match=r"at 222222222222 has no file Full/popular-\*\.parquet or"):
        data.load("pope", split="popular")


def test_a_broken_download_goes_on_where_it_was(hub: SmallHub, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(huggingface_hub.constants, "DOWNLOAD_CHUNK_SIZE", 100)  # a whole piece at least is kept
    hub.breaking = [700, 400]
    with hub:
        assert len(pope()) == 18
    ranges = [asked for command, path, asked in hub.asked if command == "GET" and path.endswith(".parquet")]
    assert ranges == [None, "bytes=700-", "bytes=1100-"]


def test_without_a_connection_the_cache_is_read(hub: SmallHub, monkeypatch: pytest.MonkeyPatch) -> None:
    with hub:
        online = pope()
    gone = pope()
    assert gone == online and gone[0].facts["revision"] == NEW
    with pytest.raises(InputError, match=f"cannot be reached .*does not hold '{POPE}' at {OLD}.*path="):
        pope(revision=OLD)
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_OFFLINE", True)
    assert pope() == online
    with pytest.raises(InputError, match="switched off.*does not hold 'suyc21/VMCBench'"):
        data.load("vmcbench")


def test_streaming_reads_parts_of_files(hub: SmallHub) -> None:
    with hub:
        streamed = pope(stream=True, n=6, seed=2)
        read = [part for command, path, part in hub.asked if command == "GET" and path.endswith(".parquet")]
        assert read and None not in read, "parts of the file, and not the file"
        assert streamed == pope(n=6, seed=2)


@pytest.mark.parametrize(("name", "split"), PARQUET)
def test_every_set_is_found_by_its_files(name: str, split: str, hub: SmallHub, tmp_path: Path) -> None:
    file = write_parquet(name, split, tmp_path)
    source = BENCHMARKS[name].sources[0]
    others = {"README.md": b"about", "data/other-00000-of-00001.parquet": b"x"}
    hub.sets = {source: DataSet({NEW: {PARQUET[name, split][0]: file.read_bytes(), **others}})}
    with hub:
        over = data.load(name, split=split, allow_rows=True)
    assert over[0].facts["revision"] == NEW and over[0].facts["files"] == [PARQUET[name, split][0]]
    assert [q.id for q in over] == [q.id for q in data.load(name, split=split, path=file, allow_rows=True)]


def test_a_hub_that_answers_nonsense(hub: SmallHub) -> None:
    hub.sets[POPE].commits[NEW][FILE] = b"no parquet"
    with hub, pytest.raises(InputError, match="is no parquet file, or not a whole one"):
        pope()
