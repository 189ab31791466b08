"""The tables of ``docs/benchmarks.md``, made from a file of results: ``python -m benchmarks.page`` writes them in."""

from __future__ import annotations

import json
import statistics
import sys
from pathlib import Path

from benchmarks.lines import Found
from benchmarks.timing import ratio

FOLDER = Path(__file__).parent
PAGE = FOLDER.parent / "docs" / "benchmarks.md"
RESULTS = FOLDER / "results" / "cpu-2.json"
START, END = "<!-- made by python -m benchmarks.page -->", "<!-- end -->"


def tables(found: Found) -> str:
    """What stands between the marks of the page."""
    return "\n\n".join([_machine(found), lines(found), *_workloads(found), *_rest(found)])


def lines(found: Found) -> str:
    """The lines that are asked for, with what was found."""
    rows = ["| ratio | at most | found | quartiles | |", "|---|---|---|---|---|"]
    for row in found["lines"]:
        spread = "" if row["low"] is None else f"{_number(row['low'])} to {_number(row['high'])}"
        verdict = "met" if row["met"] else "**not met**"
        rows.append(f"| {row['line']} | {row['at_most']:g} | {_number(row['found'])} | {spread} | {verdict} |")
    return "\n".join(rows)


def _machine(found: Found) -> str:
    machine, versions = found["machine"], found["versions"]
    packages = ", ".join(f"{k} {v}" for k, v in versions.items() if k in PACKAGES)
    return (
        f"On {machine['processor']}, {machine['threads']} threads ({packages}). {found['subject']}; medians of ratios "
        "within a round."
    )


PACKAGES = ("torch", "transformers", "nnsight", "transformer-lens")


def _workloads(found: Found) -> list[str]:
    parts = []
    for workload in found["workloads"].values():
        took = workload["seconds"]
        base = next(iter(took))
        rows = [
            f"| {workload['what']}, {len(took[base])} rounds | seconds | / {base} | quartiles |",
            "|---|---|---|---|",
        ]
        for name, seconds in took.items():
            middle, low, high = ratio(took, name, base)
            shown = f"**{name}**" if "lostattn" in name else name
            spread = "" if name == base else f"{_number(low)} to {_number(high)}"
            rows.append(f"| {shown} | {_number(statistics.median(seconds))} | {_number(middle)} | {spread} |")
        parts.append("\n".join(rows))
    return parts


def _rest(found: Found) -> list[str]:
    parts = []
    if "memory" in found:
        rows = ["| peak memory of a run, MiB | | |", "|---|---|---|"]
        for workload, used in found["memory"].items():
            rows += [f"| {workload} | {name} | {size / 2**20:.0f} |" for name, size in used.items()]
        parts.append("\n".join(rows))
    if "remote" in found:
        rows = ["| a remote call, KiB | request | result | the activations behind it |", "|---|---|---|---|"]
        for call in found["remote"]:
            sizes = " | ".join(f"{call[part] / 1024:,.1f}" for part in ("request", "response", "activations"))
            rows.append(f"| {call['call']} | {sizes} |")
        parts.append("\n".join(rows))
    return parts


def _number(value: float) -> str:
    return f"{value:.1e}" if 0 < value < 1e-3 else f"{value:.2f}"


def write(found: Found) -> None:
    """Put the tables of some results into the page."""
    before, rest = PAGE.read_text().split(START)
    after = rest.split(END)[1]
    PAGE.write_text(f"{before}{START}\n\n{tables(found)}\n\n{END}{after}")
    print(f"wrote {PAGE.relative_to(FOLDER.parent)}")


def main() -> None:
    """Write the tables of a file of results (default: ``results/cpu-2.json``) into the page."""
    results = Path(sys.argv[1]) if len(sys.argv) > 1 else RESULTS
    write(json.loads(results.read_text()))


if __name__ == "__main__":
    main()
