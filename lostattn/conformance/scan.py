"""Many families, one after another in a process of their own, so that a hang or a crash costs one row."""

from __future__ import annotations

import json
import os
import queue
import subprocess
import sys
import threading
from collections.abc import Generator, Iterator, Sequence
from contextlib import closing
from pathlib import Path

from lostattn.checkpoint.extra_packages import FOLDER
from lostattn.conformance.judge import Verdict, judge
from lostattn.conformance.table import markdown
from lostattn.files import write_folder

Job = tuple[str, str, int]  # family, kernel and seed
# What packages there are is looked up when transformers is first imported, so the folder comes before anything else.
_WORKER = """
import sys
from lostattn.checkpoint.extra_packages import use
use(sys.argv[1])
from lostattn.conformance.scan import main
main()
"""


def scan(
    families: Sequence[str],
    kernels: Sequence[str],
    limit: float | int = 120.0,
    seed: int = 0,
    packages: str | Path = FOLDER,
    done: Sequence[Verdict] = (),
) -> Iterator[Verdict]:
    """Judge each family under each kernel.

    Args:
        families: their names in transformers' mapping.
        kernels: attention implementations, such as ``"eager"`` and ``"sdpa"``.
        limit: seconds that one family may take under one kernel before it is given up.
        seed: of weights and pictures.
        packages: the folder of packages that single families need; see :mod:`lostattn.checkpoint.extra_packages`.
        done: verdicts of an earlier scan, which are not made again.

    Yields:
        A verdict for each family and kernel, in the order in which they are given.
    """
    known = {(verdict.family, verdict.kernel): verdict for verdict in done}
    every = [(family, kernel) for kernel in kernels for family in families]
    todo = [(family, kernel, seed) for family, kernel in every if (family, kernel) not in known]
    with closing(_judged(todo, limit, packages)) as fresh:
        for one in every:
            yield known[one] if one in known else next(fresh)


def _judged(todo: Sequence[Job], limit: float | int, packages: str | Path) -> Generator[Verdict, None, None]:
    while todo:
        n_done = yield from _worked(todo, limit, packages)
        todo = todo[n_done:]


def _worked(todo: Sequence[Job], limit: float | int, packages: str | Path) -> Generator[Verdict, None, int]:
    """Start a worker and take what it says, until it has done all or hangs; how many jobs are done."""
    worker = subprocess.Popen(
        [sys.executable, "-c", _WORKER, str(packages)],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
        text=True,
        env={**os.environ, "HF_HUB_OFFLINE": "1"},
    )
    assert worker.stdin is not None and worker.stdout is not None
    lines: queue.Queue[str] = queue.Queue()
    thread = threading.Thread(target=_listen, args=(worker.stdout, lines), daemon=True)
    thread.start()
    worker.stdin.write(json.dumps(list(todo)))
    worker.stdin.close()
    done = 0
    try:
        for family, kernel, _ in todo:
            patience = limit + (60.0 if done == 0 else 0.0)  # the first waits for the imports too
            try:
                line = lines.get(timeout=patience)
            except queue.Empty:
                yield Verdict(family, kernel, "failed", remarks=f"no result after {patience:.0f} s")
                return done + 1
            if not line:
                yield Verdict(family, kernel, "failed", remarks="the process ended without a result")
                return done + 1
            yield Verdict(**json.loads(line))
            done += 1
    finally:
        worker.kill()
        worker.wait()
        thread.join()
        worker.stdout.close()
    return done


def _listen(stream: object, lines: queue.Queue[str]) -> None:
    for line in stream:  # type: ignore[attr-defined]
        if line.startswith("{"):
            lines.put(line)
    lines.put("")


def main() -> None:
    """The worker: jobs as JSON on its input, a verdict a line on its output."""
    import logging
    import warnings

    logging.disable(logging.WARNING)
    warnings.filterwarnings("ignore")
    for family, kernel, seed in json.load(sys.stdin):
        print(json.dumps(judge(family, kernel, seed).to_dict()), flush=True)


def write_table(verdicts: Sequence[Verdict], folder: Path) -> tuple[Path, Path]:
    """Write ``conformance.json`` and ``conformance.md``, both at once, sealed by ``run.json``."""
    content = {
        "conformance.json": json.dumps([v.to_dict() for v in verdicts], indent=1) + "\n",
        "conformance.md": markdown(verdicts),
    }

    def fill(place: Path) -> None:
        for name, text in content.items():
            (place / name).write_text(text, encoding="utf-8")

    write_folder(folder, fill, adds=True)
    return folder / "conformance.json", folder / "conformance.md"
