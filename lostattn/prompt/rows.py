"""Which rows of the pixel inputs belong to which item, picture or video of a batch."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence

from torch import Tensor

from lostattn.errors import InputError
from lostattn.pictures.patch_grid import Grid, PatchGrid

BY_PICTURE = ("image_attention_mask", "cross_attention_mask")
"""Inputs with an axis for the item, one for the position, and one for the picture."""
_BY_POSITION = ("image_embeds_position_mask", *BY_PICTURE)


# Inputs of a row a picture, and of a row a piece of one, whose names do not begin as those of pictures do.
_OF_PICTURES = ("num_local_patches", "patches_grid")
_OF_PIECES = ("pixel_attention_mask", "spatial_shapes")


def per_image(inputs: Mapping[str, Tensor], grids: Sequence[Sequence[Grid]]) -> dict[str, list[int]]:
    """For each input that goes by image and not by item, how many of its rows each image has.

    Raises:
        InputError: an input whose rows cannot be told apart by image.
    """
    everything = [grid for own in grids for grid in own]
    rows = rows_of_videos(inputs, everything)
    rest = {name: value for name, value in inputs.items() if name not in rows}
    stills = [[grid for grid in own if not grid.is_video] for own in grids]
    return rows | {name: counts_among(everything, counts, False) for name, counts in _of_stills(rest, stills).items()}


def _of_stills(inputs: Mapping[str, Tensor], grids: Sequence[Sequence[Grid]]) -> dict[str, list[int]]:
    """`per_image` of a batch's inputs and grids without those of videos."""
    whole = inputs["input_ids"].shape
    beside = {*_by_item(inputs), *_BY_POSITION}
    rows: dict[str, list[int]] = {}
    for name, value in inputs.items():
        by_position = value.shape[:2] == whole and not name.startswith(("pixel", "image"))
        if name in beside or by_position:
            continue
        found = next((count for fits, count in _counts(name, inputs, grids) if fits and sum(count) == len(value)), None)
        if found is None:
            raise InputError(
                f"The batch cannot be taken apart: how the rows of {name!r}, of shape {tuple(value.shape)}, belong"
                " to its items is not known. Build a prompt of the items you want instead."
            )
        rows[name] = found
    return rows


def _counts(
    name: str, inputs: Mapping[str, Tensor], grids: Sequence[Sequence[Grid]]
) -> Iterable[tuple[bool, list[int]]]:
    """How many rows of an input each image may have, the likeliest first, and whether that is meant for this input."""
    flat = [grid for own in grids for grid in own]
    axes = inputs[name].ndim
    if (thw := inputs.get("image_grid_thw")) is not None:
        yield name == "pixel_values", thw.prod(-1).tolist()
    if (local := inputs.get("num_local_patches")) is not None:
        yield name == "pixel_values_local", local.tolist()
    yield bool(axes) and name.startswith(("pixel", "image", *_OF_PICTURES)), [1] * len(flat)
    yield axes > 1 and name in ("pixel_values", *_OF_PIECES), [max(len(grid.tiles), 1) for grid in flat]
    # One an item that has any.
    yield name == "batch_num_images", [int(k == 0) for own in grids for k in range(len(own))]


def _by_item(inputs: Mapping[str, Tensor]) -> set[str]:
    """The pixel inputs that have a row an item: pictures, or tiles, are their second axis."""
    pixels, batch = inputs.get("pixel_values"), len(inputs["input_ids"])
    if pixels is None or len(pixels) != batch:
        return set()
    if pixels.ndim == 6:
        return {"pixel_values", "aspect_ratio_ids", "aspect_ratio_mask"} & set(inputs)
    if pixels.ndim == 5 and "image_sizes" not in inputs:
        return {"pixel_values", "pixel_attention_mask"} & set(inputs)
    return set()


def cut_items(inputs: Mapping[str, Tensor], items: Sequence[int]) -> dict[str, Tensor]:
    """The inputs with a row an item, those of some items, without the tiles and pictures that only others filled."""
    names = _by_item(inputs)
    if not names:
        return {}
    out = {name: inputs[name][list(items)] for name in names}
    if "aspect_ratio_ids" in out:
        used = int((out["aspect_ratio_ids"] > 0).sum(-1).max())
    else:
        used = int(out["pixel_values"].ne(0).flatten(2).any(-1).sum(-1).max())
    # A model takes the presence of pixels for a picture: without any, none of these is given.
    return {name: value[:, :used] for name, value in out.items()} if used else {}


def trim_tiles(pixels: Tensor) -> Tensor:
    """``[image, tile, channel, height, width]`` without the tiles that are zeros in every image."""
    used = int(pixels.ne(0).flatten(2).any(-1).sum(-1).max())
    return pixels[:, :used]


def cut_decoder(
    inputs: Mapping[str, Tensor], items: Sequence[int], columns: slice, wanted: Sequence[int], n_images: int
) -> dict[str, Tensor]:
    """The inputs of some items of an encoder-decoder: columns of the decoder's, and the encoder's as wide as they are.

    Args:
        inputs: of the batch.
        items: which items.
        columns: of the decoder's positions.
        wanted: their images among all images.
        n_images: how many images there are.

    Raises:
        InputError: pictures that cannot be told apart by image.
    """
    out = {}
    for name, value in inputs.items():
        if name.startswith("decoder_"):
            out[name] = value[list(items)][:, columns]
        elif not name.startswith("pixel"):
            out[name] = value[list(items)]
        elif len(value) != n_images:
            raise InputError(
                f"The batch cannot be taken apart: {name!r} has {len(value)} rows for {n_images} images. Build a prompt"
                " of the items you want instead."
            )
        elif wanted:
            out[name] = value[list(wanted)]
    return out


def trim_padding(pixels: Tensor, sizes: Tensor | None) -> Tensor:
    """``[image, channel, height, width]`` as large as the largest of its pictures, where zeros alone lie beyond.

    Args:
        pixels: of some images.
        sizes: (height, width) of each; None where the inputs do not say them.
    """
    if sizes is None or pixels.ndim != 4 or sizes.shape != (len(pixels), 2):
        return pixels
    high, wide = sizes.amax(0).tolist()
    return pixels if pixels[..., high:, :].any() or pixels[..., wide:].any() else pixels[..., :high, :wide]


_OF_VIDEOS = ("pixel_values_videos", "video_", "second_per_grid_ts", "num_frames_per_video")


def rows_of_videos(inputs: Mapping[str, Tensor], grids: Sequence[Grid]) -> dict[str, list[int]]:
    """For each input that videos have rows in, how many each image and video of the batch has.

    Inputs whose rows do not add up are left out. Frames that are written as pictures are rows of `pixel_values`.

    Args:
        inputs: the processor's output.
        grids: of every image and video of the batch, in order.
    """
    moving = [grid for grid in grids if grid.is_video]
    frames = [grid.frames if isinstance(grid, PatchGrid) else 1 for grid in moving]
    out: dict[str, list[int]] = {}
    for name, value in inputs.items():
        if name.startswith(_OF_VIDEOS):
            fits = [counts for counts in _choices(inputs, name, frames) if sum(counts) == len(value)]
            out |= {name: counts_among(grids, fits[0], True)} if fits else {}
        elif moving and "pixel_values_videos" not in inputs and name.startswith("pixel_"):
            if value.ndim >= 4 and len(value) == len(grids) == len(moving):  # the frames are a row's second axis
                out[name] = [1] * len(grids)
            elif len(value) == sum(rows := [_pictures(grid) for grid in grids]):
                out[name] = rows
    return out


def _choices(inputs: Mapping[str, Tensor], name: str, frames: list[int]) -> list[list[int]]:
    """The ways in which an input's rows may go by video: by patch, by token, by video, by frame."""
    thw, found = inputs.get("video_grid_thw"), []
    if name == "pixel_values_videos" and thw is not None:
        found.append(thw.prod(-1).tolist())
    if name == "video_compression_mask" and thw is not None and "video_merge_sizes" in inputs:
        found.append((thw.prod(-1) // inputs["video_merge_sizes"] ** 2).tolist())
    return [*found, [1] * len(frames), frames]


def _pictures(grid: Grid) -> int:
    """How many pictures an image is made of: its tiles, or its frames."""
    return grid.frames if isinstance(grid, PatchGrid) and grid.is_video else max(len(grid.tiles), 1)


def counts_among(grids: Sequence[Grid], counts: Iterable[int], videos: bool) -> list[int]:
    """Counts of the videos (or of the other images) of a batch, with 0 in the places of the rest."""
    left = iter(counts)
    return [next(left) if grid.is_video is videos else 0 for grid in grids]
