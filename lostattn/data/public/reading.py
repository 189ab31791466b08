"""A public benchmark read: its table checked, its rows made into questions, its pictures found."""

from __future__ import annotations

import hashlib
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from lostattn.data.public.benchmark import Benchmark, Item, Split
from lostattn.data.public.drawing import draw
from lostattn.data.public.hub import fetch
from lostattn.data.public.picture_cells import LONGEST_INDEX, picture_bytes
from lostattn.data.public.tables import ParquetTable, Row, Table, TextTable, files_of, read_table
from lostattn.data.question import Question, Questions
from lostattn.errors import InputError
from lostattn.pictures.stored import StoredPictures

Placed = tuple[int, Item]
"""A question, and the row in which it stands."""


@dataclass(frozen=True)
class Where:
    """Where a benchmark is read from: a path, or the hub.

    Attributes:
        path: a file, or a folder of files; None is the hub.
        source: another id on the hub.
        revision: a commit, branch or tag there.
        stream: read over the network what is needed, instead of downloading whole files.
    """

    path: str | Path | None = None
    source: str | None = None
    revision: str | None = None
    stream: bool = False


def open_table(benchmark: Benchmark, split: Split, where: Where) -> tuple[Table, dict[str, Any]]:
    """The table of a split, and what to keep of where it came from.

    Raises:
        InputError: no such file, or the hub does not give it.
    """
    if where.path is not None:
        if where.revision or where.source or where.stream:
            raise InputError(
                "path= is read from the disk; revision=, source= and stream= are of the hub. Leave them out."
            )
        path = Path(where.path)
        files = files_of(path, split.words)
        table = read_table(files, path if path.is_dir() else path.parent)
        return table, {"files": [file.name for file in files]}
    source = where.source or benchmark.sources[0]
    fetched = fetch(source, split.files, where.revision, where.stream)
    streamed = bool(fetched.files) and not isinstance(fetched.files[0], Path)
    table = ParquetTable(fetched.files, None) if streamed else read_table(fetched.files)
    return table, {"source": source, "revision": fetched.commit, "files": fetched.names}


def check_columns(benchmark: Benchmark, table: Table, others: Mapping[str, Benchmark]) -> None:
    """Refuse a table of something else.

    Raises:
        InputError: it is empty, lacks a column, or is of another set; the message names which.
    """
    if not table.rows:
        raise InputError(f"the table has no rows; expected those of {benchmark.name}.")
    row = whole_row(table, 0)
    lacking = [" or ".join(names) for names in benchmark.needs if not any(name in table.columns for name in names)]
    if not lacking and benchmark.belongs(row):
        return
    looks = [
        name
        for name, other in others.items()
        if other is not benchmark
        and all(any(column in table.columns for column in names) for names in other.needs)
        and other.belongs(row)
    ]
    hint = f" It looks like {' or '.join(looks)}." if looks else ""
    if lacking:
        raise InputError(
            f"the table is not of {benchmark.name}: it lacks the column {', '.join(lacking)}; its columns are "
            f"{', '.join(table.columns)}.{hint}"
        )
    raise InputError(f"the table is not of {benchmark.name}, though it has its columns.{hint} Name the set that it is.")


def whole_row(table: Table, i: int) -> Row:
    """A row with every column, None where it is empty or a picture, and its number."""
    return {**dict.fromkeys(table.columns), **table.rows[i], "row number": i}


def placed_items(benchmark: Benchmark, table: Table, split: str) -> list[Placed]:
    """The questions of a split, each with its row.

    Raises:
        InputError: none, one of which the right answer is none of its options, or two of one id.
    """
    found = [(i, item) for i in range(len(table.rows)) for item in benchmark.items(whole_row(table, i), split)]
    if not found:
        raise InputError(
            f"the table has {len(table.rows)} rows and none of the split {split!r} of {benchmark.name}; its splits are "
            f"{', '.join(benchmark.splits)}."
        )
    ids = Counter(item.fields["id"] for _, item in found)
    if twice := [id for id, n in ids.items() if n > 1]:
        raise InputError(f"question {twice[0]!r} comes {ids[twice[0]]} times; is a file there twice?")
    return by_picture(benchmark, table, found)


def by_picture(benchmark: Benchmark, table: Table, items: list[Placed]) -> list[Placed]:
    """The items with what shares a picture told, where the table tells it by its cells alone."""
    if benchmark.by_picture and isinstance(table, TextTable):
        return [(i, item if item.drawn_with else _by_cell(table.rows[i], item)) for i, item in items]
    return items


def _by_cell(row: Row, item: Item) -> Item:
    """An item of a table in which rows share a picture by naming the row that holds it."""
    cell = str(row.get(item.pictures[0]) or "").strip()
    named = cell if len(cell) <= LONGEST_INDEX else str(row.get("index", item.fields["row"]))
    return replace(item, drawn_with=f"{item.fields['kind']}/{named}", shares=named)


def count_problems(split: Split, items: Sequence[Placed]) -> list[str]:
    """How the counts of rows and labels differ from the known ones."""
    found = Counter(label for _, item in items for label in item.labels)
    told = [f"{len(items)} rows instead of {split.rows}"] if len(items) != split.rows else []
    for label in sorted(set(found) | set(split.labels)) if split.labels else ():
        if found[label] != split.labels.get(label, 0):
            told.append(f"{found[label]} of {label!r} instead of {split.labels.get(label, 0)}")
    return told


def read_benchmark(
    benchmark: Benchmark,
    others: Mapping[str, Benchmark],
    split: str,
    n: int | None,
    seed: int,
    kinds: Sequence[str] | None,
    where: Where,
    allow_rows: bool,
) -> Questions:
    """Questions of a benchmark; see :func:`lostattn.data.load`.

    Raises:
        InputError: a table of something else or one that is not whole, and what `draw` and the rows refuse.
    """
    table, origin = open_table(benchmark, benchmark.splits[split], where)
    check_columns(benchmark, table, others)
    items = placed_items(benchmark, table, split)
    told = count_problems(benchmark.splits[split], items)
    # Of a file of one's own that is drawn from, only what is drawn matters; the hub's is to be the published one.
    if told and not allow_rows and (n is None or where.path is None):
        raise InputError(
            f"the split {split!r} of {benchmark.name} is not as it was published: {'; '.join(told)}. Get it again, or "
            "pass allow_rows=True to read what is there."
        )
    sizes = Counter((name, key) for _, item in items for name, key in item.fields.get("together", {}).items())
    if kinds is not None:
        items = _of_kinds(items, kinds, benchmark.name)
    if n is not None:
        groups = [item.drawn_with or f"\0{item.fields['id']}" for _, item in items]
        items = [items[k] for k in draw(groups, [item.fields["kind"] for _, item in items], n, seed)]
    facts = {"benchmark": benchmark.name, "split": split, **origin}
    return Questions(_questions(table, items, sizes, facts), f"{benchmark.name}/{split}")


def _of_kinds(items: list[Placed], kinds: Sequence[str], name: str) -> list[Placed]:
    known = list(dict.fromkeys(item.fields["kind"] for _, item in items))
    for kind in kinds:
        if kind not in known:
            raise InputError(f"{name} has no questions of kind {kind!r} there; it has {', '.join(known)}.")
    return [(i, item) for i, item in items if item.fields["kind"] in kinds]


def _questions(
    table: Table, items: Sequence[Placed], sizes: Mapping[tuple[str, str], int], facts: Mapping[str, Any]
) -> Iterator[Question]:
    pictures = PictureFiles(table, items)
    for placed in items:
        item, files = placed[1], pictures.of(placed)
        together = item.fields.get("together", {})
        own = {**facts, **item.fields.get("facts", {})}
        if together:
            own["set_sizes"] = {name: sizes[name, key] for name, key in together.items()}
        id = item.fields["id"]
        group = item.shares or (hashlib.sha256(b"".join(files)).hexdigest()[:16] if files else id)
        yield Question(
            **{**item.fields, "images": StoredPictures(files, f"question {id!r}"), "group": group, "facts": own}
        )


class PictureFiles:
    """The files of the pictures of some items; one that rows share is held once."""

    def __init__(self, table: Table, items: Sequence[Placed]) -> None:
        self._table = table
        self._cells = table.cells((i, column) for i, item in items for column in item.pictures)
        self._rows = {str(row["index"]): i for i, row in enumerate(table.rows) if "index" in row}
        self._once: dict[bytes, bytes] = {}

    def of(self, placed: Placed) -> tuple[bytes, ...]:
        """Those of one item.

        Raises:
            InputError: its row has none, or names one that is not there.
        """
        i, item = placed
        files: list[bytes] = []
        for column in item.pictures:

            def lookup(index: str, column: str = column) -> Any:
                at = self._rows.get(index)
                return None if at is None else self._table.cells([(at, column)]).get((at, column))

            where = f"question {item.fields['id']!r}, column {column!r},"
            files += picture_bytes(self._cells.get((i, column)), where, self._table.folder, lookup)
        return tuple(self._once.setdefault(hashlib.sha256(file).digest(), file) for file in files)
