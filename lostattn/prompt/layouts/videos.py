"""Moving pictures in the tokens: grids in time too, in the order in which videos and images stand in an item.

A video counts among the images of its item: its tokens are ``"image"``, and its grid has frames. Its layouts are, in
the order in which they are tried:

- *packed*: frames of any size, their grid in the inputs (`video_grid_thw`: Qwen, GLM, VideoLLaMA 3)
- *positioned*: patches that say their own column and row, frame by frame (`video_position_ids`: Gemma 4)
- *stacked*: frames of one size, ``[video, frame, channel, height, width]`` (LLaVA-OneVision, LLaVA-NeXT-Video,
  Video-LLaVA)
- *framed*: frames among the pictures of `pixel_values`, each between marks of its own (InternVL, SmolVLM); told apart
  from pictures only where the videos are known
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace
from itertools import groupby
from typing import Any

from torch import Tensor

from lostattn.errors import InputError
from lostattn.pictures.patch_grid import PatchGrid, UnknownGrid
from lostattn.pictures.shown import Size
from lostattn.pictures.video_frames import frame_box
from lostattn.pictures.videos import Video
from lostattn.prompt.layouts.base import PLACELESS, SEPARATOR, Batch, ImageLayout
from lostattn.prompt.layouts.grids import patch_side, token_grid
from lostattn.prompt.token_ids import marked_ids

NOTE = "it is a video, and the prompt holds no frames of it"
VIDEO = -2
"""Stands for the id of a video's token, where it is told apart from an image's."""


def video_token_id(config: Any, inputs: Mapping[str, Any]) -> int | None:
    """The id of a video's token, where the inputs hold a video."""
    if "pixel_values_videos" not in inputs:
        return None
    found = getattr(config, "video_token_id", None)
    found = getattr(config, "video_token_index", None) if found is None else found
    return found if isinstance(found, int) else None


def told_apart(config: Any, inputs: Mapping[str, Tensor], real: Tensor) -> list[list[int]]:
    """The real ids of each item, with `VIDEO` in the place of a video's tokens.

    These have an id of their own, or the inputs say which are a video's (GLM writes its frames with an image's).
    """
    ids, token, kinds = marked_ids(inputs), video_token_id(config, inputs), inputs.get("mm_token_type_ids")
    if token is None:
        return [row[own].tolist() for row, own in zip(ids, real, strict=True)]
    moving = ids == token
    if kinds is not None and kinds.shape == ids.shape:
        moving = moving | (kinds == 2)
    return [row[own].tolist() for row, own in zip(ids.masked_fill(moving, VIDEO), real, strict=True)]


def video_layouts(
    inputs: Mapping[str, Tensor],
    config: Any,
    tokens: int,
    processor: Any = None,
    videos: Sequence[Video] | None = None,
) -> list[ImageLayout] | None:
    """The layout of every video of a batch, in order; None where it is not known.

    Args:
        inputs: the processor's output.
        config: the model's config.
        tokens: the number of video tokens in the whole batch.
        processor: the model's processor, which says what of a frame it shows.
        videos: the videos of the whole batch; None where they are not known.
    """
    batch = Batch(inputs, config, processor, None, None, None, tokens)
    for layout in (_packed, _positioned, _stacked):
        found = layout(batch, videos)
        if found is not None:
            return found if sum(one.tokens for one in found) == tokens else None
    return None


def _packed(batch: Batch, videos: Sequence[Video] | None) -> list[ImageLayout] | None:
    thw = batch.inputs.get("video_grid_thw")
    if thw is None:
        return None
    own, kept = batch.inputs.get("video_merge_sizes"), batch.inputs.get("video_compression_mask")
    merge = batch.number("spatial_merge_size", batch.vision, batch.config) or 1
    merges = [merge] * len(thw) if own is None else own.tolist()
    per = batch.number("temporal_patch_size", batch.vision, getattr(batch.processor, "video_processor", None)) or 1
    grids = []
    for k, ((steps, high, wide), m) in enumerate(zip(thw.tolist(), merges, strict=True)):
        video = _of(videos, k, len(thw))
        # The frames are resized to exactly these patches, so the grid covers all of them.
        grids.append(_placed(PatchGrid(high // m, wide // m, steps, merge=m), per, video, whole=True))
    if kept is None or len(kept) != sum(map(len, grids)):
        return [ImageLayout(len(grid), grid, tuple(range(len(grid)))) for grid in grids]
    # Tokens that say little more than those of the frame before are left out (VideoLLaMA 3).
    masks = kept.bool().split([len(grid) for grid in grids])
    orders = [tuple(mask.nonzero().flatten().tolist()) for mask in masks]
    return [ImageLayout(len(order), grid, order) for grid, order in zip(grids, orders, strict=True)]


def _positioned(batch: Batch, videos: Sequence[Video] | None) -> list[ImageLayout] | None:
    places, counts = batch.inputs.get("video_position_ids"), batch.inputs.get("num_frames_per_video")
    pool = batch.number("pooling_kernel_size", batch.vision)
    if places is None or counts is None or places.ndim != 3 or not pool:
        return None
    layouts = []
    for k, frames in enumerate(places.split(counts.tolist())):
        wide, high = (frames.amax((0, 1)) + 1).tolist()
        grid = PatchGrid(high // pool, wide // pool, len(frames), merge=pool)
        grid = _placed(grid, 1, _of(videos, k, len(counts)), whole=True)
        layouts.append(ImageLayout(len(grid), grid, tuple(range(len(grid)))))
    return layouts


def _stacked(batch: Batch, videos: Sequence[Video] | None) -> list[ImageLayout] | None:
    pixels, side = batch.inputs.get("pixel_values_videos"), patch_side(batch)
    if pixels is None or pixels.ndim != 5 or side is None or not len(pixels) or batch.tokens % len(pixels):
        return None
    frames, each = pixels.shape[1], batch.tokens // len(pixels)
    rows, cols = pixels.shape[-2] // side, pixels.shape[-1] // side
    pool = batch.number("spatial_pool_stride", batch.config) or 2
    up, across = -(-rows // pool), -(-cols // pool)
    for lead, high, wide, tail in (  # placeless tokens before a frame's, its grid, newlines behind the video
        (0, rows, cols, 0), (1, rows, cols, 0), (0, rows // pool, cols // pool, 0), (0, up, across, 1),
    ):  # fmt: skip
        if each == frames * (lead + high * wide) + tail:
            break
    else:
        return None
    layouts = []
    for k in range(len(pixels)):
        grid = PatchGrid(high, wide, frames, merge=1 if high == rows else pool)
        # Pooling to less than whole shares drops what is left; pooling to more spreads the patches over the tokens.
        used = (cols if tail else min(cols, wide * grid.merge), rows if tail else min(rows, high * grid.merge))
        seen = (used[0] * side / pixels.shape[-1], used[1] * side / pixels.shape[-2])
        tensor = (pixels.shape[-1], pixels.shape[-2])
        grid = _placed(grid, 1, _of(videos, k, len(pixels)), batch.processor, tensor, seen)
        order = [p for t in range(frames) for p in (*[PLACELESS] * lead, *_step(grid, t))]
        layouts.append(ImageLayout(each, grid, (*order, *[SEPARATOR] * tail)))
    return layouts


def framed_layouts(batch: Batch, runs: Sequence[int], video: Video) -> ImageLayout | None:
    """The layout of a video whose frames are pictures: a run of tokens a frame, equally many of each.

    Args:
        batch: with `pixel_values`, the last two axes of which are a frame's.
        runs: the lengths of the video's runs of tokens.
        video: the video.
    """
    pixels = batch.inputs["pixel_values"]
    if len(set(runs)) != 1 or len(runs) != len(video):
        return None
    found = token_grid(batch, pixels.shape[-2], pixels.shape[-1], runs[0])
    if isinstance(found, UnknownGrid):
        return ImageLayout(sum(runs), replace(found, size=video.size, is_video=True), rows=len(runs))
    tensor = (pixels.shape[-1], pixels.shape[-2])
    seen = (found.grid.cols * found.step / tensor[0], found.grid.rows * found.step / tensor[1])
    grid = _placed(replace(found.grid, frames=len(runs)), 1, video, batch.processor, tensor, seen)
    order = tuple(p for t in range(len(runs)) for p in (*[PLACELESS] * found.lead, *_step(grid, t)))
    return ImageLayout(len(order), grid, order, rows=len(runs))


def _of(videos: Sequence[Video] | None, k: int, n: int) -> Video | None:
    return videos[k] if videos is not None and len(videos) == n else None


def _step(grid: PatchGrid, step: int) -> range:
    """The patches of one time step."""
    each = grid.rows * grid.cols
    return range(step * each, (step + 1) * each)


def _placed(
    grid: PatchGrid,
    per: int,
    video: Video | None,
    processor: Any = None,
    tensor: Size | None = None,
    seen: tuple[float, float] = (1.0, 1.0),
    whole: bool = False,
) -> PatchGrid:
    """A video's grid in the frames that it was made of.

    Args:
        grid: of its tokens.
        per: how many frames a time step shows; the last is repeated where they do not divide.
        video: the video; None where it is not known.
        processor: the model's.
        tensor: (width, height) of a processed frame.
        seen: the shares of that tensor, from its left and its top, that any token sees.
        whole: whether the tensor shows the whole frame and all of it is seen.
    """
    n = grid.frames * per if video is None else len(video)
    frames = tuple(tuple(f for f in range(t * per, (t + 1) * per) if f < n) for t in range(grid.frames))
    grid = replace(grid, role="video", shown_frames=frames, note=NOTE)
    if video is None:
        return grid
    box = (0.0, 0.0, float(video.size[0]), float(video.size[1])) if whole else frame_box(processor, video.size, tensor)
    if isinstance(box, str):
        return replace(grid, size=video.size, note=box)
    left, top, right, bottom = box
    covers = (left, top, left + seen[0] * (right - left), top + seen[1] * (bottom - top))
    return replace(grid, size=video.size, covers=covers)


def unknown_layouts(rows: Sequence[Sequence[int]], counts: Sequence[int] | None) -> list[ImageLayout]:
    """Videos of which no more is known than how many tokens they have: one for each unbroken run, or for all runs.

    Args:
        rows: the ids of each item, as :func:`told_apart` gives them.
        counts: how many videos each item holds; None where that is not known.
    """
    grid = UnknownGrid("how this family lays a video out in tokens is not known", is_video=True)
    out = []
    for i, row in enumerate(rows):
        runs = [len(list(run)) for moving, run in groupby(row, lambda t: t == VIDEO) if moving]
        if counts is not None and counts[i] != len(runs):
            if counts[i] != 1:
                raise InputError(f"Item {i} holds {counts[i]} videos and {len(runs)} runs of their tokens.")
            runs = [sum(runs)]
        out += [ImageLayout(run, grid) for run in runs]
    return out


def woven_layouts(
    rows: Sequence[Sequence[int]],
    image_id: int | None,
    video_id: int,
    images: Iterable[ImageLayout],
    videos: Iterable[ImageLayout],
) -> list[list[ImageLayout]]:
    """The images and videos of each item, in the order of their tokens.

    Args:
        rows: the real ids of each item.
        image_id, video_id: the ids of an image's and of a video's tokens.
        images, videos: those of the whole batch, in order.

    Raises:
        InputError: tokens without an image or a video, or the other way round.
    """
    left = {image_id: list(images), video_id: list(videos)}
    out = []
    for i, row in enumerate(rows):
        mine: list[ImageLayout] = []
        spare = dict.fromkeys(left, 0)  # tokens that belong to what was found already
        for token in row:
            if token not in left:
                continue
            if not spare[token]:
                if not left[token]:
                    raise InputError(f"Item {i} holds tokens of more images or videos than there are pixel values of.")
                mine.append(left[token].pop(0))
                spare[token] = mine[-1].tokens
            spare[token] -= 1
        if any(spare.values()):
            raise InputError(f"Item {i} holds fewer image or video tokens than its pixel values make.")
        out.append(mine)
    if any(left.values()):
        raise InputError("There are pixel values of an image or a video that has no tokens in the input ids.")
    return out
