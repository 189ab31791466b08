"""Making prompts: from questions, from texts with images, from a processor's output."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from PIL import Image
from torch import Tensor, nn

from lostattn.errors import InputError
from lostattn.pictures.loading import load_pictures
from lostattn.pictures.videos import Video, Videos, load_videos
from lostattn.prompt.alignment import Rendered
from lostattn.prompt.assemble import assemble, check_pictures, placeholder
from lostattn.prompt.batch import Prompt
from lostattn.prompt.encoder_decoder import encoder_config, of_decoder
from lostattn.prompt.from_inputs import from_inputs
from lostattn.prompt.identity import content_id
from lostattn.prompt.picture_options import as_called, check_options
from lostattn.prompt.rendering import as_pictures, kinds, laid_out, render
from lostattn.prompt.token_map import TokenMap
from lostattn.prompt.video_arguments import check_videos, video_arguments, video_placeholder

__all__ = ["Prompt", "TokenMap", "build_prompt"]


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
) -> Prompt:
    """A prompt from a question, a text with images, lists of either, or inputs made elsewhere.

    The processor's chat template is applied to one user turn, the images first, then the videos, then the text, unless
    the text holds the processor's image or video placeholder itself. Batches are padded on the left.

    Args:
        processor: the model's processor; nothing of it is changed.
        config: the model's config.
        question_or_text: a `Question`, a str, or a list of either. With `inputs`, the texts of their items,
            if known.
        images: for a str, its pictures (PIL images, paths, arrays; see `lostattn.pictures.load_picture`);
            for a list of str, a list of them for each. A `Question` brings its own.
        inputs: a processor's output, ``return_tensors="pt"``, made elsewhere.
        system: a system text to put before the user's turn.
        answer: the answer so far, one for all items or one for each.
        images_kwargs: options of the image processor for this prompt alone, such as ``{"do_pan_and_scan": True}``;
            with `inputs`, those that they were made with.
        module: the model. Of an encoder that reads patches alone, it says how many keys it makes of them.
        videos: for a str, its videos (each a `lostattn.pictures.videos.Video`, a list of pictures, or an array
        ``[frame,
            height, width, 3]``); for a list of str or questions, a list of them for each. The processor is given every
            frame. With `inputs`, those that they were made of.
        fps: how many frames make a second, in videos that do not say it themselves.

    Raises:
        InputError: placeholders and images or videos differ in number; a picture that cannot be read (named);
            arguments that do not go together; inputs that are no processor's output; an option that the image
            processor does not take; videos for a processor that takes none, or that has no video processor because
            torchvision is not installed.
    """
    options = check_options(processor, images_kwargs)
    seen = as_called(processor, options)
    if inputs is not None:
        if system is not None or answer is not None:
            raise InputError("inputs= are a finished prompt: neither system= nor answer= can be added to them.")
        return from_inputs(seen, config, inputs, question_or_text, images, module, videos, fps)
    encodes = getattr(config, "is_encoder_decoder", False)
    if encodes and answer is not None:
        raise InputError("An encoder-decoder's answer so far is its decoder's: give inputs= with decoder_input_ids.")
    texts, pictures, ids = _items(question_or_text, images)
    clips = _clips(question_or_text, videos, fps, len(texts))
    answers = [answer] * len(texts) if answer is None or isinstance(answer, str) else list(answer)
    if len(answers) != len(texts):
        raise InputError(f"{len(answers)} answers were given for {len(texts)} prompts; give one for each, or one str.")
    check_pictures(config, pictures)
    check_videos(processor, config, clips)
    mark, moving = placeholder(processor, config), video_placeholder(processor) if any(clips) else ""
    rendered = [
        render(processor, text, len(own), mark, system, said, len(moved), moving)
        for text, own, moved, said in zip(texts, pictures, clips, answers, strict=True)
    ]
    given = _process(processor, rendered, pictures, clips, options)
    names = [i or content_id(t, own, moved) for i, t, own, moved in zip(ids, texts, pictures, clips, strict=True)]
    orders = [kinds(one, moving, mark) for one in rendered]
    shown = [as_pictures(one, moving, mark) for one in laid_out(processor, rendered, pictures)]
    reads = encoder_config(config) if encodes else config
    made = assemble(seen, reads, given, shown, texts, pictures, names, clips, orders)
    return of_decoder(processor, config, given, made, module) if encodes else made


def _items(given: Any, images: Any) -> tuple[list[str], list[tuple[Image.Image, ...]], list[str | None]]:
    """Texts, pictures and ids of what the caller gave, one or several."""
    if isinstance(given, Sequence) and not isinstance(given, str):  # a list, or the Questions of a data set
        if not given:
            raise InputError("An empty list makes no prompt; give at least one question.")
        if images is not None and (not isinstance(images, (list, tuple)) or len(images) != len(given)):
            n = len(images) if isinstance(images, (list, tuple)) else 1
            raise InputError(
                f"{len(given)} texts were given with images for {n}; give a list of images for each text:"
                " images=[[a, b], [c]]."
            )
        own = [None] * len(given) if images is None else images
        items = [_item(one, pictures, i) for i, (one, pictures) in enumerate(zip(given, own, strict=True))]
    else:
        items = [_item(given, images, 0)]
    texts, pictures, ids = zip(*items, strict=True)
    return list(texts), list(pictures), list(ids)


def _clips(given: Any, videos: Any, fps: float | int | None, n: int) -> list[tuple[Video, ...]]:
    """The videos of each item."""
    if isinstance(given, str) or not isinstance(given, Sequence):
        return [load_videos(videos, 0, fps)]
    own = [None] * n if videos is None else videos
    if not isinstance(own, (list, tuple)) or len(own) != n:
        held = len(own) if isinstance(own, (list, tuple)) else 1
        raise InputError(
            f"{n} texts were given with videos for {held}; give a list of videos for each text: videos=[[a, b], [c]]."
        )
    return [load_videos(one, i, fps) for i, one in enumerate(own)]


def _item(given: Any, images: Any, i: int) -> tuple[str, tuple[Image.Image, ...], str | None]:
    if isinstance(given, str):
        return given, load_pictures(images, i), None
    if hasattr(given, "text") and hasattr(given, "images"):
        if images is not None:
            raise InputError("A question brings its own images; give images= only with a text.")
        own = getattr(given, "id", None)
        return given.text, load_pictures(given.images, i), None if own is None else str(own)
    raise InputError(
        f"A prompt is made from a question, a text, or a list of these; got {type(given).__name__}"
        f"{f' as item {i}' if i else ''}. A processor's output goes to inputs=."
    )


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
    except (ValueError, IndexError) as error:
        raise InputError(f"The processor refuses this prompt: {error}") from error
    return {name: value for name, value in out.items() if name != "labels"}  # PaliGemma's, for training
