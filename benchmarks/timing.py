"""Timing contenders side by side: interleaved, as ratios to a baseline of the same round."""

from __future__ import annotations

import gc
import statistics
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any


@dataclass(frozen=True)
class Ratio:
    """How long a contender takes, as a multiple of the baseline of the same round."""

    contender: str
    baseline: str
    seconds: float  # median of the contender
    ratio: float  # median over rounds
    low: float  # quartiles over rounds
    high: float
    rounds: int


def race(contenders: dict[str, Callable[[], Any]], baseline: str, rounds: int, warm_up: int = 1) -> list[Ratio]:
    """Run every contender once a round, in an order that moves on by one each round.

    The machine's speed drifts; what one round shares divides out. Results are dropped before the next starts.
    """
    names = list(contenders)
    took: dict[str, list[float]] = {name: [] for name in names}
    for i in range(warm_up + rounds):
        shift = i % len(names)
        for name in names[shift:] + names[:shift]:
            gc.collect()
            began = time.perf_counter()
            result = contenders[name]()
            seconds = time.perf_counter() - began
            del result
            if i >= warm_up:
                took[name].append(seconds)
    out = []
    for name in names:
        ratios = [mine / base for mine, base in zip(took[name], took[baseline], strict=True)]
        low, _, high = statistics.quantiles(ratios, n=4) if len(ratios) > 1 else (ratios[0],) * 3
        median = statistics.median
        out.append(Ratio(name, baseline, median(took[name]), median(ratios), low, high, rounds))
    return out
