"""From the processor's output to a `Prompt`: token map, token texts, identities."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import replace
from itertools import groupby
from typing import Any

import torch
from jaxtyping import Bool
from PIL import Image
from torch import Tensor, nn

from lostattn.cross_layout import beside, cross_keys
from lostattn.decoder_prompts import OWN, encoder_config, of_decoder
from lostattn.errors import InputError
from lostattn.foreign_inputs import check_inputs
from lostattn.model_kinds import is_text_only
from lostattn.pictures import load_pictures
from lostattn.presence import holds_picture
from lostattn.prompt_batch import Prompt
from lostattn.prompt_layouts import layouts_of
from lostattn.rendering import recover
from lostattn.segments import Rendered, build_token_map, with_sounds
from lostattn.token_ids import MASKED, audio_token_id, image_token_id, mark_id, marked, shown_id
from lostattn.token_map import TokenMap
from lostattn.video_layouts import video_token_id
from lostattn.videos import Video, Videos, load_videos, video_placeholder

Pictures = Sequence[tuple[Image.Image, ...]]
PICTURE = "<image>"  # how a position of a picture reads


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


def maker_of(processor: Any, config: Any) -> str:
    """What a prompt remembers of the model that it was made for; empty for one without a processor.

    Not its weights: models that share processor, vocabulary and size of pictures share prompts.
    """
    tokenizer = getattr(processor, "tokenizer", None)
    if tokenizer is None or not hasattr(tokenizer, "__len__"):
        return ""
    vision = getattr(config, "vision_config", None)
    side, patch = (getattr(vision, name, None) for name in ("image_size", "patch_size"))
    pictures = f", pictures of {side} pixels" * (side is not None) + f", patches of {patch}" * (patch is not None)
    return f"{type(processor).__name__}, {len(tokenizer)} tokens{pictures}"


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
    ids, real = marked(inputs), real_positions(inputs)
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


def content_id(text: str, pictures: Sequence[Image.Image], videos: Sequence[Video] = ()) -> str:
    """The identity of an item that has no id of its own: a hash of its text and its pixels."""
    stills = [part for p in pictures for part in (str(p.size), p.tobytes())]
    return digest([text, *stills, *(part for v in videos for part in (repr(v), v.array().tobytes()))])


def digest(parts: Sequence[str | bytes]) -> str:
    """A short hash of several texts or bytes."""
    made = hashlib.sha256()
    for part in parts:
        raw = part.encode() if isinstance(part, str) else part
        made.update(f"{len(raw)}:".encode() + raw)
    return made.hexdigest()[:16]


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
        InputError: inputs that are no processor's output; texts, images or videos for another number of items.
    """
    tensors = _tensors(inputs)
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
    n = len(tensors["input_ids"])
    texts = [given] if isinstance(given, str) else [None] * n if given is None else list(given)
    images, clips = _by_item(images, n), [videos] if n == 1 else _by_item(videos, n)
    if len(texts) != n or len(images) != n or len(clips) != n:
        raise InputError(
            f"inputs= hold {n} items, but {len(texts)} texts, images for {len(images)} and videos for {len(clips)} were"
            " given."
        )
    pictures = [load_pictures(p, i) for i, p in enumerate(images)]
    moving = [load_videos(v, i, fps) for i, v in enumerate(clips)]
    check_pictures(config, pictures)
    image_id, video_id = shown_id(processor, config, tensors), video_token_id(config, tensors)
    marks = (image_id, video_id, mark_id(processor, config), audio_token_id(config, tensors))
    check_inputs(processor, config, tensors, {token for token in marks if token is not None})
    seen = holds_picture(tensors) and beside(tensors, config) is None  # a picture that is among the tokens
    mark = PICTURE if image_id == MASKED else placeholder(processor, config) if seen or image_id is not None else ""
    real = real_positions(tensors)
    rows = [row[own].tolist() for row, own in zip(marked(tensors), real, strict=True)]
    layouts = layouts_of(processor, config, tensors, image_id, real, pictures, moving)
    rendered = []
    for row, own, text in zip(rows, layouts, texts, strict=True):
        shown = row if image_id is None else [image_id if token == video_id else token for token in row]
        decoded = _decode_collapsed(processor.tokenizer, shown, image_id, [m.tokens for m in own])
        n_videos = sum(one.grid.is_video for one in own)
        ends = _around_images(processor.tokenizer, shown, image_id)
        counts = (len(own) - n_videos, n_videos)
        rendered.append(recover(processor, decoded, text, counts, mark, video_placeholder(processor), ends))
    told = [r.text[slice(*(r.question or (0, None)))] if t is None else t for t, r in zip(texts, rendered, strict=True)]
    prompt = assemble(processor, config, tensors, rendered, told, pictures, [""] * n, moving)
    return replace(prompt, ids=tuple(_inputs_id(prompt, i) for i in range(n)))


def _tensors(inputs: Mapping[str, Any]) -> dict[str, Tensor]:
    tensors = {}
    for name, value in inputs.items():
        try:
            tensors[name] = value if isinstance(value, Tensor) else torch.as_tensor(value)
        except (TypeError, ValueError, RuntimeError) as error:
            raise InputError(f"inputs[{name!r}] is no tensor; call the processor with return_tensors='pt'.") from error
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


def _decode_collapsed(tokenizer: Any, row: list[int], image_id: int | None, counts: list[int]) -> str:
    """The text of an item with each image, all that stands among its tokens included, written as one placeholder."""
    if image_id == MASKED:
        pieces = [(key, list(group)) for key, group in groupby(row, lambda token: token == MASKED)]
        return "".join(PICTURE if picture else tokenizer.decode(ids) for picture, ids in pieces)
    kept, seen, left = [], 0, list(counts)
    for token in row:
        if token == image_id:
            kept += [token] * (seen == 0 and bool(left))
            seen += 1
            if left and seen >= left[0]:
                left.pop(0)
                seen = 0
        elif not seen:
            kept.append(token)
    return str(tokenizer.decode(kept, skip_special_tokens=False, clean_up_tokenization_spaces=False))


def _around_images(tokenizer: Any, row: list[int], image_id: int | None) -> tuple[str, str] | None:
    """The text of an item before the first token of an image and behind the last; None where it has none."""
    if image_id is None or image_id not in row:
        return None
    first, last = row.index(image_id), len(row) - row[::-1].index(image_id)
    head, tail = (
        tokenizer.decode(part, skip_special_tokens=False, clean_up_tokenization_spaces=False)
        for part in (row[:first], row[last:])
    )
    return str(head), str(tail)


def _inputs_id(prompt: Prompt, i: int) -> str:
    """A hash of an item's real ids and of its rows of the pixel inputs."""
    ids = prompt.inputs["input_ids"][i][prompt.token_map.real[i]]
    try:
        own = prompt[i].inputs
    except InputError:  # Which rows are its own is not known: those of all, and its place among them.
        own = {**prompt.inputs, "place": torch.tensor(i)}
    pixels = [v for k, v in sorted(own.items()) if k.startswith(("pixel", "image", "place"))]
    return digest([str(ids.tolist()), *(v.cpu().float().numpy().tobytes() for v in pixels)])


def _token_texts(tokenizer: Any, ids: Tensor, image_id: int | None, token_map: TokenMap) -> tuple[tuple[str, ...], ...]:
    """Every position's text; ``"<image>"`` for a picture's (``"<video>"`` for one that moves), ``"<newline>"`` for a
    row's end among a picture's.
    """
    known = set(ids.flatten().tolist()) - {MASKED}
    texts = {i: tokenizer.decode([i], clean_up_tokenization_spaces=False) for i in known}
    if image_id is not None:
        texts[image_id] = PICTURE
    rows = [[texts[i] for i in row] for row in ids.tolist()]
    for i, place in (token_map.video_index >= 0).nonzero().tolist():
        rows[i][place] = "<video>"
    if token_map.cross is None and image_id is not None:
        for i, place in (token_map["separator"] & (ids == image_id).to(token_map.part.device)).nonzero().tolist():
            rows[i][place] = "<newline>"
    return tuple(map(tuple, rows))
