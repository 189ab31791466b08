"""How the pictures and videos of every item of a prompt lie in its tokens."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from itertools import groupby
from typing import Any

import torch
from PIL import Image
from torch import Tensor

from lostattn.errors import InputError
from lostattn.pictures.patch_grid import UnknownGrid
from lostattn.pictures.videos import Video, Videos
from lostattn.prompt.layouts.base import Batch, ImageLayout
from lostattn.prompt.layouts.crossed import layouts_beside_text
from lostattn.prompt.layouts.find import image_layouts
from lostattn.prompt.layouts.videos import (
    VIDEO,
    framed_layouts,
    told_apart,
    unknown_layouts,
    video_layouts,
    woven_layouts,
)


def layouts_of(
    processor: Any,
    config: Any,
    inputs: Mapping[str, Tensor],
    image_id: int | None,
    real: Tensor,
    pictures: Sequence[tuple[Image.Image, ...]],
    videos: Videos = (),
    kinds: Sequence[Sequence[str]] | None = None,
) -> list[list[ImageLayout]]:
    """The layout of every image and video of every item, in the order of their tokens.

    Args:
        processor, config: the model's.
        inputs: the processor's output.
        image_id: the id of an image token.
        real: which positions are not padding.
        pictures, videos: of each item, where they are known.
        kinds: ``"image"`` or ``"video"`` for each of an item's, in order; None where it is not known.

    Raises:
        InputError: where image tokens and pixel values do not add up.
    """
    if (without_tokens := layouts_beside_text(inputs, config)) is not None:
        return without_tokens
    rows = told_apart(config, inputs, real)
    sizes = [[p.size for p in own] for own in pictures]
    known = sizes if any(sizes) else None
    tokens = sum(row.count(image_id) for row in rows if image_id is not None)
    batch = Batch(inputs, config, processor, rows, image_id, known, tokens)
    if any(videos) and kinds is not None and not any(VIDEO in row for row in rows):
        return _framed(batch, videos, kinds)
    layouts = image_layouts(batch)
    if not layouts and not tokens and image_id is not None and len(pixels := inputs.get("pixel_values", ())):
        raise InputError(f"{len(pixels)} image(s) in the pixel values have no image tokens in the input ids.")
    counts = [len(own) for own in sizes] if known else None
    if any(VIDEO in row for row in rows):
        return _with_videos(batch, rows, layouts, counts, videos)
    return split_layouts(layouts, rows, image_id, counts)


def _with_videos(
    batch: Batch,
    rows: list[list[int]],
    layouts: list[ImageLayout] | None,
    counts: Sequence[int] | None,
    videos: Videos,
) -> list[list[ImageLayout]]:
    """Of prompts whose videos have tokens of their own, beside pictures or alone."""
    moving = sum(row.count(VIDEO) for row in rows)
    flat = [video for own in videos for video in own] if any(videos) else None
    found = video_layouts(batch.inputs, batch.config, moving, batch.processor, flat)
    if found is None:
        found = unknown_layouts(rows, [len(own) for own in videos] if flat else None)
    if layouts is None:
        layouts = [one for own in split_layouts(None, rows, batch.image_id, counts) for one in own]
    return woven_layouts(rows, batch.image_id, VIDEO, layouts, found)


def _framed(batch: Batch, videos: Videos, kinds: Sequence[Sequence[str]]) -> list[list[ImageLayout]]:
    """Of prompts whose videos are written as pictures, frame by frame, with an image's tokens (InternVL, SmolVLM)."""
    name = type(batch.processor).__name__
    if batch.inputs["pixel_values"].ndim == 5 and any("image" in order for order in kinds):
        raise InputError(
            f"This prompt holds images and videos, and {name} puts the pixels of the one in the place of the other's."
            " Give the frames of the video as images, or images and videos in prompts of their own."
        )
    parted = [_parted(batch, i, own, kinds[i]) for i, own in enumerate(videos)]
    # The pictures alone, as if there were no videos.
    rows = [
        _marked(row, batch.image_id, [video is not None for video, runs in parts for _ in runs])
        for row, parts in zip(batch.ids or (), parted, strict=True)
    ]
    flat = [part for parts in parted for part in parts]
    return woven_layouts(rows, batch.image_id, VIDEO, _pictures_of(batch, flat, rows), _clips_of(batch, flat))


def _clips_of(batch: Batch, parts: Sequence[_Part]) -> list[ImageLayout]:
    """The layouts of the videos among the parts of a batch."""
    clips: list[ImageLayout] = []
    for video, runs in parts:
        if video is not None:
            found = framed_layouts(batch, runs, video)
            clips += [found] if found is not None else unknown_layouts([[VIDEO] * sum(runs)], [1])
    return clips


def _pictures_of(batch: Batch, parts: Sequence[_Part], rows: list[list[int]]) -> list[ImageLayout]:
    """The layouts of the pictures among the parts of a batch; ``rows`` are the ids without those of videos."""
    tokens = sum(row.count(batch.image_id) for row in rows if batch.image_id is not None)
    if not tokens:
        return []
    each = next(runs[0] for video, runs in parts if video is not None)
    own = [video is None for video, runs in parts for _ in range(sum(runs) // each)]
    inputs = {**batch.inputs, "pixel_values": batch.inputs["pixel_values"][torch.tensor(own)]}
    return image_layouts(replace(batch, inputs=inputs, ids=rows, tokens=tokens)) or []


_Part = tuple[Video | None, list[int]]


def _parted(batch: Batch, i: int, videos: Sequence[Video], order: Sequence[str]) -> list[_Part]:
    """For each image (None) and video of an item, the lengths of its runs of tokens: one, or one a frame."""
    row, left = (batch.ids or ())[i], list(videos)
    runs = [len(list(run)) for is_image, run in groupby(row, lambda t: t == batch.image_id) if is_image]
    frames, pictures = sum(map(len, videos)), list(order).count("image")
    if len(runs) != frames + pictures:
        raise InputError(
            f"Item {i} holds {len(runs)} runs of image tokens, but {type(batch.processor).__name__} was given {frames}"
            f" frames and {pictures} images."
        )
    parts: list[_Part] = []
    for kind in order:
        video = left.pop(0) if kind == "video" else None
        n = 1 if video is None else len(video)
        parts.append((video, runs[:n]))
        runs = runs[n:]
    return parts


def _marked(row: Sequence[int], image_id: int | None, moving: Sequence[bool]) -> list[int]:
    """The ids with `VIDEO` in the place of the tokens of those runs that are a video's."""
    out, run, inside = list(row), -1, False
    for place, token in enumerate(row):
        run += token == image_id and not inside
        inside = token == image_id
        if inside and moving[run]:
            out[place] = VIDEO
    return out


def split_layouts(
    layouts: list[ImageLayout] | None,
    ids: list[list[int]],
    image_id: int | None,
    n_images: Sequence[int] | None,
) -> list[list[ImageLayout]]:
    """The layouts of each item's images.

    Args:
        layouts: those of the whole batch in order; None where unknown (an image is then one run of tokens).
        ids: the real ids of each item.
        image_id: the id of an image token.
        n_images: how many images each item has; None where unknown.

    Raises:
        InputError: where image tokens and images do not add up.
    """
    if layouts is None:
        return [_runs(row, image_id, n_images[i] if n_images else None) for i, row in enumerate(ids)]
    out: list[list[ImageLayout]] = []
    left = list(layouts)
    for i, row in enumerate(ids):
        total = sum(token == image_id for token in row)
        mine: list[ImageLayout] = []
        while left and (len(mine) < n_images[i] if n_images else sum(m.tokens for m in mine) < total):
            mine.append(left.pop(0))
        if (found := sum(m.tokens for m in mine)) != total:
            raise InputError(
                f"Item {i} has {total} image tokens, but its {len(mine)} image(s) make {found}."
                " The input ids and the pixel values are not of one processor call."
            )
        out.append(mine)
    if left:
        raise InputError(f"{len(left)} image(s) in the pixel values have no image tokens in the input ids.")
    return out


def _runs(row: list[int], image_id: int | None, n_images: int | None) -> list[ImageLayout]:
    """One image for each unbroken run of image tokens, or the one image there is for all of them.

    Where runs and images differ in number, which token is of which image is not said: the layouts hold no tokens.
    """
    grid = UnknownGrid("its pixel values are not here, or in a layout that is not known")
    runs = [sum(1 for _ in run) for is_image, run in groupby(row, lambda t: t == image_id) if is_image]
    if n_images == 1:
        runs = [sum(runs)]
    elif n_images is not None and len(runs) != n_images:
        runs = [0] * n_images
    return [ImageLayout(count, grid) for count in runs]
