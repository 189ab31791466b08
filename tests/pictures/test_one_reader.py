"""One picture gives one set of pixels by every door, or is refused at each of them by the same reason."""

from __future__ import annotations

import io
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image
from small_processors import llava

from lostattn.data import Question, load
from lostattn.errors import InputError
from lostattn.patching import mask_patches
from lostattn.pictures import load_picture
from lostattn.pictures.patch_grid import PatchGrid
from lostattn.pictures.videos import Video, load_videos
from lostattn.prompt import build_prompt
from lostattn.prompt.video_arguments import video_arguments
from lostattn.view import overlay

WIDTH, HEIGHT = 12, 7
WHOLE = PatchGrid(1, 1, size=(9, 9), covers=(0.0, 0.0, 9.0, 9.0))


def _colours() -> np.ndarray:
    """A picture whose four corners differ, so that every turn and mirror image of it is another."""
    return np.random.default_rng(0).integers(0, 256, (HEIGHT, WIDTH, 3), dtype=np.uint8)


def _opened(path: Path) -> Image.Image:
    """A picture that Pillow has opened and not read yet, from memory, so that no file stays open."""
    return Image.open(io.BytesIO(path.read_bytes()))


def _by_folder(path: Path) -> Image.Image:
    line = {"text": "?", "images": [path.name], "answer": "a", "choices": ["a", "b"]}
    (path.parent / "questions.jsonl").write_text(json.dumps(line))
    return load(path.parent)[0].images[0]


def _question(picture: Any) -> Question:
    return Question("q", "?", (picture,), "a", ("a",), "kind", "group")


def _message(part: dict[str, Any]) -> list[dict[str, Any]]:
    return [{"role": "user", "content": [part, {"type": "text", "text": "What is it?"}]}]


def _drawn(picture: Any) -> Image.Image:
    """The picture that an overlay shows beside its colours."""
    figure = overlay(picture, np.zeros((1, 1)))
    return Image.fromarray(np.asarray(figure.axes[0].images[0].get_array()))


DOORS: dict[str, Callable[[Path], Image.Image]] = {
    "path": load_picture,
    "path as text": lambda path: load_picture(str(path)),
    "opened": lambda path: load_picture(_opened(path)),
    "copied": lambda path: load_picture(_opened(path).copy()),
    "bytes": lambda path: load_picture(path.read_bytes()),
    "open file": lambda path: load_picture(io.BytesIO(path.read_bytes())),
    "folder": _by_folder,
    "question": lambda path: _question(_opened(path)).images[0],
    "prompt": lambda path: build_prompt(*llava(), "What is it?", images=[path]).images[0][0],
    "prompt of one opened": lambda path: build_prompt(*llava(), "What is it?", images=_opened(path)).images[0][0],
    "prompt of bytes": lambda path: build_prompt(*llava(), "What is it?", images=path.read_bytes()).images[0][0],
    "prompt of a question": lambda path: build_prompt(*llava(), _question(_opened(path))).images[0][0],
    "frame of a video": lambda path: Video([path]).frames[0],
    "message": lambda path: build_prompt(*llava(), _message({"type": "image", "path": str(path)})).images[0][0],
    "message of one opened": lambda path: build_prompt(*llava(), _message({"image": _opened(path)})).images[0][0],
    "opened, no patch masked": lambda path: mask_patches(_opened(path), WHOLE, ()),
    "opened, drawn": lambda path: _drawn(_opened(path)),
    "opened frame of a video": lambda path: load_videos([[_opened(path)]])[0].frames[0],
}
ALL = pytest.mark.parametrize("door", list(DOORS.values()), ids=list(DOORS))


def _turned(pixels: np.ndarray, orientation: int) -> np.ndarray:
    """What people see of stored pixels, by the definition of the tag: where row 0 and column 0 lie."""
    return {
        1: pixels,
        2: pixels[:, ::-1],
        3: pixels[::-1, ::-1],
        4: pixels[::-1],
        5: pixels.transpose(1, 0, 2),
        6: np.rot90(pixels, -1),
        7: pixels[::-1, ::-1].transpose(1, 0, 2),
        8: np.rot90(pixels, 1),
    }[orientation]


@ALL
@pytest.mark.parametrize("orientation", range(1, 9))
def test_an_orientation_tag_turns_the_picture(door, orientation: int, tmp_path: Path):
    exif = Image.Exif()
    exif[0x0112] = orientation
    path = tmp_path / "tagged.png"
    Image.fromarray(_colours()).save(path, exif=exif)
    seen = door(path)
    assert np.array_equal(np.asarray(seen), _turned(_colours(), orientation))
    assert seen.mode == "RGB" and not seen.info and load_picture(seen) == seen


@pytest.mark.parametrize("orientation", [1, 3, 6])
def test_inputs_beside_an_opened_picture_that_its_tag_turns_are_refused(orientation: int, tmp_path: Path):
    """They may be of the pixels as stored, or of those that are seen; the boxes of patches would differ."""
    exif = Image.Exif()
    exif[0x0112] = orientation
    path = tmp_path / "tagged.png"
    Image.fromarray(_colours()).save(path, exif=exif)
    processor, config = llava()
    inputs = build_prompt(processor, config, "What is it?", images=[path]).inputs
    if orientation == 1:
        assert build_prompt(processor, config, inputs=inputs, images=[_opened(path)]).images[0][0].size == (12, 7)
        return
    for given in ([_opened(path)], [[_opened(path)]], _opened(path)):
        with pytest.raises(InputError, match="orientation tag"):
            build_prompt(processor, config, inputs=inputs, images=given)
    upright = build_prompt(processor, config, inputs=inputs, images=[path])  # a processor turns what it loads itself
    assert upright.images[0][0] == load_picture(path)


def _grey_16(path: Path) -> None:
    Image.fromarray(np.arange(84, dtype=np.uint16).reshape(7, 12) * 700).save(path)


def _cut_short(path: Path) -> None:
    Image.fromarray(_colours()).resize((200, 90)).save(path)
    path.write_bytes(path.read_bytes()[:4000])


def _animation(path: Path) -> None:
    _frames(3)[0].save(path, format="GIF", save_all=True, append_images=_frames(3)[1:], duration=[70, 130, 200])


def _float(path: Path) -> None:
    Image.fromarray(np.linspace(0, 1, 84, dtype=np.float32).reshape(7, 12)).save(path, format="TIFF")


def _pages(path: Path) -> None:
    _frames(3)[0].save(path, format="TIFF", save_all=True, append_images=_frames(3)[1:])


@ALL
@pytest.mark.parametrize(
    ("write", "reason"),
    [
        (_grey_16, "mode 'I;16'; convert it to 8 bits"),
        (_float, "mode 'F'; convert it to 8 bits"),
        (_cut_short, "cut short"),
        (_animation, "holds 3 frames or pages"),
        (_pages, "holds 3 frames or pages"),
    ],
)
def test_what_is_no_picture_of_8_bits_is_refused_everywhere(door, write, reason: str, tmp_path: Path, request):
    if write in (_grey_16, _animation, _pages) and "copied" in request.node.name:
        pytest.skip("a copy is of one frame, in a mode of its own")
    path = tmp_path / "odd.png"
    write(path)
    if write is _cut_short and "copied" in request.node.name:
        pytest.skip("Pillow itself refuses to copy it")
    with pytest.raises(InputError, match=reason):
        door(path)


@ALL
def test_more_pixels_than_pillow_allows_are_refused_everywhere(door, tmp_path: Path, monkeypatch, request):
    path = tmp_path / "large.png"
    Image.fromarray(_colours()).save(path)
    if any(word in request.node.name for word in ("opened", "copied", "question")):
        opened = _opened(path)
        monkeypatch.setattr(Image, "open", lambda _: opened)  # opened while it was allowed
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 40)
    with pytest.raises(InputError, match="exceeds limit|more than Pillow allows"):
        door(path)


@ALL
@pytest.mark.parametrize("mode", ["1", "L", "LA", "P", "RGBA", "CMYK"])
def test_other_modes_become_rgb_as_pillow_documents(door, mode: str, tmp_path: Path):
    picture = Image.fromarray(_colours()).convert(mode)
    path = tmp_path / ("picture.tif" if mode == "CMYK" else "picture.png")
    keywords = {"transparency": 0} if mode == "P" else {}
    picture.save(path, icc_profile=b"" if mode == "1" else b"a profile", **keywords)
    assert np.array_equal(np.asarray(door(path)), np.asarray(picture.convert("RGB")))


def test_the_main_picture_of_a_camera_with_its_preview(tmp_path: Path):
    main, preview = Image.fromarray(_colours()), Image.new("RGB", (3, 2))
    main.save(tmp_path / "camera.jpg", format="MPO", save_all=True, append_images=[preview])
    assert _opened(tmp_path / "camera.jpg").n_frames == 2
    assert load_picture(tmp_path / "camera.jpg").size == (WIDTH, HEIGHT)


def test_a_picture_without_pixels_and_names_that_are_none():
    with pytest.raises(InputError, match="no pixels"):
        load_picture(Image.new("RGB", (0, 4)))
    with pytest.raises(InputError, match="there is no file 'a{30}"):
        load_picture("a" * 5000)
    with pytest.raises(InputError, match="there is no file"):
        load_picture("a\0b.png")
    with pytest.raises(InputError, match="bytes hold is corrupted or is no picture"):
        load_picture(b"GIF89a, but not really")


def _frames(n: int) -> list[Image.Image]:
    """Frames of flat colours of the palette of a GIF, so that they come back exactly."""
    colours = ((255, 0, 0), (0, 255, 0), (0, 0, 255), (255, 255, 0))
    return [Image.new("RGB", (WIDTH, HEIGHT), colours[i]) for i in range(n)]


@pytest.mark.parametrize("kind", ["gif", "png", "webp"])
@pytest.mark.parametrize("given", ["path", "opened", "bytes", "in a list", "Video"])
def test_an_animated_picture_is_a_video_of_all_its_frames(kind: str, given: str, tmp_path: Path):
    path, frames = tmp_path / f"moving.{kind}", _frames(4)
    lossless = {"lossless": True} if kind == "webp" else {}
    frames[0].save(path, save_all=True, append_images=frames[1:], duration=[70, 130, 200, 50], **lossless)
    made = {
        "path": lambda: load_videos(path)[0],
        "opened": lambda: load_videos(_opened(path))[0],
        "bytes": lambda: load_videos(path.read_bytes(), fps=3)[0],
        "in a list": lambda: load_videos([path])[0],
        "Video": lambda: Video(str(path)),
    }[given]()
    assert [frame.getpixel((3, 2)) for frame in made.frames] == [frame.getpixel((0, 0)) for frame in frames]
    assert made.seconds == pytest.approx((0.0, 0.07, 0.2, 0.4)) and made.fps is None


def test_lists_of_animated_pictures_and_times_of_ones_own(tmp_path: Path):
    paths = [tmp_path / "a.gif", tmp_path / "b.gif"]
    for path, n in zip(paths, (2, 3), strict=True):
        _frames(n)[0].save(path, save_all=True, append_images=_frames(n)[1:], duration=100)
    assert [len(video) for video in load_videos(paths)] == [2, 3]
    assert Video(paths[1], fps=4).fps == 4 and Video(paths[1], fps=4).seconds is None
    Image.fromarray(_colours()).save(tmp_path / "still.png")
    with pytest.raises(InputError, match=r"frame 0 of video 0 of item 0.*holds 2 frames"):
        load_videos([paths[0], tmp_path / "still.png"])
    with pytest.raises(InputError, match="no animated picture; decode a file first"):
        load_videos(tmp_path / "still.png")


@pytest.mark.parametrize("size", [(300, 1), (300, 3), (1, 300), (3, 300), (30, 20)])
def test_thin_frames_reach_a_processor_as_they_are(size: tuple[int, int]):
    from transformers.image_utils import infer_channel_dimension_format

    pixels = np.random.default_rng(1).integers(0, 256, (2, size[1], size[0], 3), dtype=np.uint8)
    first, second = Video(pixels), Video(np.zeros((2, 4, 6, 3), np.uint8))
    arrays = video_arguments([(first,), (second,)])["videos"]
    found = infer_channel_dimension_format(arrays[0])  # transformers asks the first, and takes it for all
    seen = [a.transpose(0, 2, 3, 1) if found.value == "channels_first" else a for a in arrays]
    assert np.array_equal(seen[0], pixels) and seen[1].shape == (2, 4, 6, 3)
