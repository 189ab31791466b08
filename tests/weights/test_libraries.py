"""Runs ``tests/weights/libraries`` in a process of its own, the only one that sees those libraries."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
FOLDER = ROOT / ".weights"  # of `make test-weights`
# What packages there are is looked up when transformers is first imported, so the folder comes before anything else.
WORKER = "import sys; sys.path.append(sys.argv[1]); import pytest; sys.exit(pytest.main(sys.argv[2:]))"


@pytest.mark.skipif(not FOLDER.is_dir(), reason="`make test-weights` installs what these tests need, and runs them")
def test_weights_of_four_libraries_of_quantisation_and_of_peft():
    done = subprocess.run(
        [sys.executable, "-c", WORKER, str(FOLDER), "tests/weights/libraries", "-q", "-p", "no:cacheprovider",
         "-p", "no:xdist", "-W", "default"],
        cwd=ROOT,
        env={**os.environ, "LOSTATTN_TESTS_WITH_WEIGHTS": "1", "PYTHONPATH": str(ROOT)},
        capture_output=True,
        text=True,
    )  # fmt: skip
    assert done.returncode == 0, f"{done.stdout[-6000:]}\n{done.stderr[-2000:]}"
    summary = done.stdout.strip().splitlines()[-1]
    assert re.search(r"\b\d+ passed\b", summary) and "skipped" not in summary, summary
