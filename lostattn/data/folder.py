"""Questions in a folder: `questions.jsonl`, one question a line, beside the picture files that it names.

Here a question is a `Row`: its fields, and its pictures.
"""

from __future__ import annotations

import json
import os
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

from PIL import Image

from lostattn.errors import InputError
from lostattn.files import check_run, write_folder
from lostattn.files.recovery import reading
from lostattn.pictures.loading import load_picture
from lostattn.saved.inside import inside
from lostattn.saved.reading import parsed_json, read_bytes, read_text
from lostattn.saved.shape import NUMBER, MapOf, checked, either

FILE = "questions.jsonl"
LARGEST_PICTURE = 1 << 29  # bytes of a picture's file
_NEEDED = ("text", "images", "answer")
_WORD = either(str, NUMBER)  # a label may be written as the number that it is
_LINE = {
    "text": str,
    "images": either(str, [str]),
    "answer": _WORD,
    "id?": _WORD,
    "choices?": either(None, [_WORD]),
    "kind?": _WORD,
    "group?": _WORD,
    "open?": bool,
    "answers?": [_WORD],
    "options?": [_WORD],
    "together?": MapOf(_WORD),
    "row?": _WORD,
    "facts?": dict,
}
_FIELDS = ("id", "text", "images", "answer", "choices", "kind", "group")  # in the order of a line
_MORE = ("answers", "options", "together", "row", "facts")  # where a question has them

Row = tuple[dict[str, Any], Sequence[Image.Image]]
"""The fields of a question but its pictures (id, text, answer, choices, kind, group, …), and the pictures."""


def write_rows(rows: Iterable[Row], folder: str | Path) -> Path:
    """Write questions to a folder that does not exist yet, or is empty; whole or not at all, sealed by ``run.json``.

    Raises:
        InputError: the folder holds something already, or cannot be written.
        NoRoom: the disk is full; the message says where the questions were kept instead.
    """
    folder = Path(folder)
    if folder.exists() and (not folder.is_dir() or any(folder.iterdir())):
        raise InputError(f"{folder} exists and is not an empty folder; name a new one to save questions to.")
    kept = list(rows)

    def fill(place: Path) -> None:
        (place / "images").mkdir()
        with (place / FILE).open("w", encoding="utf-8") as lines:
            for i, (fields, pictures) in enumerate(kept):
                names = [f"images/{i:05d}-{k}.png" for k in range(len(pictures))]
                for name, image in zip(names, pictures, strict=True):
                    image.save(place / name)
                held = {**fields, "images": names}
                entry = {name: held[name] for name in (*_FIELDS, *_MORE) if name in held}
                lines.write(_line(entry if held["choices"] else {**entry, "open": True}) + "\n")

    return write_folder(folder, fill, fresh=True)


def _line(entry: dict[str, Any]) -> str:
    """A question as a line of JSON.

    Raises:
        InputError: a text with half a surrogate pair, which is no character and has no place in a file of UTF-8.
    """
    line = json.dumps(entry, ensure_ascii=False)
    _check_characters(line, f"question {entry['id']!r}")
    return line


def _check_characters(text: str, where: str) -> None:
    halves = [hex(ord(c)) for c in text if 0xD800 <= ord(c) <= 0xDFFF]
    if halves:
        raise InputError(f"{where} holds {halves[0]}, half of a surrogate pair and no character; take it out.")


def read_rows(folder: str | Path, keep_broken: bool = False) -> list[Row]:
    """The questions of a folder, in its order.

    With `keep_broken` a question whose pictures cannot be read has none, and a field `trouble` that says why.

    A line of `questions.jsonl` needs `text`, `images` (paths relative to the folder) and `answer`; `id`,
    `choices`, `kind` and `group` may be left out, and so may what :class:`Question` has beside these (`answers`,
    `options`, `together`, `row`, `facts`); `open` is true where there is nothing to choose from. Nothing outside the
    folder is read, whatever its lines or links say.

    Raises:
        InputError: no such folder or file, a line that is no such question, a picture that cannot be read or lies
            outside the folder, or files that are not those that the folder's seal holds.
    """
    folder = Path(folder)
    with reading(folder):
        rows = _rows(folder, keep_broken)
        if not any("trouble" in fields for fields, _ in rows):
            check_run(folder)  # last: what cannot be read at all is told by its question
        return rows


def _rows(folder: Path, keep_broken: bool) -> list[Row]:
    if not os.path.lexists(folder / FILE):
        raise InputError(f"{folder} holds no {FILE}. Write one question a line there, or use Questions.save.")
    text = read_text(inside(folder, FILE, str(folder)), "questions, one a line of JSON")
    rows = []
    # Lines end where JSON's do: a text may hold other marks that Python ends lines at, such as U+2028.
    for number, line in enumerate(text.split("\n"), start=1):
        if line.strip():
            rows.append(_row(folder, number, line, keep_broken))
    answers: dict[str, set[str]] = {}
    for fields, _ in rows:
        answers.setdefault(fields["kind"], set()).update({fields["answer"], *fields.get("answers", ())})
    # Where a line names no choices, whatever is right for some question of its kind is admissible.
    return [
        ({**fields, "choices": tuple(sorted(answers[fields["kind"]]) if choices is None else choices)}, pictures)
        for fields, pictures in rows
        for choices in [fields["choices"]]
    ]


def _row(folder: Path, number: int, line: str, keep_broken: bool) -> Row:
    where = f"{folder / FILE}, line {number}"
    entry = parsed_json(line, where)
    if not isinstance(entry, dict) or any(key not in entry for key in _NEEDED):
        raise InputError(f"{where}: a question needs the keys {', '.join(_NEEDED)}; got {line[:80]!r}.")
    checked(entry, _LINE, where, "question")
    name = str(entry.get("id", f"{number:05d}"))
    paths = [entry["images"]] if isinstance(entry["images"], str) else list(entry["images"])
    fields: dict[str, Any] = {
        "id": name,
        "text": str(entry["text"]),
        "answer": str(entry["answer"]),
        "choices": () if entry.get("open") else _words(entry.get("choices")) or None,
        "kind": str(entry.get("kind", "question")),
        "group": str(entry.get("group", "+".join(str(p) for p in paths) or name)),
    }
    fields |= {key: _words(entry[key]) for key in ("answers", "options") if key in entry}
    fields |= {"together": {key: str(value) for key, value in entry["together"].items()}} if "together" in entry else {}
    fields |= {"row": str(entry["row"])} if "row" in entry else {}
    fields |= {"facts": entry["facts"]} if "facts" in entry else {}
    if entry.get("open") and entry.get("choices"):
        raise InputError(
            f"{where}: an open question has no choices; got {entry['choices']!r:.80}. Drop one of the two."
        )
    try:
        return fields, tuple(read_image(folder, p, name) for p in paths)
    except InputError as error:
        if not keep_broken:
            raise
        return {**fields, "trouble": str(error)}, ()


def _words(values: Iterable[Any] | None) -> tuple[str, ...]:
    return tuple(map(str, values or ()))


def read_image(folder: Path, name: str, question_id: str) -> Image.Image:
    """A picture of a folder as a prompt reads it: whole, upright, as RGB.

    Raises:
        InputError: it is missing, corrupted, no picture that a prompt takes, or lies outside the folder; the message
            names the file and the question.
    """
    path, shown = inside(folder, name, f"Question {question_id[:200]!r}"), str(folder / name)[:400]
    if not os.path.exists(path):
        raise InputError(f"Question {question_id[:200]!r} names the image file {shown}, which does not exist.")
    try:
        content = read_bytes(path, "a picture", LARGEST_PICTURE)
        return load_picture(content, f"The image file {shown} of question {question_id[:200]!r}")
    except InputError as error:
        raise InputError(f"{error} Replace the file, or drop the question.") from error
