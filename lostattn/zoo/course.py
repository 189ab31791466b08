"""The courses that the tiny models were taught by: every number of every part."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import Any

FIRST_MIX: Mapping[str, int] = {
    "existence": 2,
    "colour": 1,
    "shape": 1,
    "counting": 2,
    "relation": 3,
    "comparison": 1,
    "choice": 1,
}
"""How many questions of each kind are packed behind one scene, to begin with."""
SECOND_MIX: Mapping[str, int] = {
    "existence": 1,
    "colour": 1,
    "shape": 1,
    "counting": 1,
    "relation": 4,
    "comparison": 1,
    "choice": 2,
    "column": 1,
    "row": 1,
    "option": 1,
}
"""The same once most kinds are learned: more of those that are not, with lessons towards them."""


@dataclass(frozen=True)
class Part:
    """One part of a course, with optimisers of its own; what is not said here is PyTorch's default.

    Attributes:
        steps: optimiser steps over which the learning rate rises and falls to a hundredth.
        stop: the step to end after, if before the last; 0 goes through.
        stream: which stream of random scenes and questions, beside the seed.
        scenes: scenes a step, each with the questions of `mix`.
        mix: how many questions of each kind are asked about a scene.
        lr: peak learning rate of AdamW.
        muon_lr: peak learning rate of Muon, for the matrices inside the layers; 0 leaves them to AdamW.
        warmup: steps over which the learning rates rise.
        weight_decay: of matrices.
        clip: the gradient's norm is cut to this.
        stop_weight: weight of the loss on stopping after the answer.
        dense_weight: weight of the loss on what stands at each visual token's place, fading to nothing.
        dense_until: the share of the steps at which it has faded.
        rotary: rotary settings of the decoder from here on, over those that it has; None changes nothing.
        log_every: steps between lines of the log.
        check_every: steps between looks at the validation split, and saves.
    """

    steps: int
    stop: int = 0
    stream: tuple[int, ...] = (0,)
    scenes: int = 12
    mix: Mapping[str, int] = field(default_factory=lambda: FIRST_MIX)
    lr: float = 1e-3
    muon_lr: float = 0.0
    warmup: int = 100
    weight_decay: float = 0.05
    clip: float = 1.0
    stop_weight: float = 0.05
    dense_weight: float = 0.5
    dense_until: float = 0.5
    rotary: Mapping[str, Any] | None = None
    log_every: int = 100
    check_every: int = 400


_SECOND = Part(
    steps=1200,
    stream=(0, 10),
    scenes=8,
    mix=SECOND_MIX,
    lr=5e-4,
    muon_lr=1.5e-3,
    warmup=40,
    dense_weight=0.1,
    dense_until=1.0,
    log_every=25,
    check_every=200,
)
_CROWDED: Mapping[str, Any] = {"rope_theta": 10.0, "mrope_section": [2, 3, 3]}
_SPREAD: Mapping[str, Any] = {"rope_theta": 100.0, "mrope_section": [1, 1, 6]}
COURSES: Mapping[str, tuple[Part, ...]] = {
    "tiny-llava": (Part(steps=4000, stop=1200), _SECOND),
    "tiny-qwen2_5-vl": (
        Part(steps=4000, stop=1200, rotary=_CROWDED),
        replace(_SECOND, stop=400),
        # With every frequency high, no token could be found by what it is alone, wherever it stands, and multiple
        # choice stayed at chance. With these it is learned.
        replace(_SECOND, steps=1000, rotary=_SPREAD),
        replace(_SECOND, steps=900),
    ),
}
"""The parts in order, as the shipped weights went through them.

The first finds colours, shapes and numbers, the second places and options. Qwen2.5-VL took two more parts, since its
rotary frequencies were changed on the way.
"""
