"""What can be asked about a scene of `shapes`, and the right answers."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np

from lostattn.data.scene import COLOURS, PLURALS, SHAPES, Scene

KINDS = ("existence", "colour", "shape", "counting", "relation", "comparison", "choice")
LETTERS = ("A", "B", "C", "D")
CHOICES: Mapping[str, tuple[str, ...]] = {
    "existence": ("yes", "no"),
    "colour": COLOURS,
    "shape": SHAPES,
    "counting": ("0", "1", "2", "3"),
    "relation": ("yes", "no"),
    "comparison": ("first", "second"),
    "choice": LETTERS,
}
"""The admissible answers to each kind of question."""
_OPPOSITE = {"left of": "right of", "right of": "left of", "above": "below", "below": "above"}


def askable(kind: str, scene: Scene, other: Scene | None = None) -> dict[str, list[str]]:
    """Every question of one kind that the scene allows, by its right answer.

    Args:
        kind: one of `KINDS` but `"choice"`, whose options are drawn (see `ask`).
        scene: the scene of the first, or only, picture.
        other: the scene of the second picture; used by `"comparison"` alone.
    """
    if kind == "comparison":
        if other is None:
            raise ValueError("a comparison needs a second scene")
        return _comparison(scene, other)
    return _SINGLE[kind](scene)


def _existence(scene: Scene) -> dict[str, list[str]]:
    there = {o.looks for o in scene.objects}
    colours, shapes = {o.colour for o in scene.objects}, {o.shape for o in scene.objects}
    # Hard negatives alone: the colour is there and the shape is there, but not on one object.
    absent = [(c, s) for c in COLOURS for s in SHAPES if c in colours and s in shapes and (c, s) not in there]
    return {
        "yes": [f"Is there a {c} {s}?" for c, s in sorted(there)],
        "no": [f"Is there a {c} {s}?" for c, s in absent],
    }


def _colour(scene: Scene) -> dict[str, list[str]]:
    out: dict[str, list[str]] = {c: [] for c in COLOURS}
    for s in SHAPES:
        if len(found := scene.where(shape=s)) == 1:
            out[found[0].colour].append(f"What colour is the {s}?")
    return out


def _shape(scene: Scene) -> dict[str, list[str]]:
    out: dict[str, list[str]] = {s: [] for s in SHAPES}
    for c in COLOURS:
        if len(found := scene.where(colour=c)) == 1:
            out[found[0].shape].append(f"What shape is the {c} object?")
    return out


def _counting(scene: Scene) -> dict[str, list[str]]:
    out: dict[str, list[str]] = {n: [] for n in CHOICES["counting"]}
    for c in COLOURS:
        out.setdefault(str(len(scene.where(colour=c))), []).append(f"How many {c} objects are there?")
    for s in SHAPES:
        out.setdefault(str(len(scene.where(shape=s))), []).append(f"How many {PLURALS[s]} are there?")
    return {n: out[n] for n in CHOICES["counting"]}


def _relation(scene: Scene) -> dict[str, list[str]]:
    out: dict[str, list[str]] = {"yes": [], "no": []}
    for a in scene.objects:
        for b in scene.objects:
            holds = []
            if a.column != b.column:
                holds.append("left of" if a.column < b.column else "right of")
            if a.row != b.row:
                holds.append("above" if a.row < b.row else "below")
            for word in holds:
                for answer, said in (("yes", word), ("no", _OPPOSITE[word])):
                    out[answer].append(f"Is the {a.colour} {a.shape} {said} the {b.colour} {b.shape}?")
    return out


def _comparison(first: Scene, second: Scene) -> dict[str, list[str]]:
    out: dict[str, list[str]] = {"first": [], "second": []}
    if (difference := len(first.objects) - len(second.objects)) != 0:
        # Said as often as the other form, which comes in many wordings.
        out["first" if difference > 0 else "second"] += ["Which picture has more objects?"] * 3
    in_first, in_second = ({o.looks for o in scene.objects} for scene in (first, second))
    for c, s in sorted(in_first ^ in_second):
        out["first" if (c, s) in in_first else "second"].append(f"Which picture has a {c} {s}?")
    return out


_SINGLE = {
    "existence": _existence,
    "colour": _colour,
    "shape": _shape,
    "counting": _counting,
    "relation": _relation,
}


def _letter(scene: Scene, answer: str, rng: np.random.Generator) -> str | None:
    """A question of kind colour or shape as a list of lettered options, the right one at that letter."""
    open_questions = [
        (text, right, CHOICES[kind])
        for kind in ("colour", "shape")
        for right, texts in askable(kind, scene).items()
        for text in texts
    ]
    if not open_questions:
        return None
    text, right, words = open_questions[rng.integers(len(open_questions))]
    options = [w for w in words if w != right]
    rng.shuffle(options)
    options.insert(LETTERS.index(answer), right)
    lines = "\n".join(f"{letter}. {option}" for letter, option in zip(LETTERS, options, strict=True))
    return f"{text}\nOptions:\n{lines}\nAnswer with the option's letter only."


def ask(kind: str, answer: str, scene: Scene, rng: np.random.Generator, other: Scene | None = None) -> str | None:
    """A random question of that kind whose right answer is `answer`; None where the scene allows none."""
    if kind == "choice":
        return _letter(scene, answer, rng)
    texts = askable(kind, scene, other)[answer]
    return texts[rng.integers(len(texts))] if texts else None
