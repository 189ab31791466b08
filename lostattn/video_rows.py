"""Which rows of the inputs belong to which video of a batch."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence

from torch import Tensor

from lostattn.patch_grid import Grid, PatchGrid

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
            out |= {name: among(grids, fits[0], True)} if fits else {}
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


def among(grids: Sequence[Grid], counts: Iterable[int], videos: bool) -> list[int]:
    """Counts of the videos (or of the other images) of a batch, with 0 in the places of the rest."""
    left = iter(counts)
    return [next(left) if grid.is_video is videos else 0 for grid in grids]
