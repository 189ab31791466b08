"""The table of supported models, from what a scan saw."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from html import escape

from lostattn.conformance.judge import OUTCOMES, Verdict
from lostattn.errors import InputError


def summary(verdicts: Sequence[Verdict]) -> str:
    """One line for each kernel: how many families did what."""
    lines = []
    for kernel in dict.fromkeys(v.kernel for v in verdicts):
        mine = [v for v in verdicts if v.kernel == kernel]
        counts = [(outcome, sum(v.outcome == outcome for v in mine)) for outcome in OUTCOMES]
        others = ", ".join(f"{n} {outcome}" for outcome, n in counts[1:] if n)
        lines.append(f"{kernel}: {counts[0][1]} of {len(mine)} passed" + (f"; {others}" if others else ""))
    return "\n".join(lines)


def comparison_counts(verdicts: Iterable[Verdict]) -> str:
    """How many comparisons came out under all kernels together, the worst error in float32, and what could not be made.

    The errors of bfloat16 stand in ``conformance.json`` with all others.
    """
    made: list[tuple[str, float, float]] = []
    absent: dict[str, str] = {}
    for verdict in verdicts:
        for name, one in verdict.comparisons.items():
            if "absent" in one:
                absent[name] = one["absent"]
            else:
                made.append((name, float("inf") if one["worst"] is None else one["worst"], one["allowed"]))
    if not (made or absent):
        return ""
    came_out = sum(worst <= allowed for _, worst, allowed in made)
    worst = max((worst for name, worst, allowed in made if allowed and not name.startswith("bfloat16")), default=0.0)
    said = [f"{came_out} of {len(made)}, {worst:.0e}"]
    return "; ".join([*said, *(f"{name}: n/a: {why[:80]}" for name, why in absent.items())])


def markdown(verdicts: Sequence[Verdict]) -> str:
    """A row for each family: the outcome under each kernel, and what its points are like."""
    kernels = list(dict.fromkeys(v.kernel for v in verdicts))
    by_family: dict[str, dict[str, Verdict]] = {}
    for verdict in verdicts:
        by_family.setdefault(verdict.family, {})[verdict.kernel] = verdict
    head = [
        "family",
        "layers",
        "points",
        *kernels,
        "layers differ in",
        "compared",
        "pixels",
        "image tokens",
        "vision tower",
        "remarks",
    ]
    rows = [head, ["---"] * len(head)]
    for family in sorted(by_family):
        mine = by_family[family]
        best = next((v for v in mine.values() if v.passed), next(iter(mine.values())))
        outcomes = [mine[k].outcome if k in mine else "" for k in kernels]
        odd = [f"{k}: {said}" for k, v in mine.items() if best.passed and (said := _beside(v.remarks, best.remarks))]
        remarks = "; ".join([part for part in (best.remarks, *odd) if part])
        differ = next((v.differ for v in mine.values() if v.differ), "")
        points = str(best.points) if best.passed else ""
        seen = [best.layout, best.image, best.vision, remarks[:200]]
        rows.append([family, best.kinds, points, *outcomes, differ, comparison_counts(mine.values()), *seen])
    return "\n".join(f"| {' | '.join(map(_cell, row))} |" for row in rows) + "\n"


def in_page(page: str, verdicts: Sequence[Verdict]) -> str:
    """A page with the summary and the table in it made new; each stands between two comments of its name.

    Raises:
        InputError: the page lacks the comments.
    """
    parts = {"summary": f"```text\n{summary(verdicts)}\n```\n", "table": markdown(verdicts)}
    for name, text in parts.items():
        begins, ends = f"<!-- {name} -->\n", f"<!-- end of {name} -->"
        before, found, rest = page.partition(begins)
        _, closed, after = rest.partition(ends)
        if not (found and closed):
            raise InputError(f"the page has no place for the {name}: expected {begins.strip()!r} and {ends!r}.")
        page = f"{before}{begins}{text}{ends}{after}"
    return page


def _cell(text: str) -> str:
    """A text as it may stand in a cell of Markdown, where markup would be markup and a line break ends the row."""
    return escape(" ".join(text.split()), quote=False).replace("|", "/")


def _beside(remarks: str, known: str) -> str:
    """What one kernel's remarks say beside the others'."""
    return "; ".join(part for part in remarks.split("; ") if part not in known.split("; "))
