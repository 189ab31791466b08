"""Runs ``tests/videos`` in a process of its own, the only one that sees torchvision."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

pytestmark = pytest.mark.slow

ROOT = Path(__file__).parents[2]
# What packages there are is looked up when transformers is first imported, so the folder comes before anything else;
# and the package itself may not be imported before pytest, which has its annotations checked.
WORKER = """
import runpy
import sys
runpy.run_path("lostattn/checkpoint/extra_packages.py")["use"](sys.argv[1])
import pytest
sys.exit(pytest.main(sys.argv[2:]))
"""


def test_what_transformers_video_processors_emit():
    folders = [ROOT / name for name in (".torchvision", ".conformance")]  # of `make env` and `make conformance`
    folder = next((folder for folder in folders if (folder / "torchvision").is_dir()), None)
    assert folder is not None, f"There is no torchvision in {folders[0]}: `make env` puts it there."
    done = subprocess.run(
        [sys.executable, "-c", WORKER, str(folder), "tests/videos", "-q", "-p", "no:cacheprovider", "-p", "no:xdist"],
        cwd=ROOT,
        env={**os.environ, "LOSTATTN_TESTS_WITH_TORCHVISION": "1", "PYTHONPATH": str(ROOT)},
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, f"{done.stdout[-6000:]}\n{done.stderr[-2000:]}"
    summary = done.stdout.strip().splitlines()[-1]
    assert re.search(r"\b\d+ passed\b", summary) and "skipped" not in summary, summary
