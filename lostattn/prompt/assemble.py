"""A `Prompt` of the processor's output and the texts and pictures that it was made of."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from jaxtyping import Bool
from PIL import Image
from torch import Tensor

from lostattn.checkpoint.kinds import is_text_only
from lostattn.errors import InputError
from lostattn.pictures.videos import Videos
from lostattn.prompt.alignment import build_token_map, with_sounds
from lostattn.prompt.batch import Prompt
from lostattn.prompt.identity import maker_of
from lostattn.prompt.layouts.crossed import cross_keys
from lostattn.prompt.layouts.of_items import layouts_of
from lostattn.prompt.layouts.videos import video_token_id
from lostattn.prompt.rendered import Rendered
from lostattn.prompt.token_ids import (
    MASKED,
    audio_token_id,
    image_token_id,
    mark_id,
    marked_ids,
    shown_id,
    token_text,
)
from lostattn.prompt.token_map import TokenMap

Pictures = Sequence[tuple[Image.Image, ...]]
PICTURE = "<image>"  # how a position of a picture reads, and what stands for one in questions for any model


def placeholder(processor: Any, config: Any) -> str:
    """What the text of a prompt holds in an image's place; empty for a model that takes no pictures.

    Raises:
        InputError: where config and processor name no image token.
    """
    if is_text_only(config):
        return ""
    own = getattr(processor, "image_token", None)
    if isinstance(own, str) and own:
        return own
    if (token := image_token_id(processor, config)) is None:
        raise InputError(
            f"Neither {type(config).__name__} nor {type(processor).__name__} names an image token"
            " (image_token_id, image_token_index); this model takes no images in its text."
        )
    return str(processor.tokenizer.convert_ids_to_tokens(token))


def assemble(
    processor: Any,
    config: Any,
    inputs: dict[str, Tensor],
    rendered: Sequence[Rendered],
    texts: Sequence[str],
    pictures: Pictures,
    names: Sequence[str],
    videos: Videos = (),
    kinds: Sequence[Sequence[str]] | None = None,
) -> Prompt:
    """A prompt of inputs whose texts and pictures are known.

    Args:
        processor, config: the model's.
        inputs: the processor's output.
        rendered: the text of each item, with an image's placeholder for each image and video.
        texts, pictures, names, videos: of each item.
        kinds: ``"image"`` or ``"video"`` for each of those, in the order of the text; None where it is not known.

    Raises:
        InputError: where image tokens and pixel values do not add up.
    """
    ids, real = marked_ids(inputs), real_positions(inputs)
    image_id, video_id = shown_id(processor, config, inputs), video_token_id(config, inputs)
    layouts = layouts_of(processor, config, inputs, image_id, real, pictures, videos, kinds)
    cross = cross_keys(inputs, [[one.grid for one in own] for own in layouts], config)
    mark = mark_id(processor, config)
    shown = ids if image_id is None or video_id is None else ids.masked_fill(ids == video_id, image_id)
    token_map = build_token_map(processor.tokenizer, shown.cpu(), real.cpu(), image_id, rendered, layouts, mark, cross)
    token_map = with_sounds(token_map, ids.cpu(), audio_token_id(config, inputs))
    return Prompt(
        inputs,
        token_map.to(ids.device),
        tuple(texts),
        tuple(pictures),
        tuple(names),
        _token_texts(processor.tokenizer, shown, image_id, token_map),
        maker_of(processor, config),
        tuple(videos) if any(videos) else ((),) * len(ids),
    )


def check_pictures(config: Any, pictures: Pictures) -> None:
    """Refuse pictures for a model that takes none.

    Raises:
        InputError: as said.
    """
    if any(pictures) and is_text_only(config):
        raise InputError(f"{config.model_type!r} is a decoder of text and takes no images; leave images= out.")


def real_positions(inputs: Mapping[str, Tensor]) -> Bool[Tensor, "batch pos"]:
    """Every position that is not padding; all of them where there is no attention mask.

    Raises:
        InputError: a mask that is not of the ids' shape; an item without a real position.
    """
    ids, mask = inputs["input_ids"], inputs.get("attention_mask")
    if mask is None:
        return torch.ones_like(ids, dtype=torch.bool)
    if mask.shape != ids.shape:
        raise InputError(f"attention_mask is of shape {tuple(mask.shape)}, input_ids of {tuple(ids.shape)}.")
    if not (mask != 0).any(-1).all():
        raise InputError("An item of the inputs has no real position: its attention_mask is zero throughout.")
    return mask != 0


def _token_texts(tokenizer: Any, ids: Tensor, image_id: int | None, token_map: TokenMap) -> tuple[tuple[str, ...], ...]:
    """Every position's text; ``"<image>"`` for a picture's (``"<video>"`` for one that moves), ``"<newline>"`` for a
    row's end among a picture's.
    """
    known = set(ids.flatten().tolist()) - {MASKED}
    texts = {i: token_text(tokenizer, i) for i in known}
    if image_id is not None:
        texts[image_id] = PICTURE
    rows = [[texts[i] for i in row] for row in ids.tolist()]
    for i, place in (token_map.video_index >= 0).nonzero().tolist():
        rows[i][place] = "<video>"
    if token_map.cross is None and image_id is not None:
        for i, place in (token_map["separator"] & (ids == image_id).to(token_map.part.device)).nonzero().tolist():
            rows[i][place] = "<newline>"
    return tuple(map(tuple, rows))
