"""Folders of questions from strangers: they read nothing but their own files, and are read or refused."""

from __future__ import annotations

import json
import os
from pathlib import Path

import pytest
from damaged_files import ALIENS, DEEP, cut
from PIL import Image

from lostattn.data import Question, Questions, load
from lostattn.data.folder import FILE
from lostattn.errors import InputError

SOUND = {"text": "What?", "images": ["a.png"], "answer": "no"}


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A folder of one question, beside a picture that is nobody's business."""
    Image.new("RGB", (5, 3), "red").save(tmp_path / "secret.png")
    mine = tmp_path / "mine"
    (mine / "images").mkdir(parents=True)
    Image.new("RGB", (4, 6)).save(mine / "a.png")
    Image.new("RGB", (7, 2)).save(mine / "images" / "b.png")
    return mine


def write(folder: Path, *entries: object) -> None:
    (folder / FILE).write_text("\n".join(one if isinstance(one, str) else json.dumps(one) for one in entries))


def refusal(folder: Path) -> str:
    with pytest.raises(InputError) as told:
        load(folder)
    assert len(str(told.value)) < 1500 and str(folder.name) in str(told.value)
    return str(told.value)


def outside(folder: Path) -> list[str]:
    secret = folder.parent / "secret.png"
    (folder / "link.png").symlink_to(secret)
    (folder / "up").symlink_to(folder.parent)
    (folder / "images" / "link.png").symlink_to("../../secret.png")
    (folder / "twice.png").symlink_to("link.png")
    return [
        str(secret),
        "../secret.png",
        "images/../../secret.png",
        "images/../a.png",
        "./../secret.png",
        "..",
        "link.png",
        "up/secret.png",
        "images/link.png",
        "twice.png",
        "/etc/passwd",
        "//etc/passwd",
        "/proc/self/environ",
        "..\\secret.png",
        "images\\..\\..\\secret.png",
        "C:\\secret.png",
        "c:secret.png",
        "\\\\host\\share\\a.png",
        f"file://{secret}",
        f"FILE:{secret}",
        "http://127.0.0.1:9/a.png",
        "https:a.png",
        "data:image/png;base64,AAAA",
        "s3://bucket/a.png",
        "",
        ".",
        "./",
        "images/..",
        "a.png\x00",
        "a\n.png",
    ]


def test_pictures_outside_the_folder_are_refused_by_name(folder):
    for name in outside(folder):
        for images in (name, [name], ["a.png", name]):
            write(folder, {**SOUND, "images": images})
            told = refusal(folder)
            assert "names the file" in told and "reads its own files alone" in told, name


def test_pictures_inside_it_are_read_by_whatever_way(folder, tmp_path):
    (folder / "link.png").symlink_to("images/b.png")
    (folder / "deep").symlink_to(folder / "images")
    names = ["a.png", "./a.png", "images/b.png", "link.png", "deep/b.png", "images//b.png"]
    write(folder, {**SOUND, "images": names})
    sizes = [(4, 6), (4, 6), (7, 2), (7, 2), (7, 2), (7, 2)]
    assert [picture.size for picture in load(folder)[0].images] == sizes
    (tmp_path / "by a link").symlink_to(folder)
    assert len(load(tmp_path / "by a link")[0].images) == len(names)
    odd = "name: with … ö 'quotes' ~ $HOME %2e%2e.png"
    Image.new("RGB", (2, 9)).save(folder / odd)
    write(folder, {**SOUND, "images": odd})
    assert load(folder)[0].images[0].size == (2, 9)


def test_a_snapshot_of_the_hub_is_read_from_its_blobs(folder, tmp_path):
    """There every file is a link to a blob beside the snapshots; what a blob itself links to is none of its own."""
    repository = tmp_path / "datasets--mine--few"
    snapshot = repository / "snapshots" / "0123abc"
    for below in (snapshot / "images", repository / "blobs", repository / "refs"):
        below.mkdir(parents=True)
    write(folder, {**SOUND, "images": ["images/b.png"]})
    for name, blob in ((FILE, "1f"), ("images/b.png", "2e")):
        (folder / name).rename(repository / "blobs" / blob)
        (snapshot / name).symlink_to(os.path.relpath(repository / "blobs" / blob, (snapshot / name).parent))
    assert load(snapshot)[0].images[0].size == (7, 2)
    (repository / "blobs" / "2e").unlink()
    (repository / "blobs" / "2e").symlink_to(tmp_path / "secret.png")
    assert "a link that leads out" in refusal(snapshot)
    (repository / "blobs").rename(repository / "others")
    with pytest.raises(InputError):
        load(snapshot)


def test_questions_that_lie_elsewhere_are_not_read(folder, tmp_path):
    (tmp_path / "notes.txt").write_text("my own words")
    (folder / FILE).symlink_to(tmp_path / "notes.txt")
    assert "my own words" not in refusal(folder)


def test_what_is_no_file_is_refused_at_once(folder):
    os.mkfifo(folder / "pipe.png")
    (folder / "zero.png").symlink_to("/dev/zero")
    (folder / "round.png").symlink_to("round.png")
    for name in ("pipe.png", "zero.png", "round.png", "images", "n" * 300 + ".png", "missing.png"):
        write(folder, {**SOUND, "images": [name]})
        assert name[:100] in refusal(folder)
    (folder / FILE).unlink()
    os.mkfifo(folder / FILE)
    assert "a pipe" in refusal(folder)
    for name in (folder / "a.png", "\x00", "n" * 300):
        with pytest.raises(InputError, match="No data set or folder is called|expected a path"):
            load(name)


@pytest.mark.parametrize("key", [*SOUND, "id", "choices", "kind", "group"])
def test_a_line_with_something_else_in_a_field_is_refused_or_read_as_it_stands(key, folder):
    read = []
    for alien in [*ALIENS, ["a", 3, None], [["a.png"]], {"0": "a.png"}, "123"]:
        write(folder, json.dumps({**SOUND, key: alien}))
        try:
            read.append((alien, load(folder)[0]))
        except InputError as error:
            assert f"{FILE}, line 1" in str(error) or "names the" in str(error) or "is none of" in str(error)
    found = [(alien, getattr(question, key)) for alien, question in read if key not in ("images", "choices")]
    assert all(value == str(alien) for alien, value in found if not isinstance(alien, bool))
    assert not any(alien is None or isinstance(alien, bool | list | dict) for alien, _ in found)
    if key in ("images", "choices"):
        assert not any(isinstance(alien, str | dict | bool | float) for alien, _ in read)


def test_what_stood_for_choices_and_answers_without_being_any(folder):
    for entry, told in [
        ({**SOUND, "choices": "123"}, "choices is '123'; expected null or a list of"),
        ({**SOUND, "answer": None}, "answer is None; expected text or a number"),
        ({**SOUND, "images": {"a.png": 1}}, "images is a dict; expected text or a list of text"),
        ({**SOUND, "images": None}, "images is None"),
        ({**SOUND, "text": 3}, "text is 3; expected text"),
        ({**SOUND, "choices": ["yes"]}, "the answer 'no' is none of the choices"),
    ]:
        write(folder, entry)
        assert told in refusal(folder)
    write(folder, {**SOUND, "answer": 3, "choices": [3, 4], "id": 17, "group": 5})
    question = load(folder)[0]
    assert (question.answer, question.choices, question.id, question.group) == ("3", ("3", "4"), "17", "5")


def test_lines_that_are_no_lines(folder):
    for line in (DEEP, '{"a":' * 100_000, "NaN", "3", "[1]", '"text"', "null", '{"text": "a", "text": "b"}', "\x00"):
        write(folder, SOUND, line)
        assert f"{FILE}, line 2" in refusal(folder)
    for told, content in cut(json.dumps(SOUND).encode()):
        (folder / FILE).write_bytes(content)
        if content:
            assert refusal(folder), told
    write(folder, {**SOUND, "id": "a"}, {**SOUND, "id": "a"})
    assert "'a' comes 2 times" in refusal(folder)


TEXTS = ("id", "text", "answer", "kind", "group")
NO_TEXTS = ("no", None, 3, {"no"}, ("no", 3), ("no", None), ["no", ["a"]])
NO_PICTURES = ("a.png", None, 3, Path("a.png"), Image.new("RGB", (2, 3)), (3,), (None,), ([],))


@pytest.mark.parametrize(
    ("field", "value"),
    [
        *((name, odd) for name in TEXTS for odd in (None, 3, ["a"], Path("a"), b"a")),
        *(("choices", odd) for odd in NO_TEXTS),
        *(("images", odd) for odd in NO_PICTURES),
    ],
)
def test_a_question_of_something_else_is_refused(field, value):
    fields = {"id": "q", "text": "?", "images": (), "answer": "no", "choices": ("no",), "kind": "k", "group": "g"}
    question = object.__new__(Question)  # past what checks types in tests alone
    for name, one in {**fields, field: value}.items():
        object.__setattr__(question, name, one)
    with pytest.raises(InputError, match="expected (a tuple|text)|image 0 of question"):
        question.__post_init__()
    assert Questions([Question(**fields)])[0].choices == ("no",)


def test_a_picture_that_bursts_is_one_clear_error(folder, monkeypatch):
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 100)
    Image.new("1", (40, 40)).save(folder / "a.png")
    write(folder, SOUND)
    assert "more pixels than Pillow allows" in refusal(folder)


def test_formats_that_run_programs_are_not_read(folder):
    """An EPS picture is drawn by Ghostscript, which is a program of its own; it is not even asked for."""
    eps = b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 4 6\n%%EndComments\nshowpage\n%%EOF\n"
    for content in (eps, b"SIMPLE  =                    T", b"#define im_width 4\n#define im_height 6\nstatic"):
        (folder / "a.png").write_bytes(content)
        write(folder, SOUND)
        assert "expected one of PNG, JPEG" in refusal(folder)
