"""Patterns of a cache against the softmax of the bare model."""

from __future__ import annotations

from lostattn.conformance.by_hand import by_hand
from lostattn.conformance.comparison import NEAR, Absent, Comparison, Subject, largest


def patterns(subject: Subject, allowed: float = NEAR) -> list[Comparison]:
    """Every decoder layer's ``cache["pattern", i]`` against the eager softmax of the same pass."""
    layers = subject.layers
    if not layers:
        raise Absent("no layer calls transformers' attention interface")
    inputs = subject.model._inputs(subject.prompt)
    with by_hand(subject.bare) as seen:
        subject.bare(**inputs, use_cache=False)
    _, cache = subject.model.run_with_cache(subject.prompt, [f"blocks.{i}.attn.hook_pattern" for i in layers])
    real = subject.prompt.token_map.real
    worst = 0.0
    for i, path in layers.items():
        (weights,) = seen.weights[path]
        worst = max(worst, largest(cache["pattern", i], weights, real))
    return [Comparison("patterns", worst, allowed)]
