"""Tables of questions in files (parquet, TSV, CSV, JSON lines): their rows at once, their pictures when asked for."""

from __future__ import annotations

import json
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from lostattn.errors import InputError
from lostattn.saved.reading import parsed_json, read_text

if TYPE_CHECKING:
    import pandas

ENDINGS = (".parquet", ".tsv", ".csv", ".jsonl", ".json")
Row = dict[str, Any]


class TextTable:
    """Rows that are held whole, pictures and all."""

    def __init__(self, rows: list[Row], columns: tuple[str, ...], folder: Path | None) -> None:
        self.rows, self.columns, self.folder = rows, columns, folder

    def cells(self, wanted: Iterable[tuple[int, str]]) -> dict[tuple[int, str], Any]:
        """What stands in some cells."""
        return {(i, column): self.rows[i].get(column) for i, column in wanted}


class ParquetTable:
    """Rows of parquet files; a picture is read from the row group in which it stands, and no other is."""

    def __init__(self, files: Sequence[Any], folder: Path | None) -> None:
        self.folder = folder
        self._files = [_opened(file) for file in files]
        self.columns = tuple(self._files[0].schema_arrow.names)
        self.rows: list[Row] = []
        self._places: list[tuple[Any, int, int]] = []  # of each row: file, row group, place in it
        for file in self._files:
            schema = file.schema_arrow
            if tuple(schema.names) != self.columns:
                raise InputError(
                    f"the parquet files have different columns: {', '.join(self.columns)} and "
                    f"{', '.join(schema.names)}; give the files of one table."
                )
            light = [field.name for field in schema if not _holds_bytes(field.type)]
            for group in range(file.num_row_groups):
                table = _read_group(file, group, light)
                n = file.metadata.row_group(group).num_rows
                self.rows += table.to_pylist() if light else [{} for _ in range(n)]
                self._places += [(file, group, place) for place in range(n)]

    def cells(self, wanted: Iterable[tuple[int, str]]) -> dict[tuple[int, str], Any]:
        """What stands in some cells, row group by row group."""
        by_group: dict[tuple[int, int], list[tuple[int, str]]] = {}
        found: dict[tuple[int, str], Any] = {}
        for i, column in dict.fromkeys(wanted):
            if column in self.rows[i]:
                found[i, column] = self.rows[i][column]
            elif column in self.columns:
                file, group, _ = self._places[i]
                by_group.setdefault((id(file), group), []).append((i, column))
        for own in by_group.values():
            file, group, _ = self._places[own[0][0]]
            table = _read_group(file, group, sorted({column for _, column in own}))
            for i, column in own:
                found[i, column] = table.column(column)[self._places[i][2]].as_py()
        return found


Table = TextTable | ParquetTable
"""Rows without the pictures that a binary column holds, and a way to those."""


def _opened(file: Any) -> Any:
    import pyarrow.parquet as pq

    try:
        found = pq.ParquetFile(file)
        found.schema_arrow  # noqa: B018  (read when it is first looked at)
        return found
    except Exception as error:  # Arrow's own, and what decoding a damaged header ends in
        raise _damaged(f"{str(file)!r:.300}", error) from error


def _read_group(file: Any, group: int, columns: list[str]) -> Any:
    try:
        table = file.read_row_group(group, columns=columns)
        table.validate(full=True)  # texts are UTF-8; Arrow itself believes it
        return table
    except Exception as error:
        raise _damaged(f"a table with the columns {', '.join(columns)[:100]} (row group {group})", error) from error


def _damaged(what: str, error: Exception) -> InputError:
    return InputError(f"{what} is no parquet file, or not a whole one ({str(error)[:200]}). Get it again.")


def _holds_bytes(kind: Any) -> bool:
    """Whether a column holds files: bytes, or bytes with a path as the hub keeps a picture."""
    import pyarrow as pa

    if pa.types.is_struct(kind):
        return any(_holds_bytes(kind.field(i).type) for i in range(kind.num_fields))
    return bool(pa.types.is_binary(kind) or pa.types.is_large_binary(kind))


def files_of(path: Path, words: Sequence[str] = ()) -> list[Path]:
    """The files of a table: the path itself, or those in a folder, of the first ending that occurs there.

    Args:
        path: a file or a folder.
        words: names of the split; where files of a folder have one of them in their names, the others are left out.

    Raises:
        InputError: no such path, or no such file in the folder.
    """
    if path.is_file():
        return [path]
    if not path.is_dir():
        raise InputError(f"there is no file or folder {str(path)!r}; give the path of a table of questions.")
    for ending in ENDINGS:
        found = sorted(one for one in path.rglob(f"*{ending}") if one.is_file())
        for word in words:
            named = [one for one in found if word in str(one.relative_to(path)).lower()]
            if named:
                return named
        if found:
            return found
    raise InputError(f"the folder {str(path)!r} holds no table; expected files that end with {', '.join(ENDINGS)}.")


def read_table(files: Sequence[Path], folder: Path | None = None) -> Table:
    """One table of files of one kind.

    Args:
        files: of one ending.
        folder: where the pictures lie that cells name by their paths; that of the first file.

    Raises:
        InputError: another ending, or what is no such file.
    """
    folder = files[0].parent if folder is None else folder
    ending = files[0].suffix.lower()
    if ending not in ENDINGS:
        raise InputError(f"{str(files[0])!r} ends with {ending or 'nothing'!r}; expected {', '.join(ENDINGS)}.")
    if ending == ".parquet":
        return ParquetTable(files, folder)
    rows = [row for file in files for row in _text_rows(file)]
    return TextTable(rows, tuple(dict.fromkeys(column for row in rows for column in row)), folder)


def table_of(frame: pandas.DataFrame, folder: Path | None) -> TextTable:
    """The rows of a data frame; what is missing is None."""
    rows = [
        {str(column): None if _missing(value) else value for column, value in row.items()}
        for row in frame.to_dict("records")
    ]
    return TextTable(rows, tuple(map(str, frame.columns)), folder)


def _missing(value: Any) -> bool:
    import pandas as pd

    return value is None or value is pd.NA or value is pd.NaT or (isinstance(value, float) and value != value)


def _text_rows(file: Path) -> list[Row]:
    ending = file.suffix.lower()
    if ending in (".tsv", ".csv"):
        import pandas as pd

        try:
            frame = pd.read_csv(file, sep="\t" if ending == ".tsv" else ",", dtype=str, keep_default_na=False)
        except (ValueError, OSError) as error:  # the parser's errors are ValueErrors
            raise InputError(f"{str(file)!r} is no table of text ({error}). Is it whole, and {ending[1:]}?") from error
        return [{str(column): value for column, value in row.items()} for row in frame.to_dict("records")]
    text = read_text(file, "table of questions")
    lines = text.split("\n") if ending == ".jsonl" else [text]
    found = [
        parsed_json(line, f"{str(file)!r}, line {n}", loose=True) for n, line in enumerate(lines, 1) if line.strip()
    ]
    rows = found[0] if ending == ".json" and found else found
    if not isinstance(rows, list) or not all(isinstance(row, dict) for row in rows):
        raise InputError(
            f"{str(file)!r} holds {json.dumps(rows)[:60]}; expected a row of the table, a dict, in each line."
        )
    return rows
