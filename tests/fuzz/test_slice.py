"""A slice of the fuzz, always the same files: ``make fuzz`` tries as many more as one likes."""

from __future__ import annotations

import pytest
from fuzzed_readers import readers
from fuzzing import fuzz

N = 60  # files a reader


@pytest.fixture(scope="module")
def every(tiny_llava, tmp_path_factory):
    return {reader.name: reader for reader in readers(tiny_llava, tmp_path_factory.mktemp("sound"))}


NAMES = (
    *("cache", "means", "pool", "result of a service", "results", "benchmark (parquet)", "benchmark (tsv)"),
    *("benchmark (csv)", "benchmark (JSON lines)", "job", "intervention", "questions", "run.json", "commit of a stage"),
    *("adapter_config.json", "picture", "animated picture"),
)


def test_every_reader_is_tried(every):
    assert set(every) == set(NAMES)


@pytest.mark.parametrize("name", NAMES)
def test_sound_files_are_read(name, every, tmp_path):
    reader = every[name]
    for content in reader.sound:
        path = tmp_path / f"sound{reader.suffix}"
        path.write_bytes(content)
        reader.read(path)


@pytest.mark.parametrize("name", NAMES)
def test_a_reader_gives_an_object_or_the_toolkits_own_error(name, every, tmp_path):
    reader = every[name]
    fuzz(reader, tmp_path, N)
    assert reader.counts["tried"] >= N and not reader.counts["crashes"]
    assert reader.counts["refused"] or name == "commit of a stage", "which is left alone, whatever stands in it"
