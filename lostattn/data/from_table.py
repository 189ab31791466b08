"""Questions out of a table of one's own: a data frame, or a file of parquet, CSV, TSV or JSON lines."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from lostattn.arguments import checked_call
from lostattn.data.public.picture_cells import picture_bytes
from lostattn.data.public.tables import Row, Table, read_table, table_of
from lostattn.data.question import Question, Questions
from lostattn.data.scoring.asked_for import listed
from lostattn.errors import InputError, nearest
from lostattn.pictures.stored import StoredPictures

if TYPE_CHECKING:
    import pandas

FIELDS = ("id", "text", "images", "answer", "choices", "kind", "group", "answers", "options", "row")
_NEEDED = ("text", "answer")
_LISTS = ("choices", "answers", "options")
_OTHER_NAMES = {
    "text": ("question", "prompt"),
    "images": ("image",),
    "id": ("question_id", "index"),
    "kind": ("category",),
}


@checked_call
def from_table(
    table: pandas.DataFrame | str | Path,
    columns: Mapping[str, str] | None = None,
    folder: str | Path | None = None,
    name: str = "",
) -> Questions:
    """Questions out of a table, one a row.

    Args:
        table: a data frame, or a file that ends with .parquet, .csv, .tsv, .jsonl or .json.
        columns: which column holds what, ``{"text": "asked", "images": "photo", "answer": "gold"}``; of ``id, text,
            images, answer, choices, kind, group, answers, options, row``. A field that is not named is looked for under
            its own name, then under others that are common: ``text`` under ``question`` and ``prompt``, ``images``
            under ``image``, ``id`` under ``question_id`` and ``index``, ``kind`` under ``category``. ``choices``,
            ``answers`` and ``options`` are lists, or texts that Python writes a list as, or texts parted by ``|``;
            questions without choices are open. ``images`` holds bytes, base64, paths of files, or lists of those.
        folder: where the pictures lie that paths name; that of the file, or the working folder.
        name: of the set, for tables and figures.

    Returns:
        The questions, in the order of the table. Columns that are no field of a question are its ``facts``.

    Raises:
        InputError: no such file or column, a row without a text or a right answer, a picture that cannot be found.
    """
    import pandas as pd

    base = None if folder is None else Path(folder)
    if isinstance(table, pd.DataFrame):
        rows: Table = table_of(table, base or Path())
    else:
        rows = read_table([Path(table)], base)
        name = name or Path(table).stem
    found = _columns(rows.columns, columns or {})
    return Questions([_question(rows, i, found) for i in range(len(rows.rows))], name)


def _columns(there: tuple[str, ...], asked: Mapping[str, str]) -> dict[str, str]:
    """The column of each field that has one.

    Raises:
        InputError: a field or column that is not there, or a needed field without one.
    """
    for field, column in asked.items():
        if field not in FIELDS:
            raise InputError(
                f"columns names the field {field!r}; a question has {', '.join(FIELDS)}.{nearest(field, FIELDS)}"
            )
        if column not in there:
            told = f"the table has no column {column!r}; it has {', '.join(there)}."
            raise InputError(told + nearest(column, there))
    found = dict(asked)
    for field in FIELDS:
        names = (field, *_OTHER_NAMES.get(field, ()))
        own = next((one for one in names if one in there and one not in asked.values()), None)
        if field not in found and own is not None:
            found[field] = own
    for field in _NEEDED:
        if field not in found:
            raise InputError(
                f"the table has no column {field!r}; its columns are {', '.join(there)}. Say which it is: "
                f"columns={{{field!r}: …}}."
            )
    return found


def _question(table: Table, i: int, columns: Mapping[str, str]) -> Question:
    row = table.rows[i]
    told = {field: _text(row, column) for field, column in columns.items() if field not in ("images", *_LISTS)}
    id = told.get("id") or f"{i:05d}"
    for field in _NEEDED:
        if not told[field]:
            raise InputError(f"row {i} has nothing in the column {columns[field]!r}; every question needs its {field}.")
    lists = {field: _list(row.get(columns[field])) for field in _LISTS if field in columns}
    files = _files(table, i, columns.get("images"), id)
    facts = {key: _plain(value) for key, value in row.items() if key not in columns.values()}
    return Question(
        id=id,
        text=told["text"],
        images=StoredPictures(files, f"question {id!r}"),
        answer=told["answer"],
        choices=lists.get("choices", ()),
        kind=told.get("kind") or "question",
        group=told.get("group") or (hashlib.sha256(b"".join(files)).hexdigest()[:16] if files else id),
        answers=lists.get("answers", ()),
        options=lists.get("options", ()),
        row=told.get("row") or str(i),
        facts={key: value for key, value in facts.items() if value is not None},
    )


def _text(row: Row, column: str) -> str:
    value = row.get(column)
    return "" if value is None else str(value)


def _list(value: Any) -> tuple[str, ...]:
    if value is None or (isinstance(value, str) and not value.strip()):
        return ()
    if isinstance(value, str):
        return listed(value) or tuple(part.strip() for part in value.split("|"))
    if not hasattr(value, "__iter__"):
        raise InputError(
            f"a cell of choices, answers or options holds {value!r}; expected a list, or texts parted by |."
        )
    return tuple(map(str, value))


def _files(table: Table, i: int, column: str | None, id: str) -> tuple[bytes, ...]:
    if column is None:
        return ()
    cell = table.cells([(i, column)]).get((i, column))
    if cell is None or (isinstance(cell, str) and not cell.strip()):
        return ()
    return picture_bytes(cell, f"question {id!r}, column {column!r},", table.folder, lambda _: None)


def _plain(value: Any) -> Any:
    """A value as JSON has it; None for what it has not."""
    if hasattr(value, "item") and not hasattr(value, "__len__"):
        value = value.item()
    return value if isinstance(value, str | int | float | bool) and value == value else None
