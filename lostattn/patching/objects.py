"""Minimal pairs: the same picture without the object that the question asks about, or with it in another colour."""

from __future__ import annotations

import dataclasses
import zlib

import numpy as np

from lostattn.arguments import checked_call
from lostattn.arguments.kinds import Seed
from lostattn.data.asked import AskedObject, asked_objects, right_answer
from lostattn.data.question import Question
from lostattn.data.scene import COLOURS, Drawn
from lostattn.errors import InputError


@checked_call
def remove_object(question: Question, which: int = 0) -> Question:
    """The same question about the same scene without an object that it asks about.

    Every pixel outside the object's box stays as it is, and so does the layout. ``answer`` becomes what is right about
    the new picture; where the question has no answer there any more ("What colour is the square?"), the clean one's
    stays.

    Args:
        question: of ``la.data.load("shapes")``. For pictures of your own, name the object's box:
            ``corrupt(question, "cover", box=(x0, y0, x1, y1))``.
        which: of several objects that the question asks about, which; in the order of
            :func:`lostattn.data.asked_objects`.

    Raises:
        InputError: the question does not say what its pictures show, or asks about no such object.
    """
    asked = _asked(question, which)
    return _changed(question, asked, question.scenes[asked.image].without(asked.object), "removed")


@checked_call
def recolour_object(question: Question, colour: str | None = None, which: int = 0, seed: Seed = 0) -> Question:
    """The same question about the same scene with an object that it asks about in another colour.

    A minimal pair: of "What colour is the square?" nothing changes but the pixels of the square, and the answer.
    ``answer`` becomes what is right about the new picture, or stays where the question has no answer there any more.

    Args:
        question: as for :func:`remove_object`.
        colour: the new colour; None draws one of those that leave no two objects alike.
        which: as for :func:`remove_object`.
        seed: of that draw, which is another for each question.

    Raises:
        InputError: as for :func:`remove_object`; a colour that does not exist, that the object has already, or that
            another object of its shape has.
    """
    asked = _asked(question, which)
    drawn = question.scenes[asked.image]
    taken = {o.colour for o in drawn.scene.where(shape=asked.object.shape)}
    free = [c for c in COLOURS if c not in taken]
    if not free or (colour is not None and colour not in free):
        raise InputError(
            f"colour is {colour!r}; the {asked.object.colour} {asked.object.shape} of question {question.id!r} can "
            f"become {', '.join(free) or 'nothing else'}: no two objects of a scene look alike."
        )
    rng = np.random.default_rng([seed, zlib.crc32(question.id.encode())])
    chosen = colour or free[int(rng.integers(len(free)))]
    return _changed(question, asked, drawn.recoloured(asked.object, chosen), f"now-{chosen}")


def _asked(question: Question, which: int) -> AskedObject:
    asked = asked_objects(question)
    if not 0 <= which < len(asked):
        what = f"question {question.id!r} ({question.text.splitlines()[0]!r}, answer {question.answer!r})"
        if not asked:
            raise InputError(f"{what} asks about no single object that its pictures show.")
        raise InputError(f"which is {which}; {what} asks about {len(asked)} objects, 0 to {len(asked) - 1}.")
    return asked[which]


def _changed(question: Question, asked: AskedObject, drawn: Drawn, how: str) -> Question:
    """The question with one picture drawn anew, and what is right about it."""
    scenes = list(question.scenes)
    scenes[asked.image] = drawn
    images = list(question.images)
    images[asked.image] = drawn.render()
    answer = right_answer(question.kind, question.text, scenes)
    return dataclasses.replace(
        question,
        images=tuple(images),
        scenes=tuple(scenes),
        answer=answer if answer in question.choices else question.answer,
        id=f"{question.id}/{asked.object.colour}-{asked.object.shape}-{how}",
    )
