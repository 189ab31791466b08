"""What is compared, and how far apart two values may be."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from torch import Tensor

from lostattn.model.lvlm import LVLM
from lostattn.plan.setting import CROSS, Setting
from lostattn.prompt.batch import Prompt

NEAR = 1e-5  # of patterns the largest difference, of logits and streams that of the norms
NEAR_BFLOAT16 = 5e-2  # 8 bits of mantissa, over the layers of a small model
MOVED = 1e-7  # an edit that changes the logits by less than their rounding moved nothing


class Absent(Exception):
    """A comparison that a family cannot have, and why."""


@dataclass(frozen=True)
class Comparison:
    """One comparison with the independent reference.

    Attributes:
        name: what was compared.
        worst: the largest difference that was seen; None where there was nothing to compare.
        allowed: how large it may be; 0 asks for the same bits.
        absent: why this family cannot have it.
        crash: what was raised where it should have been made.
    """

    name: str
    worst: float | None
    allowed: float
    absent: str = ""
    crash: str = ""

    @property
    def passed(self) -> bool:
        """Whether it was made and came out near enough."""
        return self.worst is not None and self.worst <= self.allowed

    @property
    def failed(self) -> bool:
        """Whether it was made, or should have been, and did not come out."""
        return not (self.passed or self.absent)

    def __str__(self) -> str:
        if self.absent:
            return f"{self.name}: n/a: {self.absent}"
        if self.worst is None:
            return f"{self.name}: FAILED ({self.crash})"
        return f"{self.name}: {self.worst:.1e}" + ("" if self.passed else f" FAILED (allowed {self.allowed:.0e})")


@dataclass(frozen=True)
class Subject:
    """One family under comparison: the wrapped model, and the same weights bare."""

    model: LVLM
    bare: Any  # never wrapped
    prompt: Prompt

    @property
    def boundaries(self) -> dict[str, str]:
        """Every decoder attention that has a pattern: the path of its module by what its hook names begin with."""
        blocks = self.model.architecture.stack.blocks
        every = {f"blocks.{i}.{name}": attn.path for i, b in enumerate(blocks) for name, attn in b.attentions.items()}
        return {name: path for name, path in every.items() if f"{name}.hook_pattern" in self.model.sites.derived}

    @property
    def crossed(self) -> dict[str, str]:
        """Those whose keys are another sequence's."""
        return {name: path for name, path in self.boundaries.items() if self.model.sites.crosses(f"{name}.hook_k")}

    @property
    def merged(self) -> bool:
        """Whether the keys of an encoder stand behind the positions, in the same softmax."""
        setting = Setting(self.model.sites, self.model.hf, self.prompt)
        return setting.merges(0)

    @property
    def choices(self) -> tuple[str, ...]:
        """The keys that edits are tried on: :attr:`keys`, and all those of cross-attention where there is any."""
        return (self.keys, CROSS) if self.crossed else (self.keys,)

    @property
    def keys(self) -> str:
        """Which keys an edit may speak of: those of the picture, among the positions or beside them, or the text."""
        token_map = self.prompt.token_map
        crossing = token_map.cross is not None and bool(self.crossed or self.merged)
        return "image" if bool(token_map["image"].any()) or crossing else "text"


def finite(logits: Tensor) -> Tensor:
    """Logits without those that a family sets to minus infinity or the least number that there is."""
    wide = logits.double()
    return wide.masked_fill(wide < -1e30, 0.0)


def relative(found: Tensor, expected: Tensor) -> float:
    """The norm of the difference over that of what was expected; infinite for different shapes or no number at all."""
    if found.shape != expected.shape:
        return float("inf")
    wide = expected.double()
    return _number((found.double() - wide).norm() / wide.norm().clamp_min(1e-30))


def largest(found: Tensor, expected: Tensor, rows: Tensor | None = None) -> float:
    """The largest difference of two patterns ``[batch, head, query, key]``; of the rows of ``[batch, query]`` alone."""
    if found.shape != expected.shape:
        return float("inf")
    gap = (found.double() - expected.double()).abs()
    return _number((gap.transpose(1, 2)[rows] if rows is not None and rows.shape[1] == gap.shape[2] else gap).max())


def _number(error: Tensor) -> float:
    """An error as a number that compares: NaN is as far away as can be."""
    value = float(error)
    return float("inf") if math.isnan(value) else value


def plain(comparisons: Mapping[str, Comparison]) -> dict[str, Any]:
    """The comparisons as JSON-ready data."""
    return {
        name: {"absent": one.absent}
        if one.absent
        else {"worst": one.worst, "allowed": one.allowed, **({"crash": one.crash} if one.crash else {})}
        for name, one in comparisons.items()
    }
