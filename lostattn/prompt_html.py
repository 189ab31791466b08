"""How a prompt shows itself in a notebook: its pictures, its question, what its tokens are."""

from __future__ import annotations

import base64
import html
import io
from typing import TYPE_CHECKING

from PIL import Image

if TYPE_CHECKING:
    from lostattn.prompt_batch import Prompt

_SHOWN = 8
_SIDE = 128


def prompt_html(prompt: Prompt) -> str:
    """One row an item (the first eight): thumbnails, question, positions of each part; text escaped."""
    rows = "".join(_item_html(prompt, i) for i in range(min(_SHOWN, len(prompt))))
    more = f"<p>and {len(prompt) - _SHOWN} more</p>" if len(prompt) > _SHOWN else ""
    return (
        f"<div><p><b>Prompt</b> of {len(prompt)} x {prompt.n_pos} positions</p>"
        f"<table><tr><th>id</th><th>images</th><th>question</th><th>positions</th></tr>"
        f"{rows}</table>{more}</div>"
    )


def _item_html(prompt: Prompt, i: int) -> str:
    shown = "".join(_thumbnail(picture) for picture in prompt.images[i])
    shown += "".join(f"{_thumbnail(video.frames[0])}{len(video)} frames" for video in prompt.videos[i])
    if not shown and (n := prompt.token_map.n_images[i]):
        shown = f"{n} (as a tensor)"
    counts = "<br>".join(f"{name} {n}" for name, n in prompt.token_map.counts(i).items())
    question = html.escape(prompt.texts[i]).replace("\n", "<br>")
    return (
        f"<tr><td>{html.escape(prompt.ids[i])}</td><td>{shown}</td>"
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
