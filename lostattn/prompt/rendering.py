"""A question as the text that the tokenizer is given: one user turn through the processor's chat template."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import replace
from difflib import SequenceMatcher
from typing import Any

from lostattn.errors import InputError
from lostattn.prompt.alignment import Rendered

Counts = tuple[int, int]
"""How many images and how many videos."""
_NOTHING: Counts = (0, 0)
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

    return replace(
        rendered,
        text=rendered.text.replace(moving, placeholder),
        content=now(rendered.content),
        question=None if rendered.question is None else (now(rendered.question[0]), now(rendered.question[1])),
        answer=None if rendered.answer is None else now(rendered.answer),
    )


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

    question = rendered.question
    if question is not None and question[1] > question[0]:
        question = (now(question[0]), now(question[1] - 1) + 1)
    answer = None if rendered.answer is None else now(rendered.answer)
    return replace(rendered, text=text, content=now(rendered.content), question=question, answer=answer)


def recover(
    processor: Any,
    decoded: str,
    text: str | None,
    counts: Counts,
    placeholder: str,
    moving: str = "",
    ends: tuple[str, str] | None = None,
) -> Rendered:
    """Where the parts are in a prompt that was rendered elsewhere.

    Args:
        processor: the model's processor.
        decoded: the prompt's text, one image placeholder an image or video, special tokens written out.
        text: the question, if it is known; otherwise it is what stands where the template puts one.
        counts: how many images and how many videos the prompt holds.
        placeholder: the processor's image placeholder.
        moving: the processor's video placeholder; empty where it names none.
        ends: the text before the first token of an image and behind the last, with the marks that the processor put
            around images; None where there is no image.
    """
    if has_template(processor):
        # The images stand where the template puts them, or the text held its own placeholders.
        for shown in dict.fromkeys((counts, (sum(counts), 0), _NOTHING)):
            still = ends is not None and shown == _NOTHING and not counts[1]
            if still and ends and (told := _unframed(processor, ends, text, counts[0], placeholder)):
                return told
            before, after = _around(processor, shown, None)
            before = before.replace(moving, placeholder) if moving and placeholder else before
            start = decoded.find(before)
            end = decoded.rfind(after) if start >= 0 else -1
            said = decoded[start + len(before) : max(end, 0)]
            if shown != _NOTHING and _bare(processor, said) != said.lstrip():
                continue  # marks that the processor put behind an image, not the question
            if start >= 0 and end >= start + len(before) and (text is None or text.strip() in decoded):
                rest = end + len(after)
                content, first = start + _content(processor, before, None), start + len(before)
                if shown != counts and counts[1]:  # between them stands what the processor put before a video's tokens
                    known = placeholder if text is None else text.strip()
                    first = max(first, decoded.rfind(known) + (len(known) if text is None else 0))
                return Rendered(decoded, content, (first, end), rest if rest < len(decoded) else None, False)
    elif text is None and ends is not None:  # without a template all text is the question
        text = _bare(processor, ends[1]) or None
    start = -1 if text is None else decoded.rfind(text.strip())
    found = None if text is None or start < 0 else (start, start + len(text.strip()))
    first = decoded.find(placeholder) if placeholder else -1
    return Rendered(decoded, max(0, start if first < 0 else min(first, start)), found, None, False)


def _unframed(
    processor: Any, ends: tuple[str, str], text: str | None, n_images: int, placeholder: str
) -> Rendered | None:
    """A prompt whose images the processor framed with marks of its own, as the text that it was given.

    None unless the images stand where the template puts them, with nothing said between it and them.
    """
    before, after = _around(processor, (n_images, 0), None)
    lead, *rest = before.split(placeholder) if placeholder else [before]
    head, tail = ends
    start, end = head.find(lead), tail.rfind(after)
    if len(rest) != n_images or start < 0 or end < 0:
        return None
    question = _bare(processor, tail[:end]).removeprefix(rest[-1].strip()).lstrip()
    framing = re.sub(r"<[^<>]+>", "", _bare(processor, head[start + len(lead) :])).strip()
    if not question or (text is not None and text.strip() != question.strip()) or (framing and text is None):
        return None
    begins, whole = start + len(before), head[:start] + before + question + after + tail[end + len(after) :]
    ends_at = begins + len(question) + len(after)
    answer = ends_at if ends_at < len(whole) else None
    return Rendered(whole, start + _content(processor, before, None), (begins, begins + len(question)), answer, False)


def _bare(processor: Any, text: str) -> str:
    """A text without the white space and the special tokens that it begins with."""
    added = getattr(processor.tokenizer, "added_tokens_decoder", {})
    marks = {str(token) for token in added.values() if token.special}
    marks |= set(map(str, getattr(processor.tokenizer, "all_special_tokens", ())))
    longest_first = sorted(filter(None, marks), key=len, reverse=True)
    return re.sub("^(?:" + "|".join([r"\s", *map(re.escape, longest_first)]) + ")+", "", text)


def _through_template(processor: Any, text: str, shown: Counts, system: str | None, answer: str | None) -> Rendered:
    full = _apply(processor, text, shown, system)
    before, after = _around(processor, shown, system)
    if full.startswith(before) and full.endswith(after) and len(full) >= len(before) + len(after):
        question: tuple[int, int] | None = (len(before), len(full) - len(after))
    else:  # The template rewrites the text; it may still hold it word for word.
        start = full.rfind(text.strip())
        question = (start, start + len(text.strip())) if start >= 0 and text.strip() else None
    content = _content(processor, full, system)
    begins = None
    if answer:
        begins = len(full)
        # A template has its own spacing before an answer ("ASSISTANT: yes"), kept where it only adds to the prompt.
        continued = _apply(processor, text, shown, system, answer.lstrip() or answer)
        full = continued if continued.startswith(full) else full + answer
    bos = getattr(processor.tokenizer, "bos_token", None)
    return Rendered(full, content, question, begins, add_specials=not (bos and full.startswith(bos)))


def _around(processor: Any, shown: Counts, system: str | None) -> tuple[str, str]:
    """What the template puts before and after a question's text."""
    before, mark, after = _apply(processor, _MARK, shown, system).partition(_MARK)
    if not mark:
        raise InputError("The processor's chat template drops the user's text; set another processor.chat_template.")
    return before, after


def _content(processor: Any, full: str, system: str | None) -> int:
    """Where the user's content begins: as far as prompts with and without images are the same."""
    bare, _ = _around(processor, _NOTHING, system)
    same = 0
    while same < min(len(bare), len(full)) and bare[same] == full[same]:
        same += 1
    return same


def _apply(processor: Any, text: str, shown: Counts, system: str | None, answer: str | None = None) -> str:
    def turn(role: str, said: str, held: Counts = _NOTHING) -> dict[str, Any]:
        content: list[dict[str, str]] = [{"type": "image"}] * held[0] + [{"type": "video"}] * held[1]
        return {"role": role, "content": [*content, {"type": "text", "text": said}]}

    turns = [] if system is None else [turn("system", system)]
    turns.append(turn("user", text, shown))
    from jinja2 import TemplateError

    try:
        if answer is None:
            return str(processor.apply_chat_template(turns, add_generation_prompt=True, tokenize=False))
        turns.append(turn("assistant", answer))
        return str(processor.apply_chat_template(turns, continue_final_message=True, tokenize=False))
    except TemplateError as error:
        raise InputError(f"The processor's chat template refuses this prompt: {error}.") from error


def has_template(processor: Any) -> bool:
    """Whether a processor has a chat template to render turns with."""
    own = getattr(processor, "chat_template", None)
    return bool(own or getattr(getattr(processor, "tokenizer", None), "chat_template", None))
