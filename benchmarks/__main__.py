"""``python -m benchmarks [WORKLOAD …]``: run, print the ratios, and write ``benchmarks/results/NAME.json``."""

from __future__ import annotations

import argparse
import dataclasses
import json
import os
import platform
from pathlib import Path
from typing import Any

import torch

from benchmarks import imports, memory
from benchmarks.workloads import WORKLOADS
from lostattn.experiments.results import environment, write_together

RESULTS = Path(__file__).parent / "results"
MEMORY = ("bare sdpa forward", "lostattn, uniform", "eager softmax edited")


def main() -> None:
    """Run the workloads that are named, or all."""
    extras = ("memory", "import")
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("workloads", nargs="*", choices=[*WORKLOADS, *extras, []], help="default: all")
    parser.add_argument("--rounds", type=int, default=9)
    parser.add_argument("--name", default=f"cpu-{os.cpu_count()}", help="of the file of results")
    arguments = parser.parse_args()
    chosen = arguments.workloads or [*WORKLOADS, *extras]
    machine = {"processor": platform.machine(), "cores": os.cpu_count(), "threads": torch.get_num_threads()}
    found: dict[str, Any] = {"machine": machine, "versions": environment(), "workloads": {}}
    for name in chosen:
        rows = _run(name, arguments.rounds)
        found["workloads"][name] = rows
        print(f"\n{rows['what']}")
        for row in rows["rows"]:
            print("  " + "  ".join(f"{key}={_short(value)}" for key, value in row.items()))
    path = RESULTS / f"{arguments.name}.json"
    if path.exists():
        found["workloads"] = {**json.loads(path.read_text())["workloads"], **found["workloads"]}
    with write_together(path) as (beside,):
        beside.write_text(json.dumps(found, indent=1) + "\n")
    print(f"\nwrote {path.relative_to(Path.cwd()) if path.is_relative_to(Path.cwd()) else path}")


def _run(name: str, rounds: int) -> dict[str, Any]:
    if name == "memory":
        used = {contender: memory.extra(contender, 50) for contender in MEMORY}
        base = used["bare sdpa forward"]
        rows = [
            {
                "contender": contender,
                "peak MiB": used[contender] / 2**20,
                "above bare MiB": (used[contender] - base) / 2**20,
            }
            for contender in MEMORY
        ]
        return {"what": "peak memory of a pass, 2500 visual tokens", "rows": rows}
    if name == "import":
        return {"what": "importing", "rows": [dataclasses.asdict(row) for row in imports.importing(rounds)]}
    what, run = WORKLOADS[name]
    return {"what": what, "rows": [dataclasses.asdict(row) for row in run(rounds)]}


def _short(value: Any) -> str:
    return f"{value:.3f}" if isinstance(value, float) else str(value)


if __name__ == "__main__":
    main()
