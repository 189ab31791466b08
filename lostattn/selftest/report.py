"""What a self-test saw."""

from __future__ import annotations

from dataclasses import dataclass


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
