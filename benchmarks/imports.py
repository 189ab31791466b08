"""What importing costs, in processes of their own."""

from __future__ import annotations

import subprocess
import sys

from benchmarks.timing import Ratio, race


def importing(rounds: int) -> list[Ratio]:
    """``import lostattn`` beside ``import nnsight``."""

    def run(module: str) -> None:
        subprocess.run([sys.executable, "-c", f"import {module}"], check=True)

    return race({name: lambda name=name: run(name) for name in ("nnsight", "lostattn")}, "nnsight", rounds)
