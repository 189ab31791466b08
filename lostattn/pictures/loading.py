"""Pictures as they are given (PIL images, files, arrays) made into RGB PIL images, or a clear error."""

from __future__ import annotations

import os
import warnings
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image, ImageOps

from lostattn.errors import InputError

_MODES = {"1", "L", "LA", "La", "P", "PA", "RGB", "RGBA", "RGBa", "RGBX", "CMYK", "YCbCr", "LAB", "HSV"}


def load_picture(source: Any, place: str = "the picture") -> Image.Image:
    """One picture as an RGB PIL image, its pixels read.

    Args:
        source: a PIL image; a path; or an array ``[height, width]`` or ``[height, width, 1 | 3 | 4]`` of uint8
            (0 to 255) or floating point (0 to 1).
        place: how an error names the picture, for example ``"image 1 of item 0"``.

    Raises:
        InputError: a missing or corrupted file (named), an array of another layout, anything else.
    """
    if isinstance(source, Image.Image):
        return _as_rgb(source, place)
    if isinstance(source, (str, os.PathLike)):
        return _from_file(Path(source), place)
    if isinstance(source, np.ndarray):
        return _from_array(source, place)
    raise InputError(
        f"{place} is a {type(source).__name__}; a picture is a PIL image, a path to a file, or a numpy array"
        " [height, width, 3] of uint8."
    )


def load_pictures(sources: Any, item: int = 0) -> tuple[Image.Image, ...]:
    """Every picture of one item; a single picture may stand for a list of one."""
    if sources is None:
        return ()
    if isinstance(sources, (str, os.PathLike, np.ndarray, Image.Image)) or not isinstance(sources, Sequence):
        sources = [sources]
    return tuple(load_picture(s, f"image {k} of item {item}") for k, s in enumerate(sources))


def _from_file(path: Path, place: str) -> Image.Image:
    if "://" in os.fspath(path) or str(path).startswith(("http:", "https:")):
        raise InputError(f"{place} is an address, {str(path)!r}; download it first and give the file's path.")
    if not path.is_file():
        raise InputError(f"{place}: there is no file {str(path)!r}.")
    try:
        with Image.open(path) as opened:
            # Cameras store a rotation beside the pixels; people see the turned picture.
            return _as_rgb(ImageOps.exif_transpose(opened), place)
    except InputError as error:
        raise InputError(f"{place}: the file {str(path)!r} cannot be used: {error}") from error
    except (OSError, SyntaxError, ValueError, Image.DecompressionBombError) as error:
        raise InputError(
            f"{place}: the file {str(path)!r} is corrupted or is no picture that Pillow reads ({error})."
        ) from error


def _from_array(array: np.ndarray, place: str) -> Image.Image:
    channels = array.shape[2] if array.ndim == 3 else 1
    if array.ndim not in (2, 3) or channels not in (1, 3, 4) or 0 in array.shape:
        raise InputError(
            f"{place} is an array of shape {array.shape}; expected [height, width] or [height, width, channel]"
            " with 1, 3 or 4 channels. Move the channels to the end if they come first."
        )
    if np.issubdtype(array.dtype, np.floating):
        if not (np.isfinite(array).all() and array.min() >= 0 and array.max() <= 1):
            raise InputError(f"{place} is a {array.dtype} array with values outside 0 to 1; scale it, or give uint8.")
        array = np.round(array * 255).astype(np.uint8)
    if array.dtype != np.uint8:
        raise InputError(f"{place} is an array of {array.dtype}; expected uint8 (0 to 255) or floats (0 to 1).")
    return _as_rgb(Image.fromarray(array[..., 0] if array.ndim == 3 and channels == 1 else array), place)


def _as_rgb(picture: Image.Image, place: str) -> Image.Image:
    if picture.mode not in _MODES:
        # Pillow would clip 16-bit and float pixels to 255 without a word.
        raise InputError(f"{place} has pixels of mode {picture.mode!r}; convert it to 8 bits a channel first.")
    if 0 in picture.size:
        raise InputError(f"{place} has no pixels: its size is {picture.size}.")
    try:
        with warnings.catch_warnings():
            # A palette with transparency; the colours come out as Pillow documents.
            warnings.filterwarnings("ignore", message="Palette images with Transparency")
            return picture.convert("RGB") if picture.mode != "RGB" else picture.copy()
    except (OSError, SyntaxError, ValueError) as error:
        raise InputError(f"{place} cannot be read: {error}.") from error
