"""Bytes of a remote call: what its request and its result weigh, beside the activations that it is about.

No service is needed: ``remote="local"`` packs, compresses and unpacks as one does. Its rows are printed by
``python -m benchmarks.remote_bytes``, and given by ``remote_bytes()``.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import lostattn as la
from benchmarks import subjects
from lostattn.reductions import update_metrics
from lostattn.remote.session import Session


@dataclass(frozen=True)
class Weight:
    """One call: compressed bytes of the request and of the result, and those of the activations behind it."""

    call: str
    request: int
    response: int
    activations: int
    share: float  # response / activations


def remote_bytes(side: int = 24, n_questions: int = 16) -> list[Weight]:
    """Weigh a cache and the metrics of every update, of one prompt with ``side²`` visual tokens on
    :func:`benchmarks.subjects.llava`, and the metrics of a batch of questions on the bundled ``tiny-llava``.
    """
    large = la.load(subjects.llava(side), selftest=False)
    prompt = large.prompt(inputs=subjects.inputs(side))
    point = f"blocks.{large.cfg.n_layers // 2}.hook_resid_post"
    tiny = la.load("tiny-llava", selftest=False)
    batch = tiny.prompt(list(la.data.load("shapes", split="test", n=n_questions, seed=0)))
    return [
        weighed("run_with_cache, one point + logits", large, prompt, 1, lambda s: s.run_with_cache(prompt, point)),
        metrics("metrics of every update", large, prompt),
        metrics(f"metrics of every update, {n_questions} questions", tiny, batch),
    ]


def metrics(name: str, model: la.LVLM, prompt: la.Prompt) -> Weight:
    """What ``la.experiments.decouple`` asks of a batch: two updates a layer, so ``2 L + 1`` states of the stream."""
    states = 2 * model.cfg.n_layers + 1
    return weighed(name, model, prompt, states, lambda session: session.measure(prompt, update_metrics(model, prompt)))


def weighed(name: str, model: la.LVLM, prompt: la.Prompt, states: int, call: Callable[[Session], Any]) -> Weight:
    """One call, about so many states of the stream ``[batch, pos, d_model]``."""
    with Session(model, "local") as session:
        call(session)
    activations = states * len(prompt) * prompt.n_pos * model.cfg.d_model * model.hf.dtype.itemsize
    return Weight(name, session.sent, session.received, activations, session.received / activations)


if __name__ == "__main__":
    for row in remote_bytes():
        print(
            f"{row.call}: request {row.request:,}, response {row.response:,} of {row.activations:,} ({row.share:.3%})"
        )
