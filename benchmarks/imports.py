"""What importing costs, in processes of their own."""

from __future__ import annotations

import subprocess
import sys

from benchmarks.timing import Seconds, race


def importing(rounds: int) -> Seconds:
    """``import lostattn`` beside ``import nnsight``."""

    def run(module: str) -> None:
        subprocess.run([sys.executable, "-c", f"import {module}"], check=True)

    return race({f"import {name}": lambda name=name: run(name) for name in ("nnsight", "lostattn")}, rounds)
