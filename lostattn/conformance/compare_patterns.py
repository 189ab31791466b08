"""Patterns of a cache against the softmax of the bare model."""

from __future__ import annotations

from lostattn.conformance.by_hand import by_hand
from lostattn.conformance.comparison import NEAR, Absent, Comparison, Subject, largest


def patterns(subject: Subject, allowed: float = NEAR) -> list[Comparison]:
    """Every decoder layer's ``cache["pattern", i]`` (and ``"cross_pattern"``) against the softmax of the same pass."""
    boundaries = subject.boundaries
    if not boundaries:
        raise Absent("no layer calls transformers' attention interface")
    inputs = subject.model._inputs(subject.prompt)
    with by_hand(subject.bare) as seen:
        subject.bare(**inputs, use_cache=False)
    _, cache = subject.model.run_with_cache(subject.prompt, [f"{name}.hook_pattern" for name in boundaries])
    real = subject.prompt.token_map.real
    worst = 0.0
    for name, path in boundaries.items():
        (weights,) = seen.weights[path]
        worst = max(worst, largest(cache[f"{name}.hook_pattern"], weights, real))
    return [Comparison("patterns", worst, allowed)]
