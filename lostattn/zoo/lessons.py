"""What a tiny model is taught beside the questions of `shapes`, and never tested on.

Two kinds of question take long to be learned from their answers alone. A relation needs to know where two objects
stand, and multiple choice needs to find a word among lettered options; each step is asked for here by itself.
"""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np

from lostattn.data.asking import CHOICES, LETTERS, ask
from lostattn.data.scene import COLOURS, GRID, SHAPES, Scene

LESSONS: Mapping[str, tuple[str, ...]] = {
    "column": tuple(str(i) for i in range(GRID)),
    "row": tuple(str(i) for i in range(GRID)),
    "option": LETTERS,
}
"""The answers to each kind of lesson."""
TAUGHT: Mapping[str, tuple[str, ...]] = {**CHOICES, **LESSONS}
"""The answers to every kind of question of the training set."""


def teach(kind: str, answer: str, scene: Scene, rng: np.random.Generator, other: Scene | None = None) -> str | None:
    """Like `lostattn.data.asking.ask`, for lessons too: a question with that answer, or None."""
    if kind not in LESSONS:
        return ask(kind, answer, scene, rng, other)
    if kind == "option":
        words = list(COLOURS if rng.random() < 0.5 else SHAPES)
        rng.shuffle(words)
        lines = "\n".join(f"{letter}. {word}" for letter, word in zip(LETTERS, words, strict=True))
        return f"Which option is {words[LETTERS.index(answer)]}?\nOptions:\n{lines}\n" + _REQUEST
    there = [o for o in scene.objects if str(o.column if kind == "column" else o.row) == answer]
    if not there:
        return None
    o = there[int(rng.integers(len(there)))]
    return f"Which {kind} has the {o.colour} {o.shape}?"


_REQUEST = "Answer with the option's letter only."
