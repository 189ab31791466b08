"""Moving pictures in the tokens: grids in time too, in the order in which videos and images stand in an item.

A prompt of videos is made of inputs that are ready (``model.prompt(inputs=…)``). A video counts among the images of its
item: its tokens are ``"image"``, and its grid has frames. Families that write a video as pictures, each frame between
marks of its own (InternVL, SmolVLM), hold an image a frame.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from torch import Tensor

from lostattn.errors import InputError
from lostattn.image_layout import SEPARATOR, ImageLayout
from lostattn.patch_grid import PatchGrid

NOTE = "it is a video, and the prompt holds no frames of it"


def video_token_id(config: Any, inputs: Mapping[str, Any]) -> int | None:
    """The id of a video's token, where the inputs hold a video."""
    if "pixel_values_videos" not in inputs:
        return None
    found = getattr(config, "video_token_id", None)
    found = getattr(config, "video_token_index", None) if found is None else found
    return found if isinstance(found, int) else None


def video_layouts(inputs: Mapping[str, Tensor], config: Any, tokens: int) -> list[ImageLayout] | None:
    """The layout of every video of a batch, in order; None where it is not known.

    Args:
        inputs: the processor's output.
        config: the model's config.
        tokens: the number of video tokens in the whole batch.
    """
    thw, pixels, vision = inputs.get("video_grid_thw"), inputs["pixel_values_videos"], config.vision_config
    if thw is not None:
        merge = int(getattr(vision, "spatial_merge_size", 1))
        grids = [PatchGrid(h // merge, w // merge, t, merge=merge, note=NOTE) for t, h, w in thw.tolist()]
        layouts = [ImageLayout(len(grid), grid, tuple(range(len(grid)))) for grid in grids]
    elif pixels.ndim == 5 and isinstance(getattr(vision, "patch_size", None), int):
        # LLaVA-OneVision: each frame is pooled to half its side, and one newline ends the video.
        side = math.ceil(pixels.shape[-1] // vision.patch_size / 2)
        grid = PatchGrid(side, side, pixels.shape[1], merge=2, note=NOTE)
        layouts = [ImageLayout(len(grid) + 1, grid, (*range(len(grid)), SEPARATOR))] * len(pixels)
    else:
        return None
    return layouts if sum(one.tokens for one in layouts) == tokens else None


def woven(
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
