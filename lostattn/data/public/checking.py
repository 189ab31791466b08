"""Whether a file is the benchmark that it claims to be: everything that is amiss, not only the first of it."""

from __future__ import annotations

import hashlib
from collections import Counter
from dataclasses import dataclass
from pathlib import Path

from lostattn.data.public.benchmark import Benchmark
from lostattn.data.public.reading import (
    PictureFiles,
    Placed,
    Where,
    by_picture,
    check_columns,
    count_problems,
    open_table,
    whole_row,
)
from lostattn.data.public.tables import Table, files_of
from lostattn.errors import InputError
from lostattn.pictures.loading import load_picture

MOST_TOLD = 20


@dataclass(frozen=True)
class Checked:
    """What was found in a benchmark's files.

    Attributes:
        name: of the benchmark.
        split: the split that was asked for, or that the files come nearest to.
        questions: how many questions of it there are.
        pictures: how many different pictures they have.
        amiss: what is not as it ought to be; nothing where all is well.
    """

    name: str
    split: str
    questions: int
    pictures: int
    amiss: tuple[str, ...]

    def __str__(self) -> str:
        found = f"{self.name}/{self.split}: {self.questions} questions, {self.pictures} pictures"
        if not self.amiss:
            return f"{found}; nothing amiss"
        more = [f"… and {len(self.amiss) - MOST_TOLD} more"] if len(self.amiss) > MOST_TOLD else []
        return "\n".join([f"{found}; {len(self.amiss)} amiss:", *self.amiss[:MOST_TOLD], *more])


def check_files(benchmark: Benchmark, others: dict[str, Benchmark], split: str | None, where: Where) -> Checked:
    """Read every row and every picture of a benchmark's files.

    Raises:
        InputError: there are no such files, or they are of another set.
    """
    found: list[Checked] = []
    opened: dict[tuple[str, ...], Table] = {}  # several splits are in one file, mostly
    for name in benchmark.splits if split is None else (split,):
        table = _opened(benchmark, name, where, opened)
        check_columns(benchmark, table, others)
        items, amiss = _items(benchmark, table, name)
        if items or amiss or split is not None:
            counts = count_problems(benchmark.splits[name], items)
            found.append(Checked(benchmark.name, name, len(items), 0, (*counts, *amiss)))
    if not found:
        raise InputError(f"the table has no row of any split of {benchmark.name} ({', '.join(benchmark.splits)}).")
    # Where no split is named, it is the one that the files are, or come nearest to.
    nearest = min(found, key=lambda one: (len(one.amiss), abs(one.questions - benchmark.splits[one.split].rows)))
    table = _opened(benchmark, nearest.split, where, opened)
    pictures, spoilt = _pictures(table, _items(benchmark, table, nearest.split)[0])
    return Checked(nearest.name, nearest.split, nearest.questions, pictures, (*nearest.amiss, *spoilt))


def _opened(benchmark: Benchmark, split: str, where: Where, opened: dict[tuple[str, ...], Table]) -> Table:
    """The table of a split, read once for all splits that are in the same files."""
    known = benchmark.splits[split]
    files = known.files if where.path is None else tuple(map(str, files_of(Path(where.path), known.words)))
    if files not in opened:
        opened[files] = open_table(benchmark, known, where)[0]
    return opened[files]


def _items(benchmark: Benchmark, table: Table, split: str) -> tuple[list[Placed], list[str]]:
    """The questions of a split, and what is wrong with rows that are none."""
    found: list[Placed] = []
    amiss = []
    for i in range(len(table.rows)):
        try:
            found += [(i, item) for item in benchmark.items(whole_row(table, i), split)]
        except InputError as error:
            amiss.append(f"row {i}: {error}")
    ids = Counter(item.fields["id"] for _, item in found)
    amiss += [f"question {id!r} comes {n} times" for id, n in ids.items() if n > 1]
    return by_picture(benchmark, table, found), amiss


def _pictures(table: Table, items: list[Placed]) -> tuple[int, list[str]]:
    """How many different pictures there are, and which cannot be read."""
    seen: set[bytes] = set()
    amiss = []
    pictures = PictureFiles(table, items)
    for placed in items:
        try:
            for file in pictures.of(placed):
                if (digest := hashlib.sha256(file).digest()) not in seen:
                    load_picture(file, f"a picture of question {placed[1].fields['id']!r}")
                    seen.add(digest)
        except InputError as error:
            amiss.append(f"row {placed[0]}: {error}")
    return len(seen), amiss
