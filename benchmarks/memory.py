"""Peak memory of a contender, in a process of its own: ``python -m benchmarks.memory WORKLOAD CONTENDER SIZE``.

What is printed is the highest use during a run above that just before it: of resident memory, as the kernel counts it
(or, where it does not, as a thread sees it), or of what torch has taken on a GPU.
"""

from __future__ import annotations

import ctypes
import gc
import os
import subprocess
import sys
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

PAGE = os.sysconf("SC_PAGE_SIZE")

# The floor, the toolkit and the peers of each workload that keep or build something.
MEASURED = {
    "caching": ("bare sdpa forward", "lostattn", "TransformerBridge"),
    "patterns_2500": ("bare sdpa forward", "lostattn, last row", "TransformerBridge"),
    "replace_2500": ("bare sdpa forward", "lostattn, uniform", "eager softmax edited"),
    "generate": ("bare generate", "lostattn, uniform"),
    "metrics": ("textbook SVDs, float32", "lostattn, float64"),
    "sweep": ("bare forwards of the same batch", "lostattn"),
}


def measure(size: str) -> dict[str, dict[str, int]]:
    """Peak bytes of the contenders of every workload, each measured in a fresh process."""
    found: dict[str, dict[str, int]] = {}
    for workload, names in MEASURED.items():
        for name in names:
            command = [sys.executable, "-m", "benchmarks.memory", workload, name, size]
            out = subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True).stdout
            found.setdefault(workload, {})[name] = int(out.split()[-1])
    return found


def main() -> None:
    """Measure the contender that the arguments name."""
    from benchmarks.subjects import SIZES
    from benchmarks.workloads import WORKLOADS

    workload, name, size = sys.argv[1:4]
    run = WORKLOADS[workload].contenders(SIZES[size])[name]()
    print(_on_gpu(run) if SIZES[size].device != "cpu" else peak_of(run))


def peak_of(run: Callable[[], Any]) -> int:
    """By how much the resident memory of this process rises while ``run`` runs."""
    _give_back()
    before = _resident()
    try:
        Path("/proc/self/clear_refs").write_text("5")  # the high-water mark starts anew
    except OSError:
        return _watched(run) - before
    result = run()
    peak = next(line for line in Path("/proc/self/status").read_text().splitlines() if line.startswith("VmHWM"))
    del result
    return int(peak.split()[1]) * 1024 - before


def _give_back() -> None:
    """Hand what is free to the system, so that a run cannot hide in what was left over from making ready."""
    gc.collect()
    trim = getattr(ctypes.CDLL(None), "malloc_trim", None)
    if trim is not None:
        trim(0)


def _on_gpu(run: Callable[[], Any]) -> int:
    import torch

    torch.cuda.reset_peak_memory_stats()
    before = torch.cuda.memory_allocated()
    result = run()
    torch.cuda.synchronize()
    del result
    return torch.cuda.max_memory_allocated() - before


def _watched(run: Callable[[], Any]) -> int:
    stop, peak = threading.Event(), [_resident()]

    def watch() -> None:
        while not stop.wait(0.001):
            peak[0] = max(peak[0], _resident())

    watcher = threading.Thread(target=watch)
    watcher.start()
    result = run()
    stop.set()
    watcher.join()
    del result
    return peak[0]


def _resident() -> int:
    with open("/proc/self/statm", encoding="ascii") as file:
        return int(file.read().split()[1]) * PAGE


if __name__ == "__main__":
    main()
