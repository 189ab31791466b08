"""The grid of the tokens that one tensor of pixels becomes, worked out from config, processor and their number."""

from __future__ import annotations

import math
import re
from dataclasses import dataclass
from typing import Any

from lostattn.pictures.patch_grid import PatchGrid, UnknownGrid
from lostattn.prompt.layouts.base import Batch

RESAMPLED = {
    # 144 or 256 learned vectors that stand behind the patches in its encoder: the class has them, no field says so, and
    # their number is that of a grid of the patches.
    "deepseek_ocr2_vision": "learned queries of its vision encoder",
}
"""By the type of the vision config: what makes tokens of the whole picture where no field of a config says so."""

# Fields of a config that say so.
_RESAMPLERS = (
    "qformer_config",
    "perceiver_config",
    "projector_patch_to_query_dict",
    "resampler_config",
    "latent_query_num",
)
# Names of fields from which it may be feared; a grid is then not worked out from the number of tokens alone.
_QUERIES = re.compile(
    r"resampl|perceiver|q_?former|abstractor|query_token|latent_query|patch_to_query|n(um)?_(queries|latents)"
)


@dataclass(frozen=True)
class TensorGrid:
    """The tokens of one tensor.

    Attributes:
        grid: where they lie, its place in a picture not yet known.
        lead: how many tokens stand before the grid's.
        step: pixels of the tensor along each side of a token.
    """

    grid: PatchGrid
    lead: int
    step: int


def token_grid(batch: Batch, height: int, width: int, tokens: int) -> TensorGrid | UnknownGrid:
    """The grid of the tokens of one tensor of ``height x width`` pixels, or why there is none."""
    side, made = patch_side(batch), resampler(batch.config)
    rows, cols = (height // side, width // side) if side else (0, 0)
    if side:
        if tokens == rows * cols:
            return TensorGrid(PatchGrid(rows, cols), 0, side)
        extra = batch.number("num_additional_image_tokens", batch.processor) or 0
        strategy = getattr(batch.processor, "vision_feature_select_strategy", None) or getattr(
            batch.config, "vision_feature_select_strategy", None
        )
        if strategy == "full" and extra and tokens - rows * cols == extra:
            return TensorGrid(PatchGrid(rows, cols), extra, side)
    if made:
        return placeless(tokens, made)
    if side:
        merge = merge_factor(batch, rows, tokens)
        if not (merge and tokens == (rows // merge) * (cols // merge)):
            merge = None if may_query(batch.config) else _even(rows, cols, tokens)
        if merge:
            return TensorGrid(PatchGrid(rows // merge, cols // merge, merge=merge), 0, side * merge)
        return UnknownGrid(f"{tokens} tokens for a tensor of {rows} x {cols} patches")
    step = None if may_query(batch.config) else _even(height, width, tokens)
    if step:
        return TensorGrid(PatchGrid(height // step, width // step), 0, step)
    return UnknownGrid(f"neither processor nor config has a patch_size that makes {tokens} tokens of its tensor")


def placeless(tokens: int, made: str) -> UnknownGrid:
    """What stands for a grid where something makes all tokens of the whole picture."""
    reason = f"its {tokens} tokens are made of the whole picture by a resampler ({made}), so none of them has a place"
    return UnknownGrid(reason, resampler=made)


def patch_side(batch: Batch) -> int | None:
    """The pixels along a patch of the vision tower; None where they are not said, or patches are not square.

    A tower of codes (a VQ encoder) has no patches; it halves the picture between its levels, which makes as many pixels
    a code.
    """
    written = getattr(batch.vision, "patch_size", None)
    if isinstance(written, list | tuple):
        return int(written[0]) if len(set(written)) == 1 else None
    said = batch.number("patch_size") or batch.number("patch_size", getattr(batch.vision, "sam_config", None))
    levels = getattr(getattr(batch.config, "vq_config", None), "channel_multiplier", None)
    return said or (int(2 ** (len(levels) - 1)) if levels else None)


def merge_factor(batch: Batch, rows: int, tokens: int) -> int | None:
    """Patches along each side of a token, as config and processor say it; None where they say nothing."""
    holders = (batch.config, batch.vision)
    for name in ("downsample_factor", "scale_factor", "spatial_merge_size", "projector_pooling_ratio"):
        if (factor := batch.number(name, *holders)) and factor > 1:
            return factor
    for name in ("downsample_ratio", "pixel_shuffle_ratio", "downsample_rate"):
        for holder in holders:
            if (value := getattr(holder, name, None)) and 0 < (ratio := _ratio(value)) < 1:
                return round(1 / ratio)
    if batch.number("mm_tokens_per_image", batch.config) == tokens:
        return rows // round(tokens**0.5)
    return None


def resampler(config: Any) -> str | None:
    """What in a model makes its image tokens of the whole picture; None where nothing is known to."""
    kind = getattr(getattr(config, "vision_config", None), "model_type", None)
    said = next((name for name in _RESAMPLERS if getattr(config, name, None) is not None), None)
    return said or (RESAMPLED.get(kind) if isinstance(kind, str) else None)


def may_query(config: Any) -> bool:
    """Whether any field of the config or of its vision tower's is named as if tokens were queries over all patches."""
    holders = (config, getattr(config, "vision_config", None))
    return any(_QUERIES.search(name) for one in holders if one is not None for name in vars(one))


def _even(height: int, width: int, tokens: int) -> int | None:
    """The side of the squares that `tokens` squares cover a rectangle with, where there is such a whole number."""
    if not tokens or height * width % tokens:
        return None
    side = math.isqrt(height * width // tokens)
    fits = side > 1 and side * side * tokens == height * width and not height % side and not width % side
    return side if fits else None


def _ratio(value: Any) -> float:
    """A number that a config may write as a fraction, such as ``"1/2"``."""
    if isinstance(value, str):
        above, _, below = value.partition("/")
        return float(above) / float(below or 1)
    return float(value) if isinstance(value, int | float) else 0.0
