"""Which objects a question of `shapes` asks about, where they are, and what is right once they have changed."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass

from lostattn.arguments import checked_call
from lostattn.data.asking import CHOICES, LETTERS, askable
from lostattn.data.question import Question
from lostattn.data.scene import COLOURS, PLURALS, SHAPES, Box, Drawn, Object
from lostattn.errors import InputError

_MENTION = re.compile(
    rf"\b(?:(?P<colour>{'|'.join(COLOURS)}) )?(?P<shape>{'|'.join((*PLURALS.values(), *SHAPES, 'objects?'))})\b"
)
_SINGULAR = {plural: shape for shape, plural in PLURALS.items()}


@checked_call
@dataclass(frozen=True)
class AskedObject:
    """An object that a question asks about.

    Attributes:
        image: which of the question's pictures shows it.
        box: its pixels there, ``(x0, y0, x1, y1)``, the last ones not included.
        object: the object of that picture's scene: its cell, shape and colour.
    """

    image: int
    box: Box
    object: Object


@checked_call
def asked_objects(question: Question) -> tuple[AskedObject, ...]:
    """The objects that a question asks about, as it names them; of several that fit, as they stand in the picture.

    Empty where nothing that is named is to be seen ("Is there a red square?", answer no), and where the question
    names all objects alike ("Which picture has more objects?").

    Raises:
        InputError: the question does not say what its pictures were drawn from.
    """
    if not question.scenes:
        raise InputError(
            f"question {question.id!r} does not say what its pictures show (only questions of la.data.load('shapes') "
            "do); name a box of pixels instead: la.patching.corrupt(question, 'cover', box=(x0, y0, x1, y1))."
        )
    return tuple(
        AskedObject(image, drawn.box(found), found)
        for colour, shape in _mentions(question.text)
        for image, drawn in enumerate(question.scenes)
        for found in drawn.scene.where(colour=colour, shape=shape)
    )


def right_answer(kind: str, text: str, scenes: Sequence[Drawn]) -> str | None:
    """What is right about these scenes; None where the question has no single answer there."""
    first, *others = (drawn.scene for drawn in scenes)
    if kind == "existence":
        ((colour, shape),) = _mentions(text)
        return "yes" if first.where(colour=colour, shape=shape) else "no"
    if kind == "choice":
        asked, _, *lines = text.splitlines()
        options = dict(line.split(". ") for line in lines[: len(LETTERS)])
        word = next(filter(None, (right_answer(k, asked, scenes) for k in ("colour", "shape"))), None)
        return next((letter for letter, option in options.items() if option == word), None)
    if kind not in CHOICES:
        return None
    return next((a for a, texts in askable(kind, first, *others).items() if text in texts), None)


def _mentions(text: str) -> list[tuple[str | None, str | None]]:
    """Colour and shape of what a question names, None where it leaves one open; "objects" alone is left out."""
    found = []
    for match in _MENTION.finditer(text.partition("\n")[0]):
        shape = None if match["shape"].startswith("object") else _SINGULAR.get(match["shape"], match["shape"])
        if match["colour"] or shape:
            found.append((match["colour"], shape))
    return found
