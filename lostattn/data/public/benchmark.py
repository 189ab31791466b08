"""What a public benchmark is to a reader: where it lies, what its rows must hold, and how one becomes a question."""

from __future__ import annotations

import string
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from lostattn.data.public.tables import Row
from lostattn.errors import InputError

LETTERS = string.ascii_uppercase
LETTER_REQUEST = "Answer with the option's letter only."


@dataclass(frozen=True)
class Item:
    """A row as a question without its pictures.

    Attributes:
        fields: of the question (`id`, `text`, `answer`, `choices`, `kind`, `together`, …).
        pictures: the columns that hold its pictures, in the order in which they are shown.
        labels: what the known counts count: the answer, or the type of the question.
        drawn_with: what is drawn as one; None where the question stands alone.
        shares: what it shares with other questions, so that they are not independent; None: its pictures' own pixels.
    """

    fields: Mapping[str, Any]
    pictures: tuple[str, ...]
    labels: tuple[str, ...]
    drawn_with: str | None = None
    shares: str | None = None


@dataclass(frozen=True)
class Split:
    """A part of a benchmark.

    Attributes:
        rows: how many it has when it is whole.
        labels: how many of each label.
        files: patterns of its files on the hub.
        words: what its files are called by in a folder of files.
        source: the id on the hub, where it is not the benchmark's first.
    """

    rows: int
    labels: Mapping[str, int] = field(default_factory=dict)
    files: tuple[str, ...] = ("*.parquet",)
    words: tuple[str, ...] = ()
    source: str | None = None


@dataclass(frozen=True)
class Benchmark:
    """A public benchmark.

    Attributes:
        name: what `load` knows it by.
        sources: its ids on the hub; the first is taken.
        splits: its parts by name; the first is taken where none is named.
        needs: columns that its rows have; of several names in one entry any.
        belongs: whether a row, its columns given, is one of it rather than of another set.
        items: the questions of a row in a split: none where the row is of another split.
        protocols: the public protocols of scoring that are meant for it.
        licence: of the questions.
        by_picture: what shares a picture is drawn together.
    """

    name: str
    sources: tuple[str, ...]
    splits: Mapping[str, Split]
    needs: tuple[tuple[str, ...], ...]
    belongs: Callable[[Row], bool]
    items: Callable[[Row, str], Sequence[Item]]
    protocols: tuple[str, ...]
    licence: str
    by_picture: bool = False


# Cells ------------------------------------------------------------------------------------------------


def text_of(row: Row, *names: str) -> str:
    """The first of some cells that holds something, as text; "" where none does."""
    for name in names:
        value = row.get(name)
        if value is not None and value == value and str(value).strip().lower() not in ("", "nan", "none"):
            return str(value).strip()
    return ""


def words_of(row: Row, *names: str) -> str:
    """As :func:`text_of`, but a cell that holds the word "None" or "nan" as an answer or option is kept."""
    for name in names:
        value = row.get(name)
        if value is not None and value == value and str(value).strip():
            return str(value).strip()
    return ""


def options_in(row: Row, letters: str = LETTERS) -> dict[str, str]:
    """The options in columns A, B, …; one that is missing is an empty cell or the word "nan"."""
    found = {letter: words_of(row, letter) for letter in letters if letter in row}
    return {letter: text for letter, text in found.items() if text and text.lower() != "nan"}


def lettered(question: str, options: Mapping[str, str]) -> str:
    """A question with its options, one a line, and the request for a letter."""
    lines = "\n".join(f"{letter}. {text}" for letter, text in options.items())
    return f"{question}\nOptions:\n{lines}\n{LETTER_REQUEST}"


def one_of(answer: str, choices: Sequence[str], where: str) -> str:
    """A right answer that is one of the choices, as they spell it.

    Raises:
        InputError: it is empty, or none of them.
    """
    same = [choice for choice in choices if choice.lower() == answer.lower()]
    if not answer or len(same) != 1:
        told = "has no right answer" if not answer else f"has the right answer {answer!r}"
        raise InputError(
            f"{where} {told}; expected one of {', '.join(choices)}. A split whose answers are held back has none."
        )
    return same[0]
