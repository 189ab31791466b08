"""What the benchmarks must show: each line a ratio of one run and the most that it may be."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from benchmarks.timing import ratio

Found = dict[str, Any]  # the file of results, as it is written


@dataclass(frozen=True)
class Line:
    """A line of the table; ``find`` gives the median and the quartiles, or one number."""

    what: str
    at_most: float
    find: Callable[[Found], tuple[float, ...]]

    def judged(self, found: Found) -> dict[str, Any] | None:
        """The line with what was found, or None where its workload has not been run."""
        try:
            value, *spread = self.find(found)
        except KeyError:
            return None
        return {
            "line": self.what,
            "found": value,
            "low": spread[0] if spread else None,
            "high": spread[1] if spread else None,
            "at_most": self.at_most,
            "met": value <= self.at_most,
        }


def _times(workload: str, mine: str, base: str) -> Callable[[Found], tuple[float, ...]]:
    return lambda found: ratio(found["workloads"][workload]["seconds"], mine, base)


def _slower_source(workload: str) -> Callable[[Found], tuple[float, ...]]:
    """Of two sources, the one that costs more."""
    sources = ("lostattn, uniform", "lostattn, Gaussian")
    return lambda found: max(_times(workload, source, "bare sdpa forward")(found) for source in sources)


def _last_row(what: str, workload: str) -> Line:
    """Patterns of one row beside those of every row, which is what a cache of the softmax holds."""
    mine = _times(workload, "lostattn, last row", "TransformerBridge")
    return Line(f"{what} / TransformerBridge caching `hook_pattern`", 0.4, mine)


def _edit(what: str, workload: str) -> tuple[Line, Line]:
    """An edit beside the bare pass, and beside the same edit where the weights are at hand."""
    eager = _times(workload, "lostattn, uniform", "eager softmax edited")
    return (
        Line(f"{what} / bare sdpa forward", 1.03, _slower_source(workload)),
        Line(f"{what} / the same edit of the eager softmax", 0.25, eager),
    )


def _memory(found: Found) -> tuple[float, ...]:
    """What the edit takes above the bare pass, over what eager takes above it; less than the bare pass counts as 0."""
    used = found["memory"]["replace_2500"]
    ours, theirs = (used[n] - used["bare sdpa forward"] for n in ("lostattn, uniform", "eager softmax edited"))
    return (max(ours, 0) / theirs,)


LINES = (
    Line(
        "caching the residual points of all layers / bare sdpa forward",
        1.05,
        _times("caching", "lostattn", "bare sdpa forward"),
    ),
    Line("the same / TransformerBridge", 0.85, _times("caching", "lostattn", "TransformerBridge")),
    _last_row("patterns of the last row, all layers, 2500 visual tokens", "patterns_2500"),
    _last_row("the same in bfloat16", "patterns_2500_bfloat16"),
    *_edit("`ReplaceAttention`, all layers, last row, 2500 visual tokens", "replace_2500"),
    *_edit("the same in bfloat16", "replace_2500_bfloat16"),
    Line("peak memory of that edit above the bare pass / that of eager", 0.05, _memory),
    Line(
        "32 tokens generated under it / bare generate", 1.15, _times("generate", "lostattn, uniform", "bare generate")
    ),
    Line(
        "decoupling metrics, 620 × 2048, per layer / textbook SVDs",
        0.12,
        _times("metrics", "lostattn, float64", "textbook SVDs, float32"),
    ),
    Line("relative error of those metrics against float64 SVDs", 1e-6, lambda found: (max(found["errors"].values()),)),
    Line(
        "head-patching sweep, per patched pass / bare forward of the same batch",
        1.15,
        _times("sweep", "lostattn", "bare forwards of the same batch"),
    ),
    Line("`import lostattn` / `import nnsight`", 1.05, _times("import", "import lostattn", "import nnsight")),
)


def judged(found: Found) -> list[dict[str, Any]]:
    """Every line that the results can tell."""
    return [row for line in LINES if (row := line.judged(found)) is not None]
