"""Moving pictures as they are given, made into frames of one size."""

from __future__ import annotations

import os
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from jaxtyping import UInt8
from PIL import Image
from torch import Tensor

from lostattn.arguments import checked_call
from lostattn.errors import InputError
from lostattn.pictures.animated import Frames, animated_frames, is_animated
from lostattn.pictures.loading import is_file, load_picture
from lostattn.pictures.shown import Size


@checked_call
@dataclass(frozen=True, eq=False, init=False, repr=False)
class Video:
    """A moving picture: its frames, and when they were taken.

    Args:
        frames: pictures of one size, each as :func:`lostattn.pictures.load_picture` reads it; an array or tensor
            ``[frame, height, width, 3]``; or one animated picture (GIF, WebP, APNG: a path, its bytes, or opened),
            of which every frame is taken, at the seconds that it says unless `fps` or `seconds` say others.
        fps: how many of them make a second; None where that is not said (a processor that writes times then assumes
            a rate of its own).
        seconds: the time of each frame, where they are not evenly apart; in place of `fps`.

    Attributes:
        frames: the frames, as RGB PIL images.
        fps, seconds: as given.

    Raises:
        InputError: no frames, frames of several sizes, a frame that cannot be read; times that are not one for each
            frame, in order; both `fps` and `seconds`.
    """

    frames: tuple[Image.Image, ...]
    fps: float | int | None
    seconds: tuple[float | int, ...] | None

    def __init__(
        self, frames: Any, fps: float | int | None = None, seconds: Sequence[float | int] | None = None
    ) -> None:
        if fps is not None and not (_is_number(fps) and fps > 0):
            raise InputError(f"fps is {fps!r}; expected the number of frames a second, above 0.")
        if fps is not None and seconds is not None:
            raise InputError("A video has either fps= or seconds=, not both: each says when its frames were taken.")
        if seconds is not None and not (isinstance(seconds, Sequence) and all(map(_is_number, seconds))):
            raise InputError(f"seconds is {seconds!r}; expected a list of numbers, the time of each frame.")
        shown, said = _frames(frames, "a video")
        seconds = said if fps is None and seconds is None else seconds
        if seconds is not None and (len(seconds) != len(shown) or list(seconds) != sorted(seconds)):
            raise InputError(
                f"seconds holds {len(seconds)} times for {len(shown)} frames; give one for each, in order."
            )
        times = None if seconds is None else tuple(seconds)
        for name, value in (("frames", shown), ("fps", fps), ("seconds", times)):
            object.__setattr__(self, name, value)

    @property
    def size(self) -> Size:
        """(width, height) of the frames in pixels."""
        return self.frames[0].size

    def __len__(self) -> int:
        return len(self.frames)

    def __repr__(self) -> str:
        said = "" if self.fps is None else f", {self.fps:g} fps"
        return f"Video({len(self)} frames of {self.size[0]} x {self.size[1]}{said})"

    def array(self) -> UInt8[np.ndarray, "frame height width 3"]:
        """The pixels of all frames."""
        return np.stack([np.asarray(frame) for frame in self.frames])

    def metadata(self) -> dict[str, Any]:
        """What transformers' processors take beside the pixels (`video_metadata`)."""
        n, (width, height) = len(self), self.size
        fps, places = self.fps, list(range(n))
        if self.seconds is not None:  # Processors divide a frame's place by the rate, so a place may lie between two.
            span = self.seconds[-1] - self.seconds[0]
            fps = (n - 1) / span if span > 0 else 1.0
            places = [second * fps for second in self.seconds]  # type: ignore[misc]
        duration = None if fps is None else n / fps
        return {
            "total_num_frames": n, "fps": fps, "width": width, "height": height, "duration": duration,
            "frames_indices": places,
        }  # fmt: skip


def _is_number(value: Any) -> bool:
    return isinstance(value, (int, float)) and not isinstance(value, bool)


Videos = Sequence[tuple[Video, ...]]


def load_videos(given: Any, item: int = 0, fps: float | int | None = None) -> tuple[Video, ...]:
    """Every video of one item; a single one may stand for a list of one.

    Args:
        given: videos, each a `Video`, a list of pictures, an array ``[frame, height, width, 3]``, or an animated
            picture. A list of paths or pictures is one video, or one each where all of them are animated.
        item: how an error names the item.
        fps: frames a second of those that do not say it themselves, as an animated picture does.

    Raises:
        InputError: as `Video`; a file of a video, which is not decoded here.
    """
    if given is None:
        return ()
    if isinstance(given, (Video, np.ndarray, Tensor, Image.Image)) or is_file(given) or _is_frames(given):
        given = [given]
    if not isinstance(given, Sequence):
        raise InputError(f"videos holds a {type(given).__name__} for item {item}; expected a list of videos.")
    return tuple(_video(one, f"video {k} of item {item}", fps) for k, one in enumerate(given))


def _video(given: Any, place: str, fps: float | int | None) -> Video:
    if isinstance(given, Video):
        return given
    frames, seconds = _frames(given, place)
    return Video(frames, None if seconds else fps, seconds)


def _frames(given: Any, place: str) -> Frames:
    """The frames of a video, and their times where they come with them."""
    if is_animated(given):
        return animated_frames(given, place)
    if is_file(given) or isinstance(given, Image.Image):
        what = f"a path, {os.fspath(given)!r}" if isinstance(given, str | os.PathLike) else f"a {type(given).__name__}"
        raise InputError(
            f"{place} is {what}, and no animated picture; decode a file first and give its frames: a list of"
            " pictures, or an array [frame, height, width, 3] of uint8."
        )
    pixels = given.detach().cpu().numpy() if isinstance(given, Tensor) else given
    if isinstance(pixels, np.ndarray) and pixels.ndim != 4:
        raise InputError(f"{place} is an array of shape {pixels.shape}; expected [frame, height, width, 3].")
    if not isinstance(pixels, (Sequence, np.ndarray)):
        raise InputError(
            f"{place} is a {type(given).__name__}; a video is a list of pictures, or an array [frame, height, width, 3]"
            " of uint8."
        )
    if not len(pixels):
        raise InputError(f"{place} holds no frames.")
    frames = tuple(load_picture(one, f"frame {t} of {place}") for t, one in enumerate(pixels))
    if other := next((frame for frame in frames if frame.size != frames[0].size), None):
        raise InputError(f"the frames of {place} are of {frames[0].size} and {other.size} pixels; make them one size.")
    return frames, None


def _is_frames(given: Any) -> bool:
    """Whether a list is one video's frames rather than several videos."""
    if not isinstance(given, (list, tuple)) or not given:
        return False
    pictures = (isinstance(one, Image.Image) or is_file(one) or _is_still_array(one) for one in given)
    return all(pictures) and not all(is_animated(one) for one in given)


def _is_still_array(given: Any) -> bool:
    return isinstance(given, (np.ndarray, Tensor)) and given.ndim < 4
