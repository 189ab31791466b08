"""Timing contenders side by side: interleaved, as ratios of the same round."""

from __future__ import annotations

import gc
import statistics
import time
from collections.abc import Callable
from typing import Any

import torch

Seconds = dict[str, list[float]]  # of each contender, round by round


def race(contenders: dict[str, Callable[[], Any]], rounds: int, warm_up: int = 1) -> Seconds:
    """Run every contender once a round, in an order that moves on by one each round.

    The machine's speed drifts; what one round shares divides out. Results are dropped before the next starts.
    """
    names = list(contenders)
    took: Seconds = {name: [] for name in names}
    for i in range(warm_up + rounds):
        shift = i % len(names)
        for name in names[shift:] + names[:shift]:
            gc.collect()
            _settle()
            began = time.perf_counter()
            result = contenders[name]()
            _settle()
            seconds = time.perf_counter() - began
            del result
            if i >= warm_up:
                took[name].append(seconds)
    return took


def _settle() -> None:
    if torch.cuda.is_available():
        torch.cuda.synchronize()


def ratio(took: Seconds, mine: str, base: str) -> tuple[float, float, float]:
    """The median over rounds of one contender's time by another's of the same round, and the quartiles."""
    ratios = [a / b for a, b in zip(took[mine], took[base], strict=True)]
    if len(ratios) == 1:
        return (ratios[0],) * 3
    low, _, high = statistics.quantiles(ratios, n=4)
    return statistics.median(ratios), low, high
