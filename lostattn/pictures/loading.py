"""Pictures as they are given (PIL images, files, bytes, arrays) made into RGB PIL images, or a clear error."""

from __future__ import annotations

import io
import os
import warnings
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from PIL import ExifTags, Image, ImageOps

from lostattn.arguments import checked_call
from lostattn.errors import InputError

_MODES = {"1", "L", "LA", "La", "P", "PA", "RGB", "RGBA", "RGBa", "RGBX", "CMYK", "YCbCr", "LAB", "HSV"}
# What pictures come as. Pillow reads more: formats that run programs (EPS), that stand for something else, or that
# nobody has tried to break for years.
FORMATS = tuple("PNG JPEG MPO GIF BMP DIB WEBP TIFF PPM AVIF JPEG2000 ICO TGA PSD".split())
# Their further frames are previews of the first, or its layers: the first is the picture.
_ONE_PICTURE = {"MPO", "PSD"}


@checked_call
def load_picture(source: Any, place: str = "the picture") -> Image.Image:
    """One picture as an RGB PIL image, its pixels read.

    However it is given, the same pixels come out. A picture with an orientation tag (EXIF), as cameras write it, is
    turned the way that people see it. Transparency is dropped and a colour profile is not applied, as transformers does
    it: the stored colours count. What else is stored beside the pixels is left behind.

    Args:
        source: a PIL image; a path; the bytes of a file, or an open binary file; or an array ``[height, width]`` or
            ``[height, width, 1 | 3 | 4]`` of uint8 (0 to 255) or floating point (0 to 1).
        place: how an error names the picture, for example ``"image 1 of item 0"``.

    Raises:
        InputError: a missing, corrupted or truncated file (named); several frames or pages; more pixels than Pillow
            allows (twice ``PIL.Image.MAX_IMAGE_PIXELS``), or none; 16-bit, 32-bit or float pixels, which 8 bits do not
            hold; an array of another layout; anything else.
    """
    if isinstance(source, Image.Image):
        return _as_rgb(source, place)
    if isinstance(source, np.ndarray):
        return _from_array(source, place)
    if is_file(source):
        named, opened = open_picture(source, place)
        with opened:
            try:
                return _as_rgb(opened, place)
            except InputError as error:
                raise InputError(f"{place}: {named} cannot be used: {error}") from error
    raise InputError(
        f"{place} is a {type(source).__name__}; a picture is a PIL image, a path to a file, its bytes, or a numpy"
        " array [height, width, 3] of uint8."
    )


@checked_call
def load_pictures(sources: Any, item: int = 0) -> tuple[Image.Image, ...]:
    """Every picture of one item; a single picture may stand for a list of one."""
    if sources is None:
        return ()
    single = isinstance(sources, np.ndarray | Image.Image) or is_file(sources)
    if single or not isinstance(sources, Sequence):
        sources = [sources]
    return tuple(load_picture(s, f"image {k} of item {item}") for k, s in enumerate(sources))


def is_turned(source: Any) -> bool:
    """Whether a picture is an opened one whose orientation tag says that its pixels do not stand upright."""
    try:
        return isinstance(source, Image.Image) and source.getexif().get(ExifTags.Base.Orientation, 1) in range(2, 9)
    except Exception:  # a tag that cannot be read: the reader says so
        return False


def is_file(source: Any) -> bool:
    """Whether a source is a file: a path, its bytes, or an open binary file."""
    return isinstance(source, str | os.PathLike | bytes | bytearray | memoryview) or hasattr(source, "read")


def open_picture(source: Any, place: str) -> tuple[str, Image.Image]:
    """A file as errors name it, and as Pillow opens it, its pixels not read yet.

    Raises:
        InputError: there is no such file, or Pillow cannot open it; a picture with more pixels than Pillow allows.
    """
    if isinstance(source, str | os.PathLike):
        path = Path(source)
        named = f"the file {_short(str(path))!r}"
        if "://" in os.fspath(source) or str(path).startswith(("http:", "https:")):
            raise InputError(f"{place} is an address, {_short(str(path))!r}; download it first and give its path.")
        if not is_there(path):
            raise InputError(f"{place}: there is no file {_short(str(path))!r}.")
        readable: Any = path
    else:
        named = "what its bytes hold"
        readable = source if hasattr(source, "read") else io.BytesIO(source)
    try:
        return named, Image.open(readable, formats=_formats())
    except Image.DecompressionBombError as error:
        raise InputError(
            f"{place}: {named} holds more pixels than Pillow allows (twice PIL.Image.MAX_IMAGE_PIXELS): {error}"
        ) from error
    except Exception as error:  # Pillow's readers raise whatever their format makes of damage
        raise InputError(
            f"{place}: {named} is corrupted or is no picture that Pillow reads here ({error}); expected one of "
            f"{', '.join(FORMATS)}."
        ) from error


def _formats() -> tuple[str, ...]:
    """The formats that are read: those of `FORMATS`, and what somebody has taught Pillow (``pillow_heif``)."""
    Image.init()
    known = {name: getattr(reader[0], "__module__", "") for name, reader in Image.OPEN.items()}
    return tuple(name for name, module in known.items() if name in FORMATS or not module.startswith("PIL."))


def frames_of(opened: Image.Image) -> int:
    """How many frames or pages a picture has that are pictures of their own; 1 of any still one."""
    if opened.format in _ONE_PICTURE:
        return 1
    return int(getattr(opened, "n_frames", 1))


def too_large(size: tuple[int, int], frames: int = 1) -> bool:
    """Whether pictures hold more pixels than Pillow lets a file have."""
    limit = Image.MAX_IMAGE_PIXELS
    return limit is not None and size[0] * size[1] * frames > 2 * limit


def as_upright_rgb(picture: Image.Image, place: str) -> Image.Image:
    """The pixels of the frame at which a picture stands, turned as its orientation tag says.

    Raises:
        InputError: pixels that 8 bits do not hold, none, too many, or some that cannot be read.
    """
    if picture.mode not in _MODES:
        # Pillow would clip 16-bit and float pixels to 255 without a word.
        raise InputError(f"{place} has pixels of mode {picture.mode!r}; convert it to 8 bits a channel first.")
    if 0 in picture.size:
        raise InputError(f"{place} has no pixels: its size is {picture.size}.")
    if too_large(picture.size):
        raise InputError(
            f"{place} has {picture.size[0]} x {picture.size[1]} pixels, more than Pillow allows (twice "
            f"PIL.Image.MAX_IMAGE_PIXELS); make it smaller first."
        )
    try:
        with warnings.catch_warnings():
            # A palette with transparency; the colours come out as Pillow documents.
            warnings.filterwarnings("ignore", message="Palette images with Transparency")
            upright = ImageOps.exif_transpose(picture)
            out = upright.convert("RGB")
    except Exception as error:  # decoders raise whatever their format makes of damage
        raise InputError(f"{place} cannot be read, it is corrupted or cut short: {error}.") from error
    out = out.copy() if out is picture else out
    out.info = {}  # a tag that stayed would turn it again, and a transparent colour would go with its pixels
    return out


def _as_rgb(picture: Image.Image, place: str) -> Image.Image:
    try:
        n = frames_of(picture)
    except Exception as error:  # counting reads the whole of an animation
        raise InputError(f"{place} cannot be read, it is corrupted or cut short: {error}.") from error
    if n > 1:
        raise InputError(
            f"{place} holds {n} frames or pages, and a picture is one of them: give one, "
            "picture.seek(k); picture.convert('RGB'), or all of them as a video, videos=[…]."
        )
    return as_upright_rgb(picture, place)


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
    flat = array[..., 0] if array.ndim == 3 and channels == 1 else array
    return _as_rgb(Image.fromarray(np.ascontiguousarray(flat)), place)


def is_there(path: Path) -> bool:
    """Whether a path is a file's; a name that no file can have is none."""
    try:
        return path.is_file()
    except (OSError, ValueError):  # a name that is too long, or with a null byte
        return False


def _short(text: str, limit: int = 120) -> str:
    return text if len(text) <= limit else f"{text[: limit - 1]}…"
