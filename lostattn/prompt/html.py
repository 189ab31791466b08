"""How a prompt shows itself in a notebook: its pictures, its question, what its tokens are."""

from __future__ import annotations

import base64
import html
import io
from collections.abc import Iterable, Mapping, Sequence
from itertools import islice
from typing import NamedTuple

from PIL import Image

from lostattn.pictures.videos import Video

_SHOWN = 8
_SIDE = 128


class Row(NamedTuple):
    """What is shown of an item.

    Attributes:
        id: its identity.
        pictures, videos: as it holds them.
        n_images: how many images and videos it has, those too of which it holds a tensor alone.
        text: its question.
        counts: the number of positions of each part.
    """

    id: str
    pictures: Sequence[Image.Image]
    videos: Sequence[Video]
    n_images: int
    text: str
    counts: Mapping[str, int]


def prompt_html(rows: Iterable[Row], batch: int, n_pos: int) -> str:
    """One row an item (the first eight): thumbnails, question, positions of each part; text escaped.

    Args:
        rows: of all items, or of the first ones.
        batch: the number of items.
        n_pos: the number of positions, padding included.
    """
    shown = "".join(map(_item_html, islice(rows, _SHOWN)))
    more = f"<p>and {batch - _SHOWN} more</p>" if batch > _SHOWN else ""
    return (
        f"<div><p><b>Prompt</b> of {batch} x {n_pos} positions</p>"
        f"<table><tr><th>id</th><th>images</th><th>question</th><th>positions</th></tr>"
        f"{shown}</table>{more}</div>"
    )


def _item_html(row: Row) -> str:
    shown = "".join(map(_thumbnail, row.pictures))
    shown += "".join(f"{_thumbnail(video.frames[0])}{len(video)} frames" for video in row.videos)
    if not shown and row.n_images:
        shown = f"{row.n_images} (as a tensor)"
    counts = "<br>".join(f"{name} {n}" for name, n in row.counts.items())
    question = html.escape(row.text).replace("\n", "<br>")
    return (
        f"<tr><td>{html.escape(row.id)}</td><td>{shown}</td>"
        f'<td style="text-align:left">{question}</td><td style="text-align:left">{counts}</td></tr>'
    )


def _thumbnail(picture: Image.Image) -> str:
    small = picture.copy()
    small.thumbnail((_SIDE, _SIDE))
    file = io.BytesIO()
    small.save(file, "PNG")
    width, height = picture.size
    data = base64.b64encode(file.getvalue()).decode()
    return (
        f'<img src="data:image/png;base64,{data}" alt="{width} x {height} pixels" title="{width} x {height}"'
        f' style="min-width:{min(width, 64)}px;margin:2px">'
    )
