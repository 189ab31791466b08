"""A question as the text that the tokenizer is given: one user turn through the processor's chat template."""

from __future__ import annotations

import re
from collections.abc import Sequence
from difflib import SequenceMatcher
from typing import Any

from lostattn.checkpoint.templates.chat import apply_chat_template
from lostattn.errors import InputError
from lostattn.prompt.rendered import Rendered

Counts = tuple[int, int]
"""How many images and how many videos."""
NOTHING: Counts = (0, 0)
_MARK = "lostattn-puts-the-question-here"
"""Rendered in the question's place, it shows what the template puts before and after a question."""


def render(
    processor: Any,
    text: str,
    n_images: int,
    placeholder: str,
    system: str | None = None,
    answer: str | None = None,
    n_videos: int = 0,
    moving: str = "",
) -> Rendered:
    """One user turn, images, then videos, then the text, followed by the template's opening of an answer.

    Placeholders that the text itself holds are honoured where they stand; then none of that kind is put first. Without
    a chat template the text is taken as the whole prompt, placeholders and all.

    Args:
        processor: the model's processor.
        text: the question.
        n_images: how many images it comes with.
        placeholder: the processor's image placeholder; empty for a model that takes no images.
        system: a system turn to put before it.
        answer: the answer so far, put where the model's answer would begin, with the template's own spacing.
        n_videos: how many videos it comes with.
        moving: the processor's video placeholder; empty where it names none.

    Raises:
        InputError: as many placeholders as images or videos are not there; the template refuses the turn.
    """
    if not has_template(processor):
        if system is not None:
            raise InputError("This processor has no chat template to put a system text into; write it in the text.")
        rendered = Rendered(text + (answer or ""), 0, (0, len(text)), len(text) if answer else None)
    else:
        shown = (0 if placeholder in text else n_images, 0 if moving and moving in text else n_videos)
        rendered = _through_template(processor, text, shown, system, answer)
    _check_count(processor, rendered.text, placeholder, n_images, "image")
    if n_videos or moving:
        _check_count(processor, rendered.text, moving, n_videos, "video")
    return rendered


def _check_count(processor: Any, text: str, placeholder: str, n: int, kind: str) -> None:
    """Refuse a text with another number of placeholders than there are images, or videos."""
    found = text.count(placeholder) if placeholder else 0
    if found != n:
        hint = (
            "Without a chat template the text must hold them itself."
            if not has_template(processor)
            else f"Write {placeholder!r} once for each {kind}, or not at all: the {kind}s are then put first."
        )
        raise InputError(
            f"{found} {kind} placeholder{'s' * (found != 1)} {placeholder!r} in the prompt, but {n}"
            f" {kind}{'s' * (n != 1)} given. {hint}"
        )


def as_pictures(rendered: Rendered, moving: str, placeholder: str) -> Rendered:
    """A text with each video's placeholder written as an image's, which its tokens are to a token map."""
    if not moving or moving == placeholder or moving not in rendered.text:
        return rendered
    starts = [found.start() for found in re.finditer(re.escape(moving), rendered.text)]
    longer = len(placeholder) - len(moving)

    def now(place: int) -> int:
        return place + longer * sum(start < place for start in starts)

    return rendered.moved(rendered.text.replace(moving, placeholder), now)


def kinds(rendered: Rendered, moving: str, placeholder: str) -> tuple[str, ...]:
    """``"image"`` or ``"video"`` for each placeholder of a text, in order."""
    marks = {"video": moving, "image": placeholder}
    held = [(found.start(), kind) for kind, mark in marks.items() if mark
            for found in re.finditer(re.escape(mark), rendered.text)]  # fmt: skip
    return tuple(kind for _, kind in sorted(held))


def laid_out(processor: Any, rendered: list[Rendered], pictures: Sequence[Sequence[Any]]) -> list[Rendered]:
    """The texts as the processor itself lays them out before it tokenises: PaliGemma and Llama 3.2 put a BOS in.

    Args:
        processor: the model's processor.
        rendered: the texts that it is given.
        pictures: those of each item.
    """
    prepare = getattr(processor, "prepare_inputs_layout", None)
    if prepare is None or not rendered:
        return rendered
    images = [list(own) for own in pictures] if any(pictures) else None
    try:
        texts = prepare(images=images, text=[r.text for r in rendered])[1]
    except (ValueError, TypeError, IndexError):
        return rendered  # the call itself will say what is wrong
    return [r if r.text == text else _moved(r, text) for r, text in zip(rendered, texts, strict=True)]


def _moved(rendered: Rendered, text: str) -> Rendered:
    """A text into which something was put, with its parts where they are now."""
    blocks = SequenceMatcher(None, rendered.text, text, autojunk=False).get_matching_blocks()

    def now(place: int) -> int:
        before = [block for block in blocks if block.a <= place]
        return before[-1].b + min(place - before[-1].a, before[-1].size) if before else 0

    return rendered.moved(text, now)


def _through_template(processor: Any, text: str, shown: Counts, system: str | None, answer: str | None) -> Rendered:
    full = _apply(processor, text, shown, system)
    before, after = around(processor, shown, system)
    if full.startswith(before) and full.endswith(after) and len(full) >= len(before) + len(after):
        question: tuple[int, int] | None = (len(before), len(full) - len(after))
    else:  # The template rewrites the text; it may still hold it word for word.
        start = full.rfind(text.strip())
        question = (start, start + len(text.strip())) if start >= 0 and text.strip() else None
    content = content_start(processor, full, system, shown)
    begins = None
    if answer:
        begins = len(full)
        # A template has its own spacing before an answer ("ASSISTANT: yes"), kept where it only adds to the prompt.
        continued = _apply(processor, text, shown, system, answer.lstrip() or answer)
        full = continued if continued.startswith(full) else full + answer
    bos = getattr(processor.tokenizer, "bos_token", None)
    return Rendered(full, content, question, begins, add_specials=not (bos and full.startswith(bos)))


def between_turns(processor: Any) -> tuple[str, str]:
    """What the template puts between a question and its answer, and between that and the next question.

    Raises:
        InputError: the template takes no conversation, or drops words of it.
    """
    shown = _written(processor, [_turn(role, _MARK) for role in ("user", "assistant", "user")])
    pieces = shown.split(_MARK)
    if len(pieces) != 4:
        raise InputError("The processor's chat template does not write a conversation word for word.")
    return pieces[1], pieces[2]


def around(processor: Any, shown: Counts, system: str | None) -> tuple[str, str]:
    """What the template puts before and after a question's text."""
    before, mark, after = _apply(processor, _MARK, shown, system).partition(_MARK)
    if not mark:
        raise InputError("The processor's chat template drops the user's text; set another processor.chat_template.")
    return before, after


def content_start(processor: Any, full: str, system: str | None, shown: Counts = NOTHING) -> int:
    """Where the user's content begins: where it does without images, or with images behind the text.

    Where a text begins neither so nor so, as far as prompts with and without images are the same.
    """
    bare, _ = around(processor, NOTHING, system)
    if full.startswith(bare):
        return len(bare)
    if shown != NOTHING:  # Some templates say other things first where there is a picture (Llama 3.2).
        first, _ = around(processor, shown, system)
        behind = _apply(processor, _MARK, shown, system, text_first=True).partition(_MARK)[0]
        if len(behind) < len(first) and full.startswith(behind):
            return len(behind)
    same = 0
    while same < min(len(bare), len(full)) and bare[same] == full[same]:
        same += 1
    return same


def _apply(
    processor: Any, text: str, shown: Counts, system: str | None, answer: str | None = None, text_first: bool = False
) -> str:
    turns = [] if system is None else [_turn("system", system)]
    turns.append(_turn("user", text, shown, text_first))
    if answer is None:
        return _written(processor, turns)
    return _written(processor, [*turns, _turn("assistant", answer)], continued=True)


def _turn(role: str, said: str, held: Counts = NOTHING, text_first: bool = False) -> dict[str, Any]:
    content: list[dict[str, str]] = [{"type": "image"}] * held[0] + [{"type": "video"}] * held[1]
    words = {"type": "text", "text": said}
    return {"role": role, "content": [words, *content] if text_first else [*content, words]}


def _written(processor: Any, turns: list[dict[str, Any]], continued: bool = False) -> str:
    ends = {"continue_final_message": True} if continued else {"add_generation_prompt": True}
    return apply_chat_template(processor, turns, **ends)


def has_template(processor: Any) -> bool:
    """Whether a processor has a chat template to render turns with."""
    own = getattr(processor, "chat_template", None)
    return bool(own or getattr(getattr(processor, "tokenizer", None), "chat_template", None))
