"""Making prompts: from questions, from texts with images, from a processor's output."""

from __future__ import annotations

import functools
from collections.abc import Mapping, Sequence
from typing import Any

from PIL import Image
from torch import Tensor, nn

from lostattn.arguments import checked_call
from lostattn.errors import InputError
from lostattn.pictures.videos import Video, Videos
from lostattn.prompt.assemble import assemble, check_pictures, placeholder
from lostattn.prompt.batch import Prompt
from lostattn.prompt.conversations.messages import is_batch, is_conversation
from lostattn.prompt.encoder_decoder import encoder_config, of_decoder
from lostattn.prompt.from_inputs import from_inputs
from lostattn.prompt.items import Beside, items_of
from lostattn.prompt.picture_options import as_called, check_options
from lostattn.prompt.rendered import Rendered
from lostattn.prompt.rendering import as_pictures, kinds, laid_out
from lostattn.prompt.token_map import TokenMap
from lostattn.prompt.video_arguments import check_videos, video_arguments, video_placeholder

__all__ = ["Prompt", "TokenMap", "build_prompt"]


@checked_call
def build_prompt(
    processor: Any,
    config: Any,
    question_or_text: Any = None,
    images: Any = None,
    *,
    inputs: Mapping[str, Any] | None = None,
    system: str | None = None,
    answer: str | Sequence[str] | None = None,
    images_kwargs: Any = None,
    module: nn.Module | None = None,
    videos: Any = None,
    fps: float | int | None = None,
    messages: Any = None,
    chat_template_kwargs: Any = None,
) -> Prompt:
    """A prompt from a question, a text with images, messages, lists of these, or inputs made elsewhere.

    The processor's chat template is applied to one user turn, the images first, then the videos, then the text, unless
    the text holds the processor's image or video placeholder itself; or to messages as they are. Messages that end with
    one by the assistant are gone on with (transformers' ``continue_final_message``), all others are followed by the
    opening of an answer. Batches are padded on the left.

    Args:
        processor: the model's processor; nothing of it is changed.
        config: the model's config.
        question_or_text: a `Question`, a str, messages of Hugging Face (dicts of ``role`` and ``content``, see below),
            or a list of questions, texts or conversations. With `inputs`, the texts of their items, if known.
        images: for a str, its pictures (PIL images, paths, arrays; see `lostattn.pictures.load_picture`);
            for a list of str, a list of them for each. A `Question` brings its own. For messages, the pictures of the
            parts that hold none themselves, in order.
        inputs: a processor's output, ``return_tensors="pt"``, made elsewhere.
        system: a system text to put before the user's turn.
        answer: the answer so far, one for all items or one for each.
        images_kwargs: options of the image processor for this prompt alone, such as ``{"do_pan_and_scan": True}``;
            with `inputs`, those that they were made with.
        module: the model. Of an encoder that reads patches alone, it says how many keys it makes of them.
        videos: for a str, its videos (each a `lostattn.pictures.videos.Video`, a list of pictures, or an array
            ``[frame, height, width, 3]``); for a list, a list of them for each. The processor is given every frame.
            With `inputs`, those that they were made of.
        fps: how many frames make a second, in videos that do not say it themselves.
        messages: a conversation, or a list of them, by keyword. A message's ``role`` is user, assistant, tool, system
            or developer; its ``content`` a text or a list of parts ``{"type": "text", "text": …}``, ``{"type":
            "image", "image": …}`` and ``{"type": "video", "video": …}``, in any turn and order. A part may hold all
            that `images` may, under the keys of transformers (``image``, ``url``, ``path``, ``base64``, ``image_url``);
            nothing is fetched from an address. Other keys of a message (``tool_calls``, ``reasoning_content``) go to
            the template.
        chat_template_kwargs: options of the chat template, such as ``{"enable_thinking": False}`` or ``{"tools":
            […]}``; ``{"add_generation_prompt": False}`` leaves the opening of an answer away.

    Raises:
        InputError: placeholders and images or videos differ in number; a picture that cannot be read (named);
            arguments that do not go together; inputs that are no processor's output; an option that the image
            processor does not take, or that the chat template does not read; messages that the template refuses (with
            its own words), or drops; videos for a processor that takes none, or that has no video processor because
            torchvision is not installed.
    """
    options = check_options(processor, images_kwargs)
    seen = as_called(processor, options)
    if inputs is not None:
        _refuse_beside_inputs(system, answer, messages, chat_template_kwargs)
        return from_inputs(seen, config, inputs, question_or_text, images, module, videos, fps)
    encodes = getattr(config, "is_encoder_decoder", False)
    asked = _asked(question_or_text, messages, encodes and answer is not None)
    check = functools.partial(_check_shown, processor, config)
    beside = Beside(images, videos, fps, system, answer, chat_template_kwargs, check)
    marks = (placeholder(processor, config), video_placeholder(processor))
    items = items_of(processor, marks, asked, beside)
    pictures, clips = [one.images for one in items], [one.videos for one in items]
    rendered = [one.rendered for one in items]
    given = _process(processor, rendered, pictures, clips, options)
    mark, moving = marks[0], marks[1] if any(clips) else ""
    orders = [kinds(one, moving, mark) for one in rendered]
    shown = [as_pictures(one, moving, mark) for one in laid_out(processor, rendered, pictures)]
    words, names = zip(*((one.text, one.id) for one in items), strict=True)
    reads = encoder_config(config) if encodes else config
    made = assemble(seen, reads, given, shown, words, pictures, names, clips, orders)
    return of_decoder(processor, config, given, made, module) if encodes else made


def _check_shown(processor: Any, config: Any, images: tuple[Image.Image, ...], videos: tuple[Video, ...]) -> None:
    """Refuse the pictures and videos of an item that the model does not take."""
    check_pictures(config, [images])
    check_videos(processor, config, [videos])


def _refuse_beside_inputs(system: Any, answer: Any, messages: Any, options: Any) -> None:
    if system is not None or answer is not None:
        raise InputError("inputs= are a finished prompt: neither system= nor answer= can be added to them.")
    if messages is not None or options is not None:
        raise InputError("inputs= are a finished prompt: give messages= and chat_template_kwargs= without them.")


def _asked(question: Any, messages: Any, answers_an_encoder: bool) -> Any:
    """What a prompt is made of: a question (or messages in its place), or messages by their keyword."""
    if answers_an_encoder:
        raise InputError("An encoder-decoder's answer so far is its decoder's: give inputs= with decoder_input_ids.")
    if messages is None:
        return question
    if question is not None:
        raise InputError("a prompt is made of a question or of messages=; give one of them.")
    if not (is_conversation(messages) or is_batch(messages)):
        raise InputError(f"messages is {type(messages).__name__}; expected a list of dicts, or a list of such lists.")
    return messages


def _process(
    processor: Any,
    rendered: list[Rendered],
    pictures: Sequence[tuple[Image.Image, ...]],
    videos: Videos,
    options: Mapping[str, Any],
) -> dict[str, Tensor]:
    tokenizer = processor.tokenizer
    if tokenizer.pad_token is None and len(rendered) > 1:
        raise InputError(
            "A batch needs padding, but the tokenizer has no pad token; set processor.tokenizer.pad_token."
        )
    keywords: dict[str, Any] = {} if rendered[0].add_specials else {"add_special_tokens": False}
    if tokenizer.pad_token is not None:
        # Left: the last position of every item is then the one that the answer follows.
        keywords |= {"padding": True, "padding_side": "left"}
    if options:
        keywords["images_kwargs"] = dict(options)
    # A list an item: some processors do otherwise with several pictures of one prompt than with one each of several.
    images = [list(own) for own in pictures] if any(pictures) else None
    keywords |= video_arguments(videos)
    try:
        out = processor(text=[r.text for r in rendered], images=images, return_tensors="pt", **keywords)
    except (ValueError, IndexError, TypeError, KeyError, RuntimeError) as error:
        raise InputError(f"The processor refuses this prompt: {error}") from error
    return {name: value for name, value in out.items() if name != "labels"}  # PaliGemma's, for training
