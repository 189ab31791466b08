"""What the ids around a picture's tokens say of its pieces: tiles and the whole, and where rows of tiles end."""

from __future__ import annotations

import re
from collections.abc import Sequence
from itertools import groupby

from lostattn.prompt.layouts.base import Batch

_TILE = re.compile(r"row_(\d+)_col_(\d+)")
_AT_END = re.compile(r"<(row_\d+_col_\d+|global-img)>$")
_LONGEST = 24
"""How many tokens a mark may be of that is plain text to the tokenizer."""

Place = tuple[int, int]
Piece = tuple[str, Place | None]
"""The role and the (row, column) of a piece of a picture, as in `lostattn.pictures.patch_grid.PatchGrid`."""


def image_runs(row: Sequence[int], image_id: int | None) -> list[tuple[int, int]]:
    """Where each unbroken run of image tokens begins in the ids of an item, and how long it is."""
    found, at = [], 0
    for is_image, run in groupby(row, lambda token: token == image_id):
        length = len(list(run))
        if is_image:
            found.append((at, length))
        at += length
    return found


def item_of_each(batch: Batch, counts: Sequence[int]) -> list[list[int]] | None:
    """Which pieces each item holds, by the number of their tokens; None where ids are not known or do not add up."""
    if batch.ids is None:
        return None
    items: list[list[int]] = []
    at = 0
    for row in batch.ids:
        left, own = sum(token == batch.image_id for token in row), []
        while left > 0 and at < len(counts):
            own.append(at)
            left -= counts[at]
            at += 1
        if left:
            return None
        items.append(own)
    return items if at == len(counts) else None


def marked_pieces(batch: Batch, row: Sequence[int]) -> list[list[Piece]] | None:
    """The pieces of each picture of an item, as the marks before them say it; None where marks say nothing.

    Marks are read as text (``<row_1_col_2>``, ``<global-img>``, ``<|img_thumbnail|>``). Where there are just two, the
    first is that of a whole picture and the other that of the tiles that follow it at once.
    """
    runs = image_runs(row, batch.image_id)
    if any(start == 0 for start, _ in runs):
        return None
    before = [row[start - 1] for start, _ in runs]
    tokenizer = getattr(batch.processor, "tokenizer", None)
    name = getattr(tokenizer, "convert_ids_to_tokens", None)
    said = None if name is None else _by_name([str(name(token)) for token in before])
    if said is None and tokenizer is not None and hasattr(tokenizer, "decode"):
        said = _by_name([_end_of(tokenizer.decode(row[max(0, start - _LONGEST) : start])) for start, _ in runs])
    if said is not None or len(set(before)) != 2:
        return said
    after = [row[start + n] if start + n < len(row) else None for start, n in runs]
    return (
        _by_two([token == before[0] for token in before], runs)
        if len(set(zip(before, after, strict=True))) == 2
        else None
    )


def _end_of(text: str) -> str:
    """The mark that a text ends in, where it is one to read and no token of its own (Idefics 3); empty where none."""
    found = _AT_END.search(text)
    return found[0] if found else ""


def _by_name(marks: Sequence[str]) -> list[list[Piece]] | None:
    images: list[list[Piece]] = [[]]
    for mark in marks:
        if found := _TILE.search(mark):
            place = (int(found[1]) - 1, int(found[2]) - 1)
            if place == (0, 0) and images[-1]:
                images.append([])
            images[-1].append(("tile", place))
        elif "global" in mark or "thumbnail" in mark:  # closes an image: it comes last
            images[-1].append(("thumbnail" if images[-1] else "whole", None))
            images.append([])
        else:
            return None
    return images if images[-1] else images[:-1]


def _by_two(whole: Sequence[bool], runs: Sequence[tuple[int, int]]) -> list[list[Piece]] | None:
    gaps = [start - sum(runs[k]) for k, (start, _) in enumerate(runs[1:])]
    if any(not 2 <= gap <= 3 for gap, starts_one in zip(gaps, whole[1:], strict=True) if not starts_one):
        return None  # an end and a start mark, and a line break between rows of tiles
    starts = [k for k, one in enumerate(whole) if one] + [len(whole)]
    images: list[list[Piece]] = []
    for first, end in zip(starts[:-1], starts[1:], strict=True):
        places = tile_places(runs[first + 1 : end])
        role = "thumbnail" if places else "whole"
        images.append([(role, None), *(("tile", place) for place in places)])
    return images


def tile_places(runs: Sequence[tuple[int, int]]) -> list[Place | None]:
    """The row and column of each of some tiles, by what stands between them.

    Two tiles of a row have the end mark of one and the start mark of the other between them, and nothing else; more
    than that ends a row. All None where the rows so found are not of one length.
    """
    rows: list[int] = []
    for k, (start, _) in enumerate(runs):
        ended = k and start - sum(runs[k - 1]) > 2
        if not k or ended:
            rows.append(0)
        rows[-1] += 1
    if len(set(rows)) > 1:
        return [None] * len(runs)
    return [(r, c) for r, n in enumerate(rows) for c in range(n)]
