"""Attention heads of one layer, side by side with the picture they look at."""

from __future__ import annotations

from collections.abc import Sequence
from html import escape
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor

from lostattn.arguments import checked_call
from lostattn.arguments.known_by import CacheLike, PromptLike
from lostattn.errors import InputError
from lostattn.view.drawing import Drawing, colored_markup, element
from lostattn.view.figures import data_uri, to_png
from lostattn.view.image import attention_on_image
from lostattn.view.reading import n_cross_keys, pattern, pick_heads, token_labels

LONGEST = 300
"""Positions up to which whole patterns are drawn; a browser is slow to draw 300 x 300 cells a head."""


@checked_call
def attention(
    cache: CacheLike, prompt: PromptLike, layer: int, item: int = 0, heads: Sequence[int] | int | None = None
) -> Drawing:
    """The heads of a layer: CircuitsVis' patterns, and what the last position sees of each picture.

    Padding is left out, and a picture's tokens are named by the row and column of their patch. Where only one
    query's row was kept, or the prompt is longer than `LONGEST`, the tokens are coloured by the last row
    instead of drawing whole patterns.

    Args:
        cache: holds ``cache["pattern", layer]``, [batch, head, query, key].
        prompt: the prompt that the cache was made with.
        layer: which layer.
        item: which item of the batch.
        heads: which heads; all where None.

    Raises:
        InputError: the batch has no such item, the layer no such head, or the cache is of another prompt.
    """
    values = pattern(cache, prompt, layer, item)
    chosen = pick_heads(heads, len(values))
    labels = token_labels(prompt, item)
    names = [f"H{head}" for head in chosen]  # longer ones run into each other above the small patterns
    title = f"Attention in layer {layer}"
    pictures = _pictures(cache, prompt, layer, item, chosen)
    if n_cross_keys(prompt) and values.shape[-1] == n_cross_keys(prompt):
        patterns = "<p>The keys of this layer are the patches of the pictures, not the tokens of the prompt.</p>"
    else:
        patterns = _heads(values[torch.as_tensor(chosen)], labels, names)
    # The patterns get twice the width of the pictures, and stand below them where the page is narrow.
    body = (
        f'<div style="flex: 1 1 18rem; min-width: 0">{pictures}</div>\n'
        f'<div style="flex: 2 1 34rem; min-width: 0; overflow-x: auto">{patterns}</div>'
    )
    style = "display: flex; flex-wrap: wrap; gap: 1rem; align-items: flex-start"
    return Drawing(f'<div style="{style}; background: #fff; color: #1c1c1c; color-scheme: light">{body}</div>', title)


def _heads(values: Float[Tensor, "head query key"], labels: list[str], names: list[str]) -> str:
    if values.shape[1] == values.shape[2] <= LONGEST:
        return element(
            "AttentionHeads",
            # Four digits are what a colour can show, and a third of the page's size.
            attention=[[[round(x, 4) for x in row] for row in head] for head in values.tolist()],
            attentionHeadNames=names,
            tokens=labels,
            maskUpperTri=True,
        )
    last = values[:, -1].T.tolist()
    rows = [[round(x, 4) for x in row] for row in last]
    return colored_markup(labels, rows, names)


def _pictures(cache: Any, prompt: Any, layer: int, item: int, heads: list[int]) -> str:
    """The pictures with the last row's attention, or the reason why they cannot be drawn."""
    n_images = len(prompt.token_map.grids[item])
    if not n_images:
        return "<p>The prompt holds no image.</p>"
    out = []
    for image in range(n_images):
        name = "the image" if n_images == 1 else f"image {image}"
        try:
            figure = attention_on_image(
                cache,
                prompt,
                layer,
                item=item,
                heads=heads,
                image=image,
                columns=2,
                title=f"Last position, {name}",
            )
        except InputError as error:
            out.append(f"<p>{escape(str(error))}</p>")
            continue
        alt = f"Attention of the last position to {name} in layer {layer}: one panel for each head"
        out.append(f'<img src="{data_uri(to_png(figure), "image/png")}" alt="{alt}" style="max-width: 100%">')
    return "\n".join(out)
