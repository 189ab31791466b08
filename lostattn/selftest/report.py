"""What a self-test saw."""

from __future__ import annotations

from dataclasses import dataclass, field

import torch


@dataclass(frozen=True)
class Check:
    """One check: what it looked at, what it measured (0 is perfect where it is an error), and whether it passed."""

    name: str
    measured: float
    passed: bool


@dataclass(frozen=True)
class Report:
    """What the self-test saw; ``lacks`` says which layers are no linear maps, and what showed it."""

    model: str
    checks: tuple[Check, ...]
    lacks: tuple[str, ...] = ()

    @property
    def passed(self) -> bool:
        """Whether every check passed."""
        return all(check.passed for check in self.checks)

    @property
    def failed(self) -> tuple[Check, ...]:
        """The checks that did not pass."""
        return tuple(check for check in self.checks if not check.passed)

    def __repr__(self) -> str:
        lines = [
            f"self-test of {self.model}: {len(self.checks) - len(self.failed)} of {len(self.checks)} checks passed"
        ]
        lines += [f"  FAILED {check.name}: {check.measured:.3g}" for check in self.failed]
        lines += [f"  {lack}" for lack in self.lacks]
        return "\n".join(lines)


@dataclass
class Findings:
    """Checks as they come: of what is looked at more than once, the worst that was seen."""

    checks: dict[str, Check] = field(default_factory=dict)

    def error(self, name: str, measured: float, allowed: float) -> None:
        """Something that should be 0; it passes below what is allowed, and what is no number does not."""
        before = self.checks.get(name)
        if before is None or not measured <= before.measured:
            passed = measured < allowed and (before is None or before.passed)
            self.checks[name] = Check(name, measured, passed)

    def same(self, name: str, a: torch.Tensor, b: torch.Tensor) -> None:
        """Two tensors that are equal to the last bit."""
        self.checks[name] = Check(name, largest_difference(a, b), torch.equal(a, b))

    def change(self, name: str, measured: float) -> None:
        """Something that must not be 0."""
        self.checks[name] = Check(name, measured, measured > 0)


def largest_difference(a: torch.Tensor, b: torch.Tensor) -> float:
    """How far two tensors are apart where they are furthest; infinity where they have not one shape."""
    return float((a.float() - b.float()).abs().max()) if a.shape == b.shape else float("inf")


def relative_gap(found: torch.Tensor, expected: torch.Tensor) -> float:
    """How far a tensor is from another, relative to its size."""
    if found.shape != expected.shape:
        return float("inf")
    return float((found.float() - expected.float()).norm() / expected.float().norm().clamp_min(1e-30))
