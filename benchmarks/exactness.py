"""How far the metrics are from float64 singular value decompositions of the same states."""

from __future__ import annotations

from torch import Tensor

import lostattn as la
from benchmarks import peers


def errors(states: list[Tensor]) -> dict[str, float]:
    """The largest relative error of RID, and of MixIG as a share of the entropies that it is the difference of."""
    ours = {name: values.cpu() for name, values in la.metrics.stream_metrics(states).items()}
    exact = peers.textbook_metrics([state.double() for state in states])
    rid = (ours["rid"] - exact["rid"]).abs() / exact["rid"].abs()
    mixig = (ours["mixig"] - exact["mixig"]).abs() / exact["mixing"].abs()
    return {"rid": float(rid.max()), "mixig": float(mixig.max())}
