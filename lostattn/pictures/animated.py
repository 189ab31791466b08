"""Animated pictures (GIF, WebP, APNG) as videos: every frame, and when it is shown."""

from __future__ import annotations

from typing import Any

from PIL import Image

from lostattn.errors import InputError
from lostattn.pictures.loading import as_upright_rgb, frames_of, is_file, open_picture, too_large

Frames = tuple[tuple[Image.Image, ...], tuple[float, ...] | None]
"""Frames, and the second at which each begins; None where the file does not say it."""


def is_animated(source: Any) -> bool:
    """Whether a source is one file, or one opened picture, of several frames."""
    if isinstance(source, Image.Image):
        return frames_of(source) > 1
    if not is_file(source):
        return False
    try:
        with open_picture(source, "")[1] as opened:
            return frames_of(opened) > 1
    except Exception:  # what cannot be opened is told by whoever reads it, with its place
        return False


def animated_frames(source: Any, place: str) -> Frames:
    """All frames of an animated picture, as RGB PIL images, and their times in seconds.

    Raises:
        InputError: a file that cannot be read, or with more pixels in all than Pillow lets a picture have.
    """
    if isinstance(source, Image.Image):
        stood = source.tell()
        try:
            return _read(source, place)
        finally:
            source.seek(stood)
    with open_picture(source, place)[1] as opened:
        return _read(opened, place)


def _read(opened: Image.Image, place: str) -> Frames:
    n = frames_of(opened)
    if too_large(opened.size, n):
        raise InputError(
            f"{place} holds {n} frames of {opened.size[0]} x {opened.size[1]} pixels, more in all than Pillow lets a "
            "picture have; give fewer of them, a list of pictures."
        )
    frames, lengths = [], []
    for t in range(n):
        try:
            opened.seek(t)
            opened.load()
        except Exception as error:  # decoders raise whatever their format makes of damage
            raise InputError(f"frame {t} of {place} cannot be read: {error}.") from error
        frames.append(as_upright_rgb(opened, f"frame {t} of {place}"))
        lengths.append(float(opened.info.get("duration", 0)))  # in milliseconds
    if not any(lengths):
        return tuple(frames), None
    return tuple(frames), tuple(sum(lengths[:t]) / 1000 for t in range(n))
