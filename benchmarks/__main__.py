"""``python -m benchmarks [WORKLOAD …]``: run, print the ratios and what is asked of them, and write the results.

They go to ``benchmarks/results/NAME.json``; workloads that are not run now keep what the file has of them.
"""

from __future__ import annotations

import argparse
import dataclasses
import json
import os
import time
from pathlib import Path
from typing import Any

import torch

from benchmarks import exactness, imports, memory, page, remote_bytes, subjects
from benchmarks.lines import Found, judged
from benchmarks.timing import Seconds, race, ratio
from benchmarks.workloads import WORKLOADS
from lostattn.experiments.results import environment
from lostattn.files import write_text

RESULTS = Path(__file__).parent / "results"
EXTRAS = ("errors", "memory", "import", "remote")


def main() -> None:
    """Run the workloads that are named, or all but those by request."""
    arguments = _arguments()
    size = subjects.SIZES[arguments.size]
    path = RESULTS / f"{arguments.name or _name(size)}.json"
    found: Found = json.loads(path.read_text()) if path.exists() else {}
    if not arguments.workloads:  # all anew, but for what is run by request alone
        asked = {
            n: rows for n, rows in found.get("workloads", {}).items() if n in WORKLOADS and WORKLOADS[n].by_request
        }
        found = {"workloads": asked}
    found |= {"machine": _machine(size), "versions": environment(), "subject": str(size)}
    usual = [name for name, workload in WORKLOADS.items() if not workload.by_request and not workload.repeats(size)]
    for name in arguments.workloads or [*usual, *EXTRAS]:
        began = time.perf_counter()
        _run(name, size, arguments.rounds, found)
        print(f"  ({time.perf_counter() - began:.0f} s)", flush=True)
    found["lines"] = judged(found)
    write_text(path, json.dumps(found, indent=1) + "\n")
    print(f"\n{page.lines(found)}\n\nwrote {path.relative_to(Path.cwd()) if path.is_relative_to(Path.cwd()) else path}")
    if path == page.RESULTS:
        page.write(found)


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m benchmarks", description=__doc__)
    parser.add_argument("workloads", nargs="*", choices=[*WORKLOADS, *EXTRAS, []], help="default: all but metrics_2500")
    parser.add_argument("--rounds", type=int, help="of every workload, in place of each one's own number")
    parser.add_argument("--size", choices=list(subjects.SIZES), default="small", help="the others need a GPU")
    parser.add_argument("--name", help="of the file of results")
    return parser.parse_args()


def _run(name: str, size: subjects.Size, rounds: int | None, found: Found) -> None:
    if name == "memory":
        found["memory"] = memory.measure(size.name)
        print("\npeak memory of a run")
        for workload, used in found["memory"].items():
            print(*(f"  {workload}: {who}: {most / 2**20:.0f} MiB" for who, most in used.items()), sep="\n")
    elif name == "errors":
        found["errors"] = exactness.errors(subjects.states(620, 2048, 1, size.device))
        print("\nlargest relative errors against float64 SVDs\n ", found["errors"])
    elif name == "remote":
        found["remote"] = [dataclasses.asdict(row) for row in remote_bytes.remote_bytes()]
        print("\nbytes of a remote call")
        for row in found["remote"]:
            print(f"  {row['call']}: request {row['request']:,}, result {row['response']:,}")
    elif name == "import":
        _keep(found, name, "importing", imports.importing(rounds or 5))
    else:
        workload = WORKLOADS[name]
        size = workload.of(size)
        runs = {who: make() for who, make in workload.contenders(size).items()}
        workload.compare(runs, size)
        _keep(found, name, workload.what, race(runs, rounds or workload.rounds, workload.warm_up))


def _keep(found: Found, name: str, what: str, took: Seconds) -> None:
    found.setdefault("workloads", {})[name] = {"what": what, "seconds": took}
    base = next(iter(took))
    print(f"\n{what}")
    for who in took:
        middle, low, high = ratio(took, who, base)
        print(f"  {who}: {middle:.3f} ({low:.3f} to {high:.3f}) of {base}")


def _machine(size: subjects.Size) -> dict[str, Any]:
    gpu = torch.cuda.get_device_name() if size.device != "cpu" else None
    return {"processor": gpu or _processor(), "cores": os.cpu_count(), "threads": torch.get_num_threads()}


def _processor() -> str:
    """The name of the processor, where the system tells it."""
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
    except OSError:
        lines = []
    names = [line.split(":", 1)[1].strip() for line in lines if line.startswith("model name")]
    return names[0] if names else "an unknown processor"


def _name(size: subjects.Size) -> str:
    if size.device == "cpu":
        return f"cpu-{os.cpu_count()}"
    return f"{size.name}-{torch.cuda.get_device_name().lower().replace(' ', '-')}"


if __name__ == "__main__":
    main()
