"""Peak memory of a contender, in a process of its own: ``python -m benchmarks.memory NAME SIDE`` prints bytes.

What is printed is the highest resident size during a pass above that just before it, watched by a thread.
"""

from __future__ import annotations

import os
import subprocess
import sys
import threading
from collections.abc import Callable
from typing import Any

PAGE = os.sysconf("SC_PAGE_SIZE")


def extra(name: str, side: int) -> int:
    """Peak bytes of a contender's pass, measured in a fresh process."""
    command = [sys.executable, "-m", "benchmarks.memory", name, str(side)]
    return int(subprocess.run(command, check=True, capture_output=True, text=True).stdout.split()[-1])


def main() -> None:
    """Measure the contender that the arguments name."""
    name, side = sys.argv[1], int(sys.argv[2])
    run = _contender(name, side)
    stop, peak = threading.Event(), [0]
    before = _resident()

    def watch() -> None:
        while not stop.is_set():
            peak[0] = max(peak[0], _resident())
            stop.wait(0.001)

    watcher = threading.Thread(target=watch)
    watcher.start()
    result = run()
    stop.set()
    watcher.join()
    del result
    print(peak[0] - before)


def _resident() -> int:
    with open("/proc/self/statm", encoding="ascii") as file:
        return int(file.read().split()[1]) * PAGE


def _contender(name: str, side: int) -> Callable[[], Any]:
    import lostattn as la
    from benchmarks import peers, subjects

    given = subjects.inputs(side)
    if name == "eager softmax edited":
        model = subjects.llava(side, attn_implementation="eager")
        columns = (given["input_ids"] == subjects.IMAGE)[0]

        def by_hand() -> Any:
            with peers.eager_edit(columns):
                return peers.bare(model, given)

        return by_hand
    if name == "bare sdpa forward":
        plain = subjects.llava(side)
        return lambda: peers.bare(plain, given)
    wrapped = la.load(subjects.llava(side), selftest=False)
    prompt, edit = wrapped.prompt(inputs=given), la.ReplaceAttention(la.Uniform())
    return lambda: wrapped.run_with_hooks(prompt, (), edit)


if __name__ == "__main__":
    main()
