"""Values of patches drawn over the picture they are patches of."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
import torch

from lostattn.arguments import checked_call
from lostattn.arguments.kinds import Count
from lostattn.arguments.known_by import CacheLike, GridLike, Numbers, PictureLike, PromptLike, Share
from lostattn.errors import InputError
from lostattn.view.figures import new_figure
from lostattn.view.panels import check_switch, given_axes, root_figure
from lostattn.view.patch_maps import Box, Look, boxes_of, draw_marks, draw_picture, limits_of, sheets_of, still, upright
from lostattn.view.reading import heads_of_all, on_patches, pattern, picture_and_grid, query_row
from lostattn.view.words import put_colorbar, put_suptitle, put_title

if TYPE_CHECKING:
    import matplotlib.axes
    import matplotlib.cm
    import matplotlib.figure


@checked_call
def overlay(
    image: PictureLike,
    values: Numbers,
    grid: GridLike = None,
    *,
    title: str | None = None,
    label: str = "attention weight",
    limits: tuple[float, float] | None = None,
    opacity: Share = 0.65,
    marks: Sequence[Box] = (),
    ax: Any = None,
    cmap: Any = None,
    lines: bool | None = None,
) -> matplotlib.figure.Figure:
    """A heat map of patches over their picture, with the picture itself beside it.

    Of a picture that is cut into tiles, all tiles are drawn where they lie, and the thumbnail's larger patches, which
    lie over them, on a picture of their own. Of a video a strip: the first frame of each time step.

    Args:
        image: a PIL image (turned as its orientation tag says), an array [height, width, channel], or a
            `lostattn.Video`.
        values: one per patch, [patch] (with a grid) or [row, col]; [step, row, col] of a video.
        grid: a `PatchGrid` or `TiledGrid`, whose pixel boxes are used; without one, the patches divide the picture
            evenly. (True and False mean ``lines``.)
        title: what is shown.
        label: what the values are, with their unit.
        limits: the values of the darkest and the lightest colour; 0 (or the lowest) and the highest if None.
        opacity: of the colours over the picture, from 0 to 1.
        marks: boxes of pixels ``(x0, y0, x1, y1)`` to draw a frame around, such as an object's.
        ax: axes to draw in, instead of a new figure: one for each map, or one more, the first, for the
            bare picture.
        cmap: the colours, a matplotlib colormap or its name; None: such as every kind of colour vision tells apart.
        lines: whether to draw lines between the patches; None draws them up to 12 x 12 patches.

    Returns:
        The figure, or that of ``ax``.

    Raises:
        InputError: the values do not fit the grid, or hold NaN; the picture is not the one that the grid is of; another
            number of axes than there are maps; no such colours.
    """
    grid, lines = _grid_and_lines(grid, lines)
    image = upright(image)
    boxes, numbers = boxes_of(image, values, grid)
    sheets = sheets_of(grid, len(numbers))
    look = Look(limits or limits_of(numbers), float(opacity), cmap, lines)
    if ax is None:
        figure = new_figure(3.8 + 3.4 * len(sheets), 3.4)
        panels = list(figure.subplots(1, 1 + len(sheets)))
    else:
        panels = given_axes(ax, (len(sheets), 1 + len(sheets)), f"{len(sheets)} maps, and the picture beside them")
        figure = root_figure(panels[0])
    maps = panels[-len(sheets) :]
    if len(panels) > len(maps):
        draw_picture(panels[0], image)
        put_title(panels[0], "picture", 10)
    for where, (name, own, frame) in zip(maps, sheets, strict=True):
        mappable = look.draw(where, still(image, frame), boxes[own], numbers[own])
        put_title(where, f"{name or label}, {len(own)} patches", 10)
    draw_marks(panels, marks)
    put_colorbar(mappable, maps, label)
    _name(figure, maps, title, ax)
    return figure


@checked_call
def overlays(
    image: PictureLike,
    values: Numbers,
    grid: GridLike = None,
    *,
    titles: Sequence[str],
    title: str | None = None,
    label: str = "attention weight",
    limits: tuple[float, float] | None = None,
    opacity: Share = 0.65,
    marks: Sequence[Box] = (),
    columns: Count = 8,
    ax: Any = None,
    cmap: Any = None,
    lines: bool | None = None,
) -> matplotlib.figure.Figure:
    """A strip of heat maps over one picture, one for each of several sets of values, on one scale of colours.

    Of a picture that is cut into tiles, one for the tiles and one for the thumbnail of each; of a video, one for each
    of its time steps.

    Args:
        image: a PIL image (turned as its orientation tag says), an array [height, width, channel], or a
            `lostattn.Video`.
        values: [panel, patch] (with a grid) or [panel, row, col].
        grid: as in :func:`overlay`.
        titles: what stands above each panel.
        title: what is shown.
        label: what the values are, with their unit.
        limits: the values of the darkest and the lightest colour; 0 (or the lowest) and the highest if None.
        opacity: of the colours over the picture, from 0 to 1.
        marks: boxes of pixels ``(x0, y0, x1, y1)`` to draw a frame around, such as an object's.
        columns: how many pictures stand side by side, the bare one among them.
        ax: axes to draw in, instead of a new figure: one for each map, or one more, the first, for the
            bare picture.
        cmap: the colours, a matplotlib colormap or its name; None: such as every kind of colour vision tells apart.
        lines: whether to draw lines between the patches; None draws them up to 12 x 12 patches.

    Returns:
        The figure, or that of ``ax``.

    Raises:
        InputError: no values, values that do not fit the grid or the titles, or NaN.
    """
    if not len(values) or len(values) != len(titles):
        raise InputError(f"there are {len(values)} sets of values and {len(titles)} titles; give one title for each.")
    grid, lines = _grid_and_lines(grid, lines)
    image = upright(image)
    full = [boxes_of(image, one, grid) for one in values]
    look = Look(limits or limits_of(np.stack([numbers for _, numbers in full])), float(opacity), cmap, lines)
    drawn, names = [], []
    for (boxes, numbers), words in zip(full, titles, strict=True):
        for name, own, frame in sheets_of(grid, len(numbers)):
            drawn.append((still(image, frame), boxes[own], numbers[own]))
            names.append(f"{words}, {name}" if name else words)
    if ax is None:
        figure, panels = _small_panels(len(drawn) + 1, columns)
    else:
        panels = given_axes(ax, (len(drawn), len(drawn) + 1), f"{len(drawn)} maps, and the picture beside them")
        figure = root_figure(panels[0])
    maps = panels[-len(drawn) :]
    if len(panels) > len(maps):
        draw_picture(panels[0], image)
        put_title(panels[0], "picture", 9)
    for where, (shown, boxes, numbers), words in zip(maps, drawn, names, strict=True):
        mappable = look.draw(where, shown, boxes, numbers)
        put_title(where, words, 9)
    draw_marks(panels, marks)
    put_colorbar(mappable, panels, label, 30)
    _name(figure, maps, title, ax)
    return figure


def _small_panels(n: int, columns: int) -> tuple[matplotlib.figure.Figure, list[matplotlib.axes.Axes]]:
    """A new figure of small pictures, so many side by side."""
    wide = max(2, min(columns, n))
    deep = -(-n // wide)
    side = min(1.7, 15 / wide)
    figure = new_figure(max(side * wide + 0.8, 4.4), side * 1.16 * deep + 0.5)
    axes = figure.subplots(deep, wide, squeeze=False).ravel()
    for spare in axes[n:]:
        spare.set_visible(False)
    return figure, list(axes[:n])


@checked_call
def attention_on_image(
    cache: CacheLike,
    prompt: PromptLike,
    layers: Sequence[int] | int,
    *,
    item: int = 0,
    heads: str | Iterable[int] | int | None = None,
    image: int = 0,
    query: Any = -1,
    columns: Count | None = None,
    title: str | None = None,
    opacity: Share = 0.65,
    ax: Any = None,
    cmap: Any = None,
    grid: bool | None = None,
) -> matplotlib.figure.Figure:
    """The attention of one query to an image's patches: a row of small pictures a layer, one for each head.

    Of a picture that is cut into tiles, a row for the tiles and one for the thumbnail; of a video, one for each time
    step, on its first frame. All share one scale of colours. Above each stands the share of the query's attention that
    the patches drawn there get.

    Args:
        cache: holds ``cache["pattern", layer]``, [batch, head, query, key].
        prompt: the prompt that the cache was made with.
        layers: which layers.
        item: which item of the batch.
        heads: which heads; all where None. ``"mean"`` draws their mean.
        image: which image of the item.
        query: the row to show: an int counts real positions (-1 is the last, which the answer is read from); or a
            choice of one position, such as ``"last"``, or a word of the prompt that is one token.
        columns: how many pictures stand side by side, where one layer's should be broken into several rows.
        title: what is shown.
        opacity: of the colours over the picture, from 0 to 1.
        ax: axes to draw in, instead of a new figure: one for each head of each layer (and tile or time
            step), or one more before each row for the bare picture.
        cmap: the colours, a matplotlib colormap or its name; None: such as every kind of colour vision tells apart.
        grid: whether to draw lines between the patches; None draws them up to 12 x 12 patches.

    Returns:
        The figure, or that of ``ax``.

    Raises:
        InputError: a head, image or query is out of range, or the image's picture or grid is not known.
    """
    layers = [layers] if isinstance(layers, int) else list(layers)
    if not layers:
        raise InputError("layers is empty; pass at least one layer.")
    check_switch("grid", grid)
    picture, patches = picture_and_grid(prompt, item, image)
    row = query_row(prompt, item, query)
    mean = isinstance(heads, str) and heads == "mean"
    rows = {layer: _query_row(pattern(cache, prompt, layer, item), row, mean) for layer in layers}
    chosen = heads_of_all(None if mean else heads, {layer: len(weights) for layer, weights in rows.items()})
    values = {layer: on_patches(row[torch.as_tensor(chosen)], prompt, item, image) for layer, row in rows.items()}
    look = Look((0.0, max(float(v.max()) for v in values.values()) or 1.0), float(opacity), cmap, grid)
    sheets = sheets_of(patches, values[layers[0]].shape[-1])
    cells = [(layer, sheet, head) for layer in layers for sheet in sheets for head in (None, *chosen)]
    maps = [cell for cell in cells if cell[2] is not None]
    if ax is None:
        figure, panels = _rows_of_panels(cells, len(chosen), columns)
    else:
        panels = given_axes(ax, (len(maps), len(cells)), f"{len(maps)} maps, and a picture before each row of them")
        figure, cells = root_figure(panels[0]), cells if len(panels) == len(cells) else maps
    for where, (layer, (name, own, frame), head) in zip(panels, cells, strict=True):
        which = f"layer {layer}" + f", {name}" * bool(name)
        if head is None:
            draw_picture(where, still(picture, frame))
            where.set_ylabel(which, fontsize=10, parse_math=False)
            put_title(where, "picture" if where is panels[0] else "", 9)
            continue
        boxes, numbers = boxes_of(picture, values[layer][chosen.index(head)], patches)
        boxes, numbers = boxes[own], numbers[own]
        mappable = look.draw(where, still(picture, frame), boxes, numbers)
        said = f"{'mean of heads' if mean else f'head {head}'}: {100 * numbers.sum():.0f} %"
        put_title(where, said if cells is not maps else f"{which}, {said}", 9)
    put_colorbar(mappable, panels, "attention weight", 30)
    usual = f"Attention of the {_who(query, row)} to the image (share of all its attention, %)"
    _name(figure, [], title if ax is not None else title or usual, None if len(panels) > 1 else ax, panels)
    return figure


def _rows_of_panels(
    cells: Sequence[Any], n_heads: int, columns: int | None
) -> tuple[matplotlib.figure.Figure, list[matplotlib.axes.Axes]]:
    """A new figure with a row for each layer and sheet: the picture, and one small panel a head."""
    single = len(cells) == 1 + n_heads
    wide = min(columns or len(cells), len(cells)) if single else 1 + n_heads
    high = -(-len(cells) // wide)
    side = min(1.55, 15 / wide)
    figure = new_figure(max(side * wide + 0.7, 4.2), side * 1.14 * high + 0.5)
    axes = figure.subplots(high, wide, squeeze=False).ravel()
    for spare in axes[len(cells) :]:
        spare.set_visible(False)
    return figure, list(axes[: len(cells)])


def _who(query: Any, row: int) -> str:
    """What the query is called in a title."""
    if row == -1 or (isinstance(query, str) and query == "last"):
        return "last position"
    return f"position {query}" if isinstance(query, str | int | np.integer) else "chosen position"


def _name(figure: Any, maps: Sequence[Any], title: str | None, ax: Any, panels: Sequence[Any] = ()) -> None:
    """The title: of the whole figure, or of the one panel in somebody else's figure."""
    if not title:
        return
    alone = [*maps, *panels]
    if ax is not None and len(alone) == 1:
        put_title(alone[0], title, 10)
    else:
        put_suptitle(figure, title)


def _grid_and_lines(grid: Any, lines: bool | None) -> tuple[Any, bool | None]:
    """The grid of patches, and whether lines are drawn: ``grid=True`` asks for lines, as elsewhere."""
    check_switch("lines", lines)
    return (None, bool(grid) if lines is None else lines) if isinstance(grid, bool | np.bool_) else (grid, lines)


def _query_row(attention: torch.Tensor, query: int, mean: bool) -> torch.Tensor:
    """[head, key] of one query, or of the mean of the heads alone."""
    n = attention.shape[1]
    if not -n <= query < n:
        raise InputError(f"There is no query {query}: the cache holds {n} rows of this item's pattern.")
    return attention[:, query].mean(0, keepdim=True) if mean else attention[:, query]
