"""`shapes`: pictures with questions in the manner of the public benchmarks, drawn from a seed."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from lostattn.data.asking import CHOICES, KINDS, ask
from lostattn.data.question import Question, Questions
from lostattn.data.scene import SIZES, SPLITS, WIDE_SIZES, Drawn, Scene, draw_jitter, draw_scene

_LOOK_AHEAD = 14
_PER_SCENE = 2


def shapes(split: str = "test", n: int = 200, seed: int = 0, kinds: Sequence[str] = KINDS) -> Questions:
    """Questions about square pictures of a few sizes, which both tiny models read.

    The kinds are asked equally often, and within a kind every answer is right equally often, as nearly as `n`
    allows. About every two questions share their scene (see `Question.group`). A scene belongs to one
    split alone. The arguments are those of `lostattn.data.load`, which checks them.
    """
    return _draw(split, n, seed, kinds, SIZES, "shapes")


def shapes_wide(split: str = "test", n: int = 200, seed: int = 0, kinds: Sequence[str] = KINDS) -> Questions:
    """The same with rectangular pictures, for models that keep a picture's proportions."""
    return _draw(split, n, seed, kinds, WIDE_SIZES, "shapes-wide")


def _slots(n: int, kinds: Sequence[str], rng: np.random.Generator) -> list[tuple[str, str]]:
    """What to ask, kind and right answer, in random order; counts differ by one at most."""
    slots = []
    for i in range(n):
        kind, turn = kinds[i % len(kinds)], i // len(kinds)
        slots.append((kind, CHOICES[kind][turn % len(CHOICES[kind])]))
    return [slots[i] for i in rng.permutation(n)]


def _draw(
    split: str, n: int, seed: int, kinds: Sequence[str], sizes: Sequence[tuple[int, int]], name: str
) -> Questions:
    rng = np.random.default_rng([seed, SPLITS.index(split), len(name)])
    pending = _slots(n, kinds, rng)
    questions: list[Question] = []
    used: set[str] = set()
    while pending:
        first, second = draw_scene(rng, split), draw_scene(rng, split)
        size = sizes[int(rng.integers(len(sizes)))]
        drawn = [Drawn(scene, size, draw_jitter(rng, scene)) for scene in (first, second)]
        pictures = [picture.render() for picture in drawn]
        if first.key in used:
            continue
        used.add(first.key)
        asked = 0
        for kind, answer in pending[:_LOOK_AHEAD]:
            if asked == _PER_SCENE:
                break
            text = ask(kind, answer, first, rng, second)
            if text is None or any(q.text == text and q.group == _group(first) for q in questions[-_PER_SCENE:]):
                continue
            pending.remove((kind, answer))
            asked += 1
            many = 2 if kind == "comparison" else 1
            questions.append(
                Question(
                    id=f"{name}-{split}-{seed}-{len(questions):05d}",
                    text=text,
                    images=tuple(pictures[:many]),
                    answer=answer,
                    choices=CHOICES[kind],
                    kind=kind,
                    group=_group(first),
                    scenes=tuple(drawn[:many]),
                )
            )
    return Questions(questions, name)


def _group(scene: Scene) -> str:
    # A second picture is drawn afresh for every pair, so the first scene alone ties questions together.
    return scene.id
