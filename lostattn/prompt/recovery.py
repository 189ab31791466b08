"""Where the parts are in a prompt that was rendered elsewhere, or that this cannot be told."""

from __future__ import annotations

from typing import Any

from lostattn.prompt.conversations.marks import joint_of
from lostattn.prompt.conversations.reading import holds_turns, read_turns
from lostattn.prompt.framing import bare, shows_crops, without_frames
from lostattn.prompt.rendered import Rendered
from lostattn.prompt.rendering import NOTHING, Counts, around, content_start, has_template
from lostattn.prompt.turn_marks import model_speaks, several_turns


def recover(
    processor: Any,
    decoded: str,
    text: str | None,
    counts: Counts,
    placeholder: str,
    moving: str = "",
    shown_as: str = "",
) -> Rendered:
    """Where the parts are in a prompt that was rendered elsewhere.

    Args:
        processor: the model's processor.
        decoded: the prompt's text, one image token an image or video, special tokens written out.
        text: the question, if it is known; otherwise it is what stands where the template puts one.
        counts: how many images and how many videos the prompt holds.
        placeholder: the processor's image placeholder.
        moving: the processor's video placeholder; empty where it names none.
        shown_as: how an image's token is written in `decoded`.

    Returns:
        The text and its parts; without a question where that cannot be told, as in a conversation of several turns.
    """
    whole = decoded if counts[1] else without_frames(processor, decoded, shown_as, placeholder)
    if shows_crops(processor, whole):  # counted as pictures, where the size of the picture that was cut is not known
        return Rendered(whole, 0, None, None, False)
    if not has_template(processor):
        return _untold(whole, text, placeholder) if text is not None else _all_of_it(processor, whole, placeholder)
    # The images stand where the template puts them, or the text held its own placeholders.
    for shown in dict.fromkeys((counts, (sum(counts), 0), NOTHING)):
        if (found := _within(processor, whole, text, shown, counts, placeholder, moving)) is not None:
            return found
    if (found := _conversation(processor, whole, counts)) is not None:
        return found
    if text is not None and model_speaks(processor, whole[: max(0, whole.rfind(text.strip()))]):
        text = None  # what stands before it are other turns
    return _untold(whole, text, placeholder)


def _within(
    processor: Any, whole: str, text: str | None, shown: Counts, counts: Counts, placeholder: str, moving: str
) -> Rendered | None:
    """The parts between what the template puts before and after a question; None where that is not there."""
    before, after = around(processor, shown, None)
    before = before.replace(moving, placeholder) if moving and placeholder else before
    start = whole.find(before)
    end = whole.rfind(after) if start >= 0 else -1
    first = start + len(before)
    if start < 0 or end < first or (text is not None and text.strip() not in whole):
        return None
    said, rest = whole[first:end], end + len(after)
    before_it = whole[:start]
    if model_speaks(processor, before_it) or holds_turns(processor, before_it):
        return _several(processor, whole, counts)
    if shown != NOTHING and bare(processor, said) != said.lstrip():
        return None  # marks that the processor put behind an image, not the question
    given = text is not None and said.strip() == text.strip()
    if several_turns(processor, whole[rest:]) or (not given and several_turns(processor, said)):
        return _several(processor, whole, counts)
    behind = rest if rest < len(whole) else None
    joint = joint_of(processor)
    if joint is not None and joint.text in said.strip() and not given:
        return _joined(whole, (first, end), behind, joint.text, text, placeholder)
    content = start + content_start(processor, before, None, shown)
    if shown != counts and counts[1]:  # between them stands what the processor put before a video's tokens
        known = placeholder if text is None else text.strip()
        first = max(first, whole.rfind(known) + (len(known) if text is None else 0))
    return Rendered(whole, content, (first, end), behind, False)


def _joined(
    whole: str, said: tuple[int, int], behind: int | None, joint: str, text: str | None, placeholder: str
) -> Rendered:
    """A turn of the user that may hold words of the system too, before a `joint`: told by the text alone, if known.

    Args:
        whole: the prompt.
        said: from where to where the turn goes.
        behind: where the answer begins.
        joint: what the template puts between the two.
        text: the question.
        placeholder: of a picture, which may stand between.
    """
    asked = whole.rfind(text.strip(), *said) if text is not None else -1
    first = whole.rfind(joint, said[0], asked) + len(joint)
    if asked < 0 or first < len(joint) or whole[first:asked].replace(placeholder, "").strip():
        return Rendered(whole, 0, None, None, False)
    return Rendered(whole, first, (first, said[1]), behind, False)


def _several(processor: Any, whole: str, counts: Counts) -> Rendered:
    """A text of several turns, with them where they are told."""
    return _conversation(processor, whole, counts) or Rendered(whole, 0, None, None, False)


def _conversation(processor: Any, whole: str, counts: Counts) -> Rendered | None:
    """The turns of a text; None where they cannot be told, nor what a processor wrote before the frames of a video."""
    return None if counts[1] else read_turns(processor, whole)


def _all_of_it(processor: Any, whole: str, placeholder: str) -> Rendered:
    """Without a template all text is the question: what stands before, between and behind the images."""
    said = bare(processor, whole, blank=r"(?!)")
    start = len(whole) - len(said)
    first = whole.find(placeholder) if placeholder else -1
    question = (start, start + len(said.rstrip())) if said.strip() else None
    return Rendered(whole, start if first < 0 else min(first, start), question, None, False)


def _untold(whole: str, text: str | None, placeholder: str) -> Rendered:
    """A question that is known, looked for in the text."""
    start = -1 if text is None else whole.rfind(text.strip())
    found = None if text is None or start < 0 else (start, start + len(text.strip()))
    first = whole.find(placeholder) if placeholder else -1
    return Rendered(whole, max(0, start if first < 0 else min(first, start)), found, None, False)
