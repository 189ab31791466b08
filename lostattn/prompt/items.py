"""The items of a prompt as they are asked for: questions, texts with pictures, conversations."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

from PIL import Image

from lostattn.errors import InputError
from lostattn.pictures.loading import load_pictures
from lostattn.pictures.videos import Video, load_videos
from lostattn.prompt.assemble import PICTURE
from lostattn.prompt.conversations.messages import is_batch, is_conversation, read_conversation
from lostattn.prompt.conversations.options import check_template_options
from lostattn.prompt.conversations.reading import asked_words
from lostattn.prompt.conversations.writing import write_conversation
from lostattn.prompt.identity import content_id
from lostattn.prompt.rendered import Rendered
from lostattn.prompt.rendering import has_template, render


@dataclass(frozen=True)
class Item:
    """One item of a prompt.

    Attributes:
        rendered: its text.
        text: its question.
        images, videos: in the order of the text.
        id: its identity.
    """

    rendered: Rendered
    text: str
    images: tuple[Image.Image, ...]
    videos: tuple[Video, ...]
    id: str


@dataclass(frozen=True)
class Beside:
    """What is given beside questions, texts or messages.

    Attributes:
        images, videos, answer: for one item, or a list with those of each.
        system: a system text for all.
        fps: of videos that do not say it.
        options: for the chat template.
        check: refuses the pictures and videos of an item that the model does not take, before they are put in a text.
    """

    images: Any = None
    videos: Any = None
    fps: float | int | None = None
    system: str | None = None
    answer: str | Sequence[str] | None = None
    options: Any = None
    check: Callable[[tuple[Image.Image, ...], tuple[Video, ...]], None] = lambda images, videos: None


def items_of(processor: Any, marks: tuple[str, str], given: Any, beside: Beside) -> list[Item]:
    """The items that a prompt is to be made of.

    Args:
        processor: the model's processor.
        marks: its image and video placeholder.
        given: a question, a text, a conversation, or a list of these.
        beside: what is given beside it.

    Raises:
        InputError: something else; other numbers of pictures than of places for them.
    """
    options = check_template_options(processor, beside.options)
    if is_batch(given):
        _check_said(beside)
        images, videos = (
            _each(held, len(given), kind) for held, kind in ((beside.images, "image"), (beside.videos, "video"))
        )
        return [
            _spoken(processor, marks, one, replace(beside, images=images[k], videos=videos[k]), k, options)
            for k, one in enumerate(given)
        ]
    if is_conversation(given):
        _check_said(beside)
        return [_spoken(processor, marks, given, beside, 0, options)]
    return [
        _rendered_with(processor, marks, one, beside.system, options)
        if beside.options is not None or _is_interleaved(processor, marks[0], one)
        else _rendered(processor, marks, one, beside.system)
        for one in _asked(given, beside)
    ]


def _spoken(
    processor: Any, marks: tuple[str, str], given: Any, beside: Beside, k: int, options: Mapping[str, Any]
) -> Item:
    """The item of a conversation."""
    told = read_conversation(given, beside.images, beside.videos, k, marks, beside.fps)
    beside.check(told.images, told.videos)
    rendered = write_conversation(processor, told, marks, options, f"conversation {k}")
    text = asked_words(processor, rendered, marks)
    return Item(rendered, text, told.images, told.videos, content_id(rendered.text, told.images, told.videos))


def _check_said(beside: Beside) -> None:
    if beside.system is not None or beside.answer is not None:
        raise InputError(
            "messages say all words themselves: write system= as a message by 'system', and answer= as a last one by "
            "'assistant'."
        )


@dataclass(frozen=True)
class _Asked:
    """A question as it is asked, before it is a text."""

    text: str
    images: tuple[Image.Image, ...]
    videos: tuple[Video, ...]
    id: str | None
    answer: str | None


def _asked(given: Any, beside: Beside) -> list[_Asked]:
    """Questions and texts, one or several, with what is given beside each."""
    several = isinstance(given, Sequence) and not isinstance(given, str)  # a list, or the Questions of a data set
    if several and not given:
        raise InputError("An empty list makes no prompt; give at least one question.")
    items = list(given) if several else [given]
    images = _each(beside.images, len(items), "image") if several else [beside.images]
    videos = _each(beside.videos, len(items), "video") if several else [beside.videos]
    answer = beside.answer
    answers = [answer] * len(items) if answer is None or isinstance(answer, str) else list(answer)
    if len(answers) != len(items):
        raise InputError(f"{len(answers)} answers were given for {len(items)} prompts; give one for each, or one str.")
    out = []
    for i, (one, pictures, clips, said) in enumerate(zip(items, images, videos, answers, strict=True)):
        text, shown, name = _item(one, pictures, i)
        moving = load_videos(clips, i, beside.fps)
        beside.check(shown, moving)
        out.append(_Asked(text, shown, moving, name, said))
    return out


def _each(given: Any, n: int, kind: str) -> list[Any]:
    """What is given for each of several items."""
    if given is None:
        return [None] * n
    if not isinstance(given, (list, tuple)) or len(given) != n:
        held = len(given) if isinstance(given, (list, tuple)) else 1
        raise InputError(
            f"{n} texts were given with {kind}s for {held}; give a list of {kind}s for each text:"
            f" {kind}s=[[a, b], [c]]."
        )
    return list(given)


def _item(given: Any, images: Any, i: int) -> tuple[str, tuple[Image.Image, ...], str | None]:
    if isinstance(given, str):
        return given, load_pictures(images, i), None
    if hasattr(given, "text") and hasattr(given, "images"):
        if images is not None:
            raise InputError("A question brings its own images; give images= only with a text.")
        if getattr(given, "trouble", ""):
            raise InputError(given.trouble)
        own = getattr(given, "id", None)
        if not isinstance(given.text, str):
            raise InputError(f"the text of question {own!r} is a {type(given.text).__name__}; expected a str.")
        return given.text, load_pictures(given.images, i), None if own is None else str(own)
    raise InputError(
        f"A prompt is made from a question, a text, messages, or a list of these; got {type(given).__name__}"
        f"{f' as item {i}' if i else ''}. A processor's output goes to inputs=."
    )


def _rendered(processor: Any, marks: tuple[str, str], one: _Asked, system: str | None) -> Item:
    """The item of a question in one turn of the user."""
    moving = marks[1] if one.videos else ""
    rendered = render(processor, one.text, len(one.images), marks[0], system, one.answer, len(one.videos), moving)
    return Item(rendered, one.text, one.images, one.videos, one.id or content_id(one.text, one.images, one.videos))


def _is_interleaved(processor: Any, mark: str, one: _Asked) -> bool:
    """Whether a text says where its pictures stand by ``<image>``, which any model takes, and this one's is another."""
    return bool(
        mark not in ("", PICTURE) and mark not in one.text and one.images and PICTURE in one.text
        and has_template(processor)
    )  # fmt: skip


def _rendered_with(
    processor: Any, marks: tuple[str, str], one: _Asked, system: str | None, options: Mapping[str, Any]
) -> Item:
    """The same with options of the chat template, or with pictures among the words: as the messages it stands for."""
    words: list[dict[str, Any]] = [{"type": "text", "text": one.text}]
    images = [] if marks[0] and marks[0] in one.text else [{"type": "image"}] * len(one.images)
    videos = [] if marks[1] and marks[1] in one.text else [{"type": "video"}] * len(one.videos)
    if _is_interleaved(processor, marks[0], one):
        pieces = one.text.split(PICTURE)
        if len(pieces) - 1 != len(one.images):
            raise InputError(
                f"{len(pieces) - 1} image placeholder{'s' * (len(pieces) > 2)} {PICTURE!r} in the prompt, but "
                f"{len(one.images)} image{'s' * (len(one.images) != 1)} given. Write {PICTURE!r} once for each image, "
                "or not at all: the images are then put first."
            )
        texts = [[{"type": "text", "text": piece}] * bool(piece) for piece in pieces]
        words = [part for k, own in enumerate(texts) for part in ([{"type": "image"}] * bool(k) + own)]
        images = []
    messages: list[dict[str, Any]] = [] if system is None else [{"role": "system", "content": system}]
    messages.append({"role": "user", "content": [*images, *videos, *words]})
    if one.answer:
        messages.append({"role": "assistant", "content": [{"type": "text", "text": one.answer.lstrip() or one.answer}]})
    told = read_conversation(messages, one.images, one.videos, 0, marks)
    rendered = write_conversation(processor, told, marks, options, "the prompt")
    return Item(rendered, one.text, one.images, one.videos, one.id or content_id(one.text, one.images, one.videos))
