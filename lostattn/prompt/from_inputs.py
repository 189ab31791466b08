"""A `Prompt` of a processor's output that was made elsewhere: its texts are read back from the ids."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from itertools import groupby
from typing import Any

import torch
from PIL import Image
from torch import Tensor, nn

from lostattn.errors import InputError
from lostattn.pictures.loading import is_turned, load_pictures
from lostattn.pictures.videos import Video, load_videos
from lostattn.prompt.assemble import PICTURE, assemble, check_pictures, placeholder, real_positions
from lostattn.prompt.batch import Prompt
from lostattn.prompt.conversations.reading import asked_words
from lostattn.prompt.encoder_decoder import OWN, encoder_config, of_decoder
from lostattn.prompt.framing import says_words
from lostattn.prompt.identity import inputs_id
from lostattn.prompt.input_checks import check_inputs, check_seen, check_values
from lostattn.prompt.layouts.base import ImageLayout
from lostattn.prompt.layouts.crossed import layouts_beside_text
from lostattn.prompt.layouts.of_items import layouts_of
from lostattn.prompt.layouts.videos import video_token_id
from lostattn.prompt.picture_inputs import holds_picture
from lostattn.prompt.recovery import recover
from lostattn.prompt.rendered import Rendered
from lostattn.prompt.token_ids import MASKED, audio_token_id, image_token_id, mark_id, marked_ids, shown_id
from lostattn.prompt.video_arguments import video_placeholder


def from_inputs(
    processor: Any,
    config: Any,
    inputs: Mapping[str, Any],
    given: Any = None,
    images: Any = None,
    module: nn.Module | None = None,
    videos: Any = None,
    fps: float | int | None = None,
) -> Prompt:
    """A prompt of a processor's output that was made elsewhere, with everything that can be known from it.

    The question is what stands where the chat template puts one. The original pictures are not in the inputs:
    without `images` the grids have no pixel boxes.

    Args:
        processor: the model's processor.
        config: the model's config.
        inputs: the processor's whole output, as tensors.
        given: the text of each item, where known.
        images: the pictures of each item, where known.
        module: the model, which of an encoder of patches alone knows how many keys it makes.
        videos, fps: the videos of each item, where known: the frames that the processor was given.

    Raises:
        InputError: inputs that are no processor's output; texts, images or videos for another number of items; an
            opened picture with an orientation tag.
    """
    tensors = _tensors(inputs)
    for kind, known in (("images", images), ("videos", videos)):
        _check_upright(known, kind)
    if getattr(config, "is_encoder_decoder", False):
        own = {name: value for name, value in tensors.items() if not name.startswith(OWN)}
        if "bbox" in own:  # the pictures of an encoder that lays patches over words are none of its text's tokens
            own = {name: value for name, value in own.items() if not name.startswith("pixel")}
        reads = "input_ids" in own and ("bbox" in own or image_token_id(processor, config) is not None)
        read = _read(processor, encoder_config(config), own, given, images, videos, fps) if reads else None
        return of_decoder(processor, config, tensors, read, module, images)
    return _read(processor, config, tensors, given, images, videos, fps)


def _read(
    processor: Any,
    config: Any,
    tensors: dict[str, Tensor],
    given: Any,
    images: Any,
    videos: Any,
    fps: float | int | None,
) -> Prompt:
    """:func:`from_inputs` of what reads a text: a decoder, or the encoder before one.

    Raises:
        InputError: as there.
    """
    if "input_ids" not in tensors:
        raise InputError(_NO_IDS.format(f"missing among {', '.join(tensors) or 'nothing'}"))
    texts, pictures, moving = _known(len(tensors["input_ids"]), given, images, videos, fps)
    check_pictures(config, pictures)
    image_id, video_id = shown_id(processor, config, tensors), video_token_id(config, tensors)
    marks = (image_id, video_id, mark_id(processor, config), audio_token_id(config, tensors))
    check_inputs(processor, config, tensors, {token for token in marks if token is not None})
    real = real_positions(tensors)
    check_seen(tensors, image_id)
    layouts = layouts_of(processor, config, tensors, image_id, real, pictures, moving)
    rows = [row[own].tolist() for row, own in zip(marked_ids(tensors), real, strict=True)]
    if image_id is not None:
        rows = [[image_id if token == video_id else token for token in row] for row in rows]
    mark = _mark(processor, config, tensors, image_id)
    rendered = [
        _read_back(processor, row, own, text, image_id, mark)
        for row, own, text in zip(rows, layouts, texts, strict=True)
    ]
    told = [_asked(processor, one, mark) if text is None else text for text, one in zip(texts, rendered, strict=True)]
    prompt = assemble(processor, config, tensors, rendered, told, pictures, [""] * len(texts), moving)
    return replace(prompt, ids=tuple(inputs_id(prompt, i) for i in range(len(texts))))


def _check_upright(given: Any, kind: str) -> None:
    """Refuse opened pictures with a tag that turns them: of the pixels before or after, the inputs may be of either.

    Raises:
        InputError: there is one.
    """
    if is_turned(given):
        raise InputError(
            f"{kind}= holds an opened picture with an orientation tag. A processor that is given it reads the pixels "
            "as they are stored, and one that is given its path turns them, so inputs= may be of either. Give the "
            "picture that was read: PIL.ImageOps.exif_transpose(picture), or Image.fromarray(numpy.asarray(picture))."
        )
    if isinstance(given, (list, tuple)):
        for one in given:
            _check_upright(one, kind)


def _asked(processor: Any, rendered: Rendered, mark: str) -> str:
    """The question, as far as it can be told; all of the text where it cannot."""
    whole = rendered.text[slice(*(rendered.question or (0, None)))]
    return asked_words(processor, rendered, [mark]) if rendered.turns else whole


def _known(
    n: int, given: Any, images: Any, videos: Any, fps: float | int | None
) -> tuple[list[str | None], list[tuple[Image.Image, ...]], list[tuple[Video, ...]]]:
    """What is known of the text, the pictures and the videos of each item.

    Raises:
        InputError: they are for another number of items.
    """
    texts: list[str | None] = [given] if isinstance(given, str) else [None] * n if given is None else list(given)
    images, clips = _by_item(images, n), [videos] if n == 1 else _by_item(videos, n)
    if len(texts) != n or len(images) != n or len(clips) != n:
        raise InputError(
            f"inputs= hold {n} items, but {len(texts)} texts, images for {len(images)} and videos for {len(clips)} were"
            " given."
        )
    pictures = [load_pictures(p, i) for i, p in enumerate(images)]
    return texts, pictures, [load_videos(v, i, fps) for i, v in enumerate(clips)]


def _mark(processor: Any, config: Any, tensors: Mapping[str, Tensor], image_id: int | None) -> str:
    """What a text holds in an image's place; empty where there is nothing of the kind."""
    if image_id == MASKED:
        return PICTURE
    among = (
        holds_picture(tensors) and layouts_beside_text(tensors, config) is None
    )  # a picture that is among the tokens
    return placeholder(processor, config) if among or image_id is not None else ""


def _read_back(
    processor: Any, row: list[int], layouts: Sequence[ImageLayout], text: str | None, image_id: int | None, mark: str
) -> Rendered:
    """The text of one item and its parts, from its ids."""
    kept, within = _collapsed(row, image_id, [one.tokens for one in layouts])
    decoded = _decoded(processor.tokenizer, kept, image_id)
    n_videos = sum(one.grid.is_video for one in layouts)
    if not n_videos and says_words(processor, _decoded(processor.tokenizer, within, image_id)):
        # Pictures that could not be told apart, and what was said between them: words are never of a picture.
        words = _decoded(processor.tokenizer, [token for token in row if token != image_id], image_id)
        return Rendered(words, 0, None, None, False)
    counts = (len(layouts) - n_videos, n_videos)
    shown_as = "" if image_id is None else PICTURE
    if image_id is not None and image_id != MASKED:
        shown_as = str(processor.tokenizer.decode([image_id], skip_special_tokens=False))
    return recover(processor, decoded, text, counts, mark, video_placeholder(processor), shown_as)


def _tensors(inputs: Mapping[str, Any]) -> dict[str, Tensor]:
    tensors = {}
    for name, value in inputs.items():
        try:
            tensors[name] = value if isinstance(value, Tensor) else torch.as_tensor(value)
        except (TypeError, ValueError, RuntimeError) as error:
            raise InputError(f"inputs[{name!r}] is no tensor; call the processor with return_tensors='pt'.") from error
    check_values(tensors)
    ids = tensors.get("input_ids")
    if ids is not None and (ids.ndim != 2 or 0 in ids.shape):
        raise InputError(_NO_IDS.format(f"of shape {tuple(ids.shape)}"))
    return tensors


_NO_IDS = "inputs= needs input_ids [batch, pos], but they are {}; give a processor's whole output."


def _by_item(given: Any, n: int) -> list[Any]:
    """The pictures of each item, where those of one item alone may be given by themselves."""
    if given is None:
        return [None] * n
    if n == 1 and not (isinstance(given, (list, tuple)) and given and isinstance(given[0], (list, tuple))):
        return [given]
    return list(given)


def _collapsed(row: list[int], image_id: int | None, counts: list[int]) -> tuple[list[int], list[int]]:
    """The ids of an item with each image as one token, and what stands among the tokens of images."""
    kept: list[int] = []
    within: list[int] = []
    seen, left = 0, list(counts)
    for token in row:
        if token == image_id:
            kept += [token] * (seen == 0 and bool(left))
            seen += 1
            if left and seen >= left[0]:
                left.pop(0)
                seen = 0
        else:
            (within if seen else kept).append(token)
    return kept, within


def _decoded(tokenizer: Any, ids: list[int], image_id: int | None) -> str:
    """The text of ids, special tokens written out."""
    if image_id == MASKED:
        pieces = [(key, list(group)) for key, group in groupby(ids, lambda token: token == MASKED)]
        return "".join(PICTURE if picture else tokenizer.decode(own) for picture, own in pieces)
    return str(tokenizer.decode(ids, skip_special_tokens=False, clean_up_tokenization_spaces=False))
