"""Messages as Hugging Face writes them, read: who says what, with which pictures and videos."""

from __future__ import annotations

import base64
import binascii
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

from PIL import Image

from lostattn.errors import InputError, UnknownName, nearest
from lostattn.pictures.loading import load_picture, load_pictures
from lostattn.pictures.videos import Video, load_videos
from lostattn.prompt.turns import ROLES

SPEAKERS = (*ROLES, "system", "developer")
"""The roles that a message may have."""
_HOLDERS = {"image": ("image", "image_url", "url", "path", "base64"), "video": ("video", "url", "path")}
"""Where a part of each type keeps what it shows."""
_EXAMPLE = '{"role": "user", "content": "What is this?"}'


@dataclass(frozen=True)
class Conversation:
    """Some messages, and what they show.

    Attributes:
        messages: as a chat template takes them: pictures and videos as bare parts.
        images, videos: those of all messages, in order.
        shown: for each message, how many images and videos it holds.
    """

    messages: tuple[dict[str, Any], ...]
    images: tuple[Image.Image, ...]
    videos: tuple[Video, ...]
    shown: tuple[int, ...]

    @property
    def is_answered(self) -> bool:
        """Whether the last message is the model's own, with words to go on with."""
        last = self.messages[-1]
        content = last.get("content")
        held = isinstance(content, str) or any("text" in part for part in content or ())
        # Calls of tools come behind the words: an answer that holds some is a whole one.
        return bool(last["role"] == "assistant" and held and not last.get("tool_calls"))


class _Place(NamedTuple):
    """Where a picture or video is shown, and what, if its part holds it."""

    message: int
    kind: str
    source: Any


def is_conversation(given: Any) -> bool:
    """Whether what a prompt is to be made of is a list of messages."""
    return isinstance(given, (list, tuple)) and any(isinstance(one, Mapping) for one in given)


def is_batch(given: Any) -> bool:
    """Whether it is a list of conversations."""
    return isinstance(given, (list, tuple)) and any(isinstance(one, (list, tuple)) for one in given)


def read_conversation(
    given: Any, images: Any, videos: Any, item: int, marks: tuple[str, str], fps: float | int | None = None
) -> Conversation:
    """A conversation, with the pictures and videos that its messages hold or that are given beside it.

    Args:
        given: messages, each a dict of ``role`` and ``content``.
        images, videos: for the parts ``{"type": "image"}`` and ``{"type": "video"}`` that hold none themselves and the
            placeholders in texts, in order.
        item: how an error names the conversation.
        marks: the processor's image and video placeholder.
        fps: how many frames make a second, in videos that do not say it themselves.

    Raises:
        InputError: no messages; a message, role or part that is none; another number of pictures than of places.
    """
    if not isinstance(given, (list, tuple)) or not given:
        told = "holds no message" if isinstance(given, (list, tuple)) else f"is a {type(given).__name__}"
        raise InputError(f"conversation {item} {told}; give at least one, such as {_EXAMPLE}.")
    messages: list[dict[str, Any]] = []
    places: list[_Place] = []
    for k, one in enumerate(given):
        message, own = _message(one, k, f"message {k} of conversation {item}", marks)
        messages.append(message)
        places += own
    if not any(message["role"] in ROLES for message in messages):
        raise InputError(f"conversation {item} holds words of the system alone; give a message of the user.")
    stills = _filled("image", [p for p in places if p.kind == "image"], load_pictures(images, item), item)
    moving = _filled("video", [p for p in places if p.kind == "video"], load_videos(videos, item, fps), item)
    return Conversation(
        tuple(messages),
        tuple(load_picture(one, f"image {k} of conversation {item}") for k, one in enumerate(stills)),
        tuple(clip for one in moving for clip in load_videos([one], item, fps)),
        tuple(sum(place.message == k for place in places) for k in range(len(messages))),
    )


def _filled(kind: str, places: Sequence[_Place], beside: Sequence[Any], item: int) -> list[Any]:
    """What each place shows: what its part holds, or the next of those that are given beside the messages."""
    open_ = sum(place.source is None for place in places)
    if open_ != len(beside):
        raise InputError(
            f"conversation {item} has {open_} place{'s' * (open_ != 1)} for {kind}s given beside it, but {kind}s= "
            f"holds {len(beside)}. A place is a part {{'type': {kind!r}}} that holds no {kind} itself, or the "
            "processor's placeholder in a text."
        )
    left = iter(beside)
    return [next(left) if place.source is None else place.source for place in places]


def _message(given: Any, k: int, name: str, marks: tuple[str, str]) -> tuple[dict[str, Any], list[_Place]]:
    """A message as a template takes it, and what it shows."""
    if not isinstance(given, Mapping):
        raise InputError(f"{name} is a {type(given).__name__}; a message is a dict, such as {_EXAMPLE}.")
    role, content = given.get("role"), given.get("content")
    if not isinstance(role, str) or role not in SPEAKERS:
        told = "has no role" if role is None else f"is by {role!r}"
        close = nearest(role, SPEAKERS) if isinstance(role, str) else ""
        raise UnknownName(f"{name} {told}; the roles are {', '.join(SPEAKERS)}.{close}")
    rest = {key: value for key, value in given.items() if key not in ("role", "content")}
    if content is None and role == "assistant" and rest.get("tool_calls"):
        return {"role": role, **rest}, []
    if isinstance(content, str):
        return {"role": role, "content": content, **rest}, _in_text(content, k, marks)
    if not isinstance(content, (list, tuple)):
        told = "missing" if content is None else f"a {type(content).__name__}"
        raise InputError(
            f"the content of {name} is {told}; it is a text, "
            'or a list of parts: [{"type": "image"}, {"type": "text", "text": "What is this?"}].'
        )
    parts, places = [], []
    for p, one in enumerate(content):
        part, own = _part(one, k, f"part {p} of {name}", marks)
        parts.append(part)
        places += own
    if any(p.source is not None for p in places) and any(_in_text(p.get("text", ""), k, marks) for p in parts):
        raise InputError(
            f"{name} shows pictures both as parts and as placeholders in its text, and templates write them in orders "
            "of their own; write all of them as parts."
        )
    return {"role": role, "content": parts, **rest}, places


def _part(given: Any, k: int, name: str, marks: tuple[str, str]) -> tuple[dict[str, Any], list[_Place]]:
    """A part of a message as a template takes it, and what it shows."""
    if not isinstance(given, Mapping):
        raise InputError(
            f"{name} is a {type(given).__name__}; a part is a dict, such as "
            '{"type": "text", "text": "What is this?"}.'
        )
    kind = given.get("type") or next((one for one in ("text", "image", "video") if one in given), None)
    kind = "image" if kind == "image_url" else kind
    if kind == "text":
        if not isinstance(given.get("text"), str):
            raise InputError(f"the text of {name} is {given.get('text')!r}; it is a str.")
        return {"type": "text", "text": given["text"]}, _in_text(given["text"], k, marks)
    if kind not in _HOLDERS:
        raise InputError(
            f"{name} is of type {kind!r}; the types are text, image and video. What a processor makes of others goes "
            "to model.prompt(inputs=…)."
        )
    held = [given[key] for key in _HOLDERS[kind] if given.get(key) is not None]
    if len(held) > 1:
        raise InputError(f"{name} holds {len(held)} {kind}s; give one part for each.")
    return {"type": kind}, [_Place(k, kind, _source(held[0], name, "base64" in given) if held else None)]


def _in_text(text: str, k: int, marks: tuple[str, str]) -> list[_Place]:
    """The places that a text holds itself, by the processor's placeholders."""
    image, video = marks
    places = [_Place(k, "image", None)] * (text.count(image) if image else 0)
    return places + [_Place(k, "video", None)] * (text.count(video) if video and video != image else 0)


def _source(held: Any, name: str, encoded: bool) -> Any:
    """What a part holds, as the reader of pictures takes it: addresses of data and files as bytes and paths."""
    if isinstance(held, Mapping):  # OpenAI's way: {"image_url": {"url": …}}
        held = held.get("url")
    if not isinstance(held, str):
        return held
    head, comma, data = held.partition(",")
    if not encoded and not (head.startswith("data:") and comma):
        return held.removeprefix("file://")
    try:
        return base64.b64decode(data if head.startswith("data:") else held, validate=True)
    except binascii.Error as error:
        raise InputError(f"{name} holds base64 that cannot be read ({error}).") from error
