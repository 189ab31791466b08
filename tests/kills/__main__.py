"""Kill what writes, at random moments, and look at what stands: ``python tests/kills --kills 300``.

Each workload runs in a child of a process that has loaded everything, and gets SIGKILL at a random moment of its time:
on the disk, and on a small tmpfs that fills up. After each kill what stands must be one run whole, the one before or
the new one. Half of the long ones go on with what the one before had done. At the end a last run must succeed, and
leave nothing behind.
"""

from __future__ import annotations

import argparse
import contextlib
import os
import random
import re
import shutil
import signal
import subprocess
import sys
import tempfile
import time
import traceback
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

import torch

# One thread: those of a parent are not there in its children.
torch.set_num_threads(1)

from workloads import Workload, workloads  # noqa: E402

import lostattn as la  # noqa: E402

SMALL = 96 << 20  # bytes of the tmpfs
TRIES = 8  # runs to one that is killed in time, at most: others end before, or find no room
NO_ROOM = re.compile("no room|are free where")
OTHER_RUN = "begun with other settings"  # what is there is of one before: the last was killed before it had begun
ENDS = {0: "ended", 3: "no room", 5: "other run", -signal.SIGKILL: "killed"}
SHARES = {"demo": 1, "probe": 2, "decouple": 2, "cache.save": 4, "Questions.save": 4}  # of the kills, by what one costs


def main() -> None:
    """Kill, look, count."""
    parser = argparse.ArgumentParser(prog="python tests/kills", description=__doc__)
    parser.add_argument("--kills", type=int, default=300, help="runs that end by SIGKILL, all workloads together")
    parser.add_argument("--seed", type=int, default=0)
    arguments = parser.parse_args()
    rng = random.Random(arguments.seed)
    kept = tempfile.mkdtemp()
    os.environ["XDG_CACHE_HOME"] = kept  # where things go that have no room
    known = workloads(la.load("tiny-llava", selftest=False))
    bad = 0
    try:
        with small_disk() as (small, how):
            print(f"the disk that fills up: {how}")
            turns = [(name, place) for name in known for place in ("disk", "small disk")]
            rest, shares = arguments.kills, sum(SHARES[name] for name, _ in turns)
            for name, place in turns:
                kills = round(rest * SHARES[name] / shares)
                rest, shares = rest - kills, shares - SHARES[name]
                with tempfile.TemporaryDirectory() as folder:
                    at = Path(folder if place == "disk" else small)
                    bad += series(name, known[name], at, place, kills, rng)
    finally:
        shutil.rmtree(kept, ignore_errors=True)
    sys.exit(f"{bad} runs left something that is no run whole" if bad else 0)


@contextlib.contextmanager
def small_disk() -> Iterator[tuple[str, str]]:
    """A tmpfs of a few megabytes; where it may not be mounted, a folder in memory, with files bounded in size."""
    with tempfile.TemporaryDirectory(dir="/dev/shm") as folder:
        made = subprocess.run(
            ["mount", "-t", "tmpfs", "-o", f"size={SMALL}", "tmpfs", folder], capture_output=True, check=False
        )
        if made.returncode:
            yield folder, "/dev/shm, files of at most 24 KB (RLIMIT_FSIZE): no tmpfs may be mounted here"
            return
        try:
            yield folder, f"a tmpfs of {SMALL >> 20} MB"
        finally:
            subprocess.run(["umount", folder], check=False)


def series(name: str, work: Workload, folder: Path, place: str, kills: int, rng: random.Random) -> int:
    """Run one workload until so many runs were killed in time; how often what stood was not one run whole."""
    began = time.perf_counter()
    found: Counter[str] = Counter()
    _empty(folder)
    long = min(_timed(work, folder) for _ in range(2))
    fills = place != "disk"
    seed = 0
    tries = 0
    while found["killed"] < kills and tries < TRIES * kills:
        tries += 1
        before = _seed(work, folder, found)
        ballast = _ballast(folder, rng) if fills else None
        resume = work.resumes and seed > 0 and before != seed and rng.random() < 0.5
        seed += not resume
        child = _child(work, folder, seed, resume, bounded=fills and not os.path.ismount(folder))
        time.sleep(rng.uniform(0, 0.95 * long))
        with contextlib.suppress(ProcessLookupError):
            os.kill(child, signal.SIGKILL)
        _, status = os.waitpid(child, 0)
        found["gone on with"] += resume
        found[ENDS.get(os.waitstatus_to_exitcode(status), "failed")] += 1
        after = _seed(work, folder, found)
        kind = "none" if after is None else "new" if after == seed else "before" if after == before else "torn"
        found[kind] += 1
        if ballast is not None:
            ballast.unlink()
    _last(work, folder, seed + 1, found)
    left = sorted(path.name for path in folder.iterdir() if path.name.endswith((".part", ".unfinished")))
    found["left over"] = len(left)
    told = ", ".join(f"{what} {n}" for what, n in sorted(found.items()))
    print(f"{name:15} {place:10} {tries:4} runs: {told} ({time.perf_counter() - began:.0f} s)", flush=True)
    _empty(folder)
    return found["torn"] + len(left) + found["no last run"] + found["failed"]


def _child(work: Workload, folder: Path, seed: int, resume: bool, bounded: bool = False) -> int:
    child = os.fork()
    if child:
        return child
    code = 0
    try:
        if bounded:
            import resource

            resource.setrlimit(resource.RLIMIT_FSIZE, (24_000, 24_000))
        work.run(folder, seed, resume)
    except BaseException as error:
        told = str(error)
        code = 3 if NO_ROOM.search(told) else 5 if OTHER_RUN in told else 4
        if code == 4:
            traceback.print_exc()
    os._exit(code)


def _timed(work: Workload, folder: Path) -> float:
    _empty(folder)
    began = time.perf_counter()
    _, status = os.waitpid(_child(work, folder, 0, False), 0)
    if status:
        raise RuntimeError("the workload fails by itself")
    return time.perf_counter() - began


def _seed(work: Workload, folder: Path, found: Counter[str]) -> int | None:
    try:
        return work.seed_of(folder)
    except Exception as error:
        print(f"  torn: {type(error).__name__}: {error}", flush=True)
        found["torn"] += 1
        return None


def _last(work: Workload, folder: Path, seed: int, found: Counter[str]) -> None:
    """A run that nobody kills, with room: it succeeds and sweeps."""
    _, status = os.waitpid(_child(work, folder, seed, False), 0)
    if status or _seed(work, folder, found) != seed:
        found["no last run"] += 1


def _ballast(folder: Path, rng: random.Random) -> Path | None:
    """Take some of the room that is left, in most runs nearly all."""
    path = folder / "ballast"
    free = shutil.disk_usage(folder).free
    if free > 1 << 30:  # no small disk: files are bounded in size instead
        path.touch()
        return path
    path.write_bytes(bytes(max(0, free - int(rng.choice([0.001, 0.1, 1, 1]) * SMALL))))
    return path


def _empty(folder: Path) -> None:
    for path in folder.iterdir():
        shutil.rmtree(path) if path.is_dir() and not path.is_symlink() else path.unlink()


if __name__ == "__main__":
    main()
