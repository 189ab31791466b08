"""How the tokens of every image of a batch are laid out: their number, which patch each one is, the grid.

Everything is worked out from what the processor returned, from the ids, and from the attributes of processor and
config, never from a model's name. The layouts known are, in the order in which they are tried:

- *packed*: pictures of any size, their grid in the inputs (`image_grid_thw`, the Qwen families)
- *any resolution*: a thumbnail and a fitted picture with a newline after each row (`lostattn.tiled_layouts`)
- *framed*: tiles between marks of their own, an item's in a row of `pixel_values` (`lostattn.tiled_layouts`)
- *crossed*: pictures that are no tokens at all but keys of cross-attention layers (`lostattn.cross_layout`)
- *sized*: pictures of any size in one padded tensor, their sizes in the inputs (here)
- *whole*: tensors of one size, a row of `pixel_values` each, one or several a picture (here)

What is not understood is an `UnknownGrid` that says why.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import groupby
from typing import Any

from torch import Tensor

from lostattn.crop_geometry import Shown, Size, shown_parts
from lostattn.patch_grid import Grid, PatchGrid, TiledGrid, UnknownGrid

__all__ = ["Batch", "ImageLayout", "PatchGrid", "TiledGrid", "UnknownGrid", "image_layouts"]

PLACELESS = -1
"""In `ImageLayout.order`: a token made of the picture that has no place in it (CLS, a resampler's)."""
SEPARATOR = -2
"""In `ImageLayout.order`: a token among the image's that nothing of the picture goes into (a newline)."""


@dataclass(frozen=True)
class ImageLayout:
    """One image in the tokens.

    Attributes:
        tokens: how many image tokens it has.
        grid: where they lie.
        order: for each of the tokens the patch that it is, `PLACELESS` or `SEPARATOR`; None: all placeless.
        rows: how many rows of `pixel_values` it takes up, where these go by tile.
    """

    tokens: int
    grid: Grid
    order: tuple[int, ...] | None = None
    rows: int = 1

    @property
    def patches(self) -> tuple[int, ...]:
        """`order`, written out."""
        return (PLACELESS,) * self.tokens if self.order is None else self.order


@dataclass(frozen=True)
class Batch:
    """What layouts are worked out from.

    Attributes:
        inputs: the processor's output.
        config, processor: the model's.
        ids: the real ids of each item; None where only their number is known.
        image_id: the id of an image token.
        sizes: (width, height) of the original pictures of each item; None where they are not known.
        tokens: the number of image tokens in the whole batch.
    """

    inputs: Mapping[str, Tensor]
    config: Any
    processor: Any
    ids: Sequence[Sequence[int]] | None
    image_id: int | None
    sizes: Sequence[Sequence[Size]] | None
    tokens: int

    @property
    def flat_sizes(self) -> list[tuple[Size, int]] | None:
        """Each picture's size, with the number of pictures in its item."""
        return None if self.sizes is None else [(size, len(own)) for own in self.sizes for size in own]

    def runs(self) -> list[int]:
        """The lengths of the unbroken runs of image tokens, item after item."""
        found = [groupby(row, lambda t: t == self.image_id) for row in self.ids or ()]
        return [sum(1 for _ in run) for groups in found for is_image, run in groups if is_image]

    def number(self, name: str, *holders: Any) -> int | None:
        """The first int of that name among the holders (default: processor, vision config, image processor, config)."""
        own = (self.processor, self.vision, getattr(self.processor, "image_processor", None), self.config)
        for holder in holders or own:
            value = getattr(holder, name, None)
            if isinstance(value, int) and not isinstance(value, bool):
                return value
        return None

    @property
    def vision(self) -> Any:
        """The config of the vision tower."""
        return getattr(self.config, "vision_config", None)


def image_layouts(batch: Batch) -> list[ImageLayout] | None:
    """The layout of every image of a batch, in order.

    Returns:
        None where the inputs do not even say how many tokens each image has.
    """
    from lostattn import cross_layout, tiled_layouts

    tiled = (tiled_layouts.any_resolution, tiled_layouts.framed, cross_layout.crossed)
    for layout in (_packed, *tiled, _positioned, _sized, _whole):
        found = layout(batch)
        if found is not None:
            return found
    return None


def _packed(batch: Batch) -> list[ImageLayout] | None:
    """Pictures resized to whole tokens, each with its own number of them; the grid is in the inputs."""
    thw = next((batch.inputs[name] for name in _GRIDS if name in batch.inputs), None)
    if thw is None:
        return None
    shapes = [(1, *row) if len(row) == 2 else tuple(row) for row in thw.tolist()]
    patches = sum(frames * high * wide for frames, high, wide in shapes)
    merge = _packed_merge(batch, patches)
    framed = (
        not merge and sum(_with_newlines(shape, m) for shape in shapes for m in [_said_merge(batch)]) == batch.tokens
    )
    merge = merge or _said_merge(batch)
    sizes = batch.flat_sizes
    known = sizes if sizes is not None and len(sizes) == len(shapes) else [(None, 1)] * len(shapes)
    layouts = []
    for (frames, high, wide), (size, _) in zip(shapes, known, strict=True):
        # The picture is resized to exactly these patches, so the grid covers all of it.
        covers = None if size is None else (0.0, 0.0, float(size[0]), float(size[1]))
        grid = PatchGrid(high // merge, wide // merge, frames, size, merge, covers)
        order = tuple(range(len(grid)))
        if framed:  # a token before, a newline after each row, a token behind
            lines = [(*order[r * grid.cols : (r + 1) * grid.cols], SEPARATOR) for r in range(frames * grid.rows)]
            order = (SEPARATOR, *(one for line in lines for one in line), SEPARATOR)
        layouts.append(ImageLayout(len(order), grid, order, rows=frames * high * wide))
    return layouts


_GRIDS = ("image_grid_thw", "grid_thws", "image_grid_hw")


def _said_merge(batch: Batch) -> int:
    """Patches along each side of a token, as the processor and the config of a packing family say it."""
    images = getattr(batch.processor, "image_processor", None)
    return batch.number("merge_size", images) or batch.number("spatial_merge_size", batch.vision, batch.config) or 1


def _packed_merge(batch: Batch, patches: int) -> int | None:
    """What is said, if it makes the right number of tokens; else the merge that does; None where none does."""
    if patches == batch.tokens * (said := _said_merge(batch)) ** 2:
        return said
    ratio = round((patches / batch.tokens) ** 0.5) if batch.tokens else 0
    return ratio if ratio and patches == batch.tokens * ratio**2 else None


def _with_newlines(shape: tuple[int, ...], merge: int) -> int:
    """The tokens of a grid with one before it, one after each row, and one behind it."""
    frames, high, wide = shape
    return frames * (high // merge) * (wide // merge + 1) + 2


def _sized(batch: Batch) -> list[ImageLayout] | None:
    """Pictures of their own size in pixels, padded to one tensor; the inputs say each size (Pixtral and its kin)."""
    sizes, pixels, side = batch.inputs.get("image_sizes"), batch.inputs.get("pixel_values"), patch_side(batch)
    merge = batch.number("spatial_merge_size", batch.config, batch.vision)
    shapes = batch.inputs.get("spatial_shapes")  # in patches rather than pixels
    if shapes is not None and (factor := batch.number("downsample_factor", batch.config, batch.vision)):
        sizes, side, merge = shapes, 1, factor
    if sizes is None or pixels is None or side is None or merge is None or sizes.shape != (len(pixels), 2):
        return None
    step = side * merge
    shapes_in_tokens = [(high // step, wide // step) for high, wide in sizes.tolist()]
    if sum(rows * cols for rows, cols in shapes_in_tokens) != batch.tokens:
        return None
    known = batch.flat_sizes
    layouts = []
    for k, (rows, cols) in enumerate(shapes_in_tokens):
        size = known[k][0] if known is not None and len(known) == len(shapes_in_tokens) else None
        grid = PatchGrid(rows, cols, size=size, merge=merge)
        if size is not None:
            shown = shown_parts(batch.processor, size)
            note = shown if isinstance(shown, str) else "its processor's sizes do not say"
            grid = replace(grid, note=note)
        layouts.append(ImageLayout(rows * cols, grid, tuple(range(rows * cols))))
    return layouts


def _positioned(batch: Batch) -> list[ImageLayout] | None:
    """Patches that say their own column and row, pooled in squares (Gemma 4); -1 where there is none."""
    places = batch.inputs.get("image_position_ids")
    pool = batch.number("pooling_kernel_size", batch.vision)
    if places is None or places.ndim != 3 or not pool:
        return None
    shapes = [(int(y) // pool, int(x) // pool) for x, y in (places.amax(1) + 1).tolist()]
    if sum(rows * cols for rows, cols in shapes) != batch.tokens:
        return None
    known = batch.flat_sizes
    layouts = []
    for k, (rows, cols) in enumerate(shapes):
        size = known[k][0] if known is not None and len(known) == len(shapes) else None
        covers = None if size is None else (0.0, 0.0, float(size[0]), float(size[1]))
        grid = PatchGrid(rows, cols, size=size, merge=pool, covers=covers)
        layouts.append(ImageLayout(len(grid), grid, tuple(range(len(grid)))))
    return layouts


def _whole(batch: Batch) -> list[ImageLayout] | None:
    """Tensors of one size, a row of `pixel_values` each: a picture is one of them, or several where it is cut."""
    pixels = batch.inputs.get("pixel_values")
    if pixels is None or pixels.ndim != 4 or not len(pixels) or batch.tokens % len(pixels):
        return None
    each = batch.tokens // len(pixels)
    found = token_grid(batch, pixels.shape[-2], pixels.shape[-1], each)
    parts = _parts_by_image(batch, len(pixels), each)
    if parts is None:
        return None
    layouts = []
    for size, own, note in parts:
        if isinstance(found, str):
            layouts.append(ImageLayout(each * len(own), UnknownGrid(found, size), rows=len(own)))
            continue
        grid, lead = found
        tensor, step = (pixels.shape[-1], pixels.shape[-2]), grid.merge * (patch_side(batch) or 1)
        grids = [placed(grid, part, size, note, tensor, step) for part in own]
        order = [p for k in range(len(own)) for p in (*[PLACELESS] * lead, *range(k * len(grid), (k + 1) * len(grid)))]
        layouts.append(ImageLayout(len(order), together(grids), tuple(order), rows=len(own)))
    return layouts


def _parts_by_image(
    batch: Batch, n: int, each: int
) -> list[tuple[Size | None, Sequence[Shown | None], str | None]] | None:
    """For every image: its size, what each of its tensors shows (None: not known), and why that is not known."""
    sizes = batch.flat_sizes
    if sizes is None or not sizes:
        if batch.ids is None:
            return [(None, [None], None)] * n
        runs = batch.runs()
        if any(run % each for run in runs) or sum(runs) != n * each:
            return [(None, [None], None)] * n
        # Tensors whose tokens follow one another without a break are one picture's, unless there is no more than one
        # tensor to a placeholder, as in the families that do not cut pictures.
        several = cuts_pictures(batch.processor)
        counts = [run // each for run in runs] if several else [1] * n
        return [(None, [None] * count, None) for count in counts]
    for cut in (None, True, False):
        found = [shown_parts(batch.processor, size, n_own, cut) for size, n_own in sizes]
        if any(isinstance(one, str) for one in found):
            break
        if sum(len(one) for one in found) == n:
            return [(size, list(one), None) for (size, _), one in zip(sizes, found, strict=True)]  # type: ignore[arg-type]
    if len(sizes) != n:
        return None
    whole = [shown_parts(batch.processor, size, n_own) for size, n_own in sizes]
    notes = [one if isinstance(one, str) else "the processor's own sizes do not fit its tensors" for one in whole]
    return [(size, [None], note) for (size, _), note in zip(sizes, notes, strict=True)]


def cuts_pictures(processor: Any) -> bool:
    """Whether a processor's image processor can make several tensors of one picture."""
    images = getattr(processor, "image_processor", None)
    names = ("crop_to_patches", "do_image_splitting", "image_grid_pinpoints", "do_pan_and_scan", "max_image_tiles")
    return any(hasattr(images, name) for name in names)


def patch_side(batch: Batch) -> int | None:
    """The pixels along a patch of the vision tower; None where they are not said, or patches are not square."""
    written = getattr(batch.vision, "patch_size", None)
    if isinstance(written, list | tuple):
        return int(written[0]) if len(set(written)) == 1 else None
    return batch.number("patch_size")


def token_grid(batch: Batch, height: int, width: int, tokens: int) -> tuple[PatchGrid, int] | str:
    """The grid of the tokens of one tensor and how many tokens stand before it, or why there is none."""
    side = patch_side(batch)
    if side is None:
        return "neither processor nor config has a patch_size"
    rows, cols = height // side, width // side
    if tokens == rows * cols:
        return PatchGrid(rows, cols), 0
    extra = batch.number("num_additional_image_tokens", batch.processor) or 0
    strategy = getattr(batch.processor, "vision_feature_select_strategy", None) or getattr(
        batch.config, "vision_feature_select_strategy", None
    )
    if strategy == "full" and extra and tokens - rows * cols == extra:
        return PatchGrid(rows, cols), extra
    if made := _resampler(batch.config):
        return f"its {tokens} tokens are made of the whole picture by a resampler ({made}), so none of them has a place"
    merge = merge_factor(batch, rows, tokens)
    if merge and tokens == (rows // merge) * (cols // merge):
        return PatchGrid(rows // merge, cols // merge, merge=merge), 0
    return f"{tokens} tokens for a tensor of {rows} x {cols} patches"


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


def _ratio(value: Any) -> float:
    """A number that a config may write as a fraction, such as ``"1/2"``."""
    if isinstance(value, str):
        above, _, below = value.partition("/")
        return float(above) / float(below or 1)
    return float(value) if isinstance(value, int | float) else 0.0


def _resampler(config: Any) -> str | None:
    """The part of a config that says that tokens are queries over all patches."""
    names = ("qformer_config", "perceiver_config", "projector_patch_to_query_dict", "resampler_config")
    return next((name for name in names if getattr(config, name, None) is not None), None)


def placed(
    grid: PatchGrid, part: Shown | None, size: Size | None, note: str | None, tensor: Size, step: int
) -> PatchGrid:
    """A grid where its tensor lies in the original picture.

    Args:
        grid: of the tensor's tokens.
        part: what the tensor shows; None where that is not known.
        size: of the original picture; None where it is not known.
        note: why the place is not known.
        tensor: (width, height) of the tensor.
        step: pixels of the tensor along each side of a token.
    """
    if part is None:
        return grid if size is None else replace(grid, size=size, note=note or grid.note)
    grid = replace(grid, size=size, role=part.role, place=part.place)
    if part.size != tensor:
        return replace(grid, note=f"a picture of {size} should become one of {part.size}, but the tensor is {tensor}")
    left, top, right, bottom = part.covers
    # The last pixels of a tensor that are no whole patch belong to no token.
    across, down = grid.cols * step / tensor[0], grid.rows * step / tensor[1]
    return replace(grid, covers=(left, top, left + across * (right - left), top + down * (bottom - top)))


def together(grids: Sequence[PatchGrid]) -> PatchGrid | TiledGrid:
    """One grid as it is, several as the tiles of a picture."""
    return grids[0] if len(grids) == 1 else TiledGrid(tuple(grids))
