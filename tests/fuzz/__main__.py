"""The long fuzz, ``python tests/fuzz [FILES A READER]``: prints what became of how many files, reader by reader."""

from __future__ import annotations

import argparse
import sys
import tempfile
import time
import traceback
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[1] / "support"))

from fuzzed_readers import readers  # noqa: E402
from fuzzing import Reader, fuzz  # noqa: E402

PART = 500  # files that one seed begins; what is found in them is shown small


def main() -> int:
    """Exit status 1 where anything ended in another error than the toolkit's own."""
    parser = argparse.ArgumentParser()
    parser.add_argument("n", nargs="?", type=int, default=2000)
    parser.add_argument("--seed", type=int, default=int(time.time()))
    parser.add_argument("--only", nargs="+", metavar="NAME")
    asked = parser.parse_args()
    import lostattn as la

    print(f"seed {asked.seed}")
    crashes = 0
    with tempfile.TemporaryDirectory() as folder:
        model = la.load("tiny-llava", selftest=False)
        (Path(folder) / "sound").mkdir()
        for reader in readers(model, Path(folder) / "sound"):
            if asked.only and reader.name not in asked.only:
                continue
            crashes += not _passed(reader, Path(folder), asked.n, asked.seed)
    return 1 if crashes else 0


def _passed(reader: Reader, folder: Path, n: int, start: int) -> bool:
    began, passed = time.monotonic(), True
    for part in range(0, n, PART):
        try:
            fuzz(reader, folder, min(PART, n - part), start + part)
        except Exception:
            passed = False
            print("".join(traceback.format_exception(*sys.exc_info(), limit=-6)), flush=True)
            break
    found = {name: reader.counts[name] for name in ("tried", "read", "refused", "crashes")}
    told = ", ".join(f"{name} {count}" for name, count in found.items())
    print(f"{reader.name:24} {told}, {time.monotonic() - began:.0f} s", flush=True)
    return passed


if __name__ == "__main__":
    sys.exit(main())
