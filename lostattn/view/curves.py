"""Curves over layers and bars of accuracies, each with its interval."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import TYPE_CHECKING, Annotated, Any

import numpy as np

from lostattn.arguments import checked_call
from lostattn.arguments.known_by import AtLeastOne
from lostattn.errors import InputError
from lostattn.view.figures import GREY, MARKERS, PALETTE, new_figure, style, tick_label
from lostattn.view.panels import check_switch, given_axes, line_colours, root_figure
from lostattn.view.words import fitted, put_axes_legend, put_legend, put_suptitle, put_title

if TYPE_CHECKING:
    import matplotlib.axes
    import matplotlib.figure
    import pandas

_LABELS = {
    "layer": "layer (0 is the first)",
    "rid": "RID (0 to 2)",
    "mixig": "MixIG (nats)",
    "tme": "token-mixing entropy (nats)",
    "delta_s": "spectral change ΔS (0 to 1)",
    "delta_d": "subspace innovation ΔD (0 to 1)",
    "accuracy": "accuracy (%)",
}
_UNTOUCHED = "untouched"
_CONDITION = 3.2  # inches of a condition's name


@checked_call
def layer_curves(
    df: pandas.DataFrame,
    x: str = "layer",
    y: Annotated[str | Sequence[str], AtLeastOne] = "rid",
    by: str = "update",
    low: str | None = None,
    high: str | None = None,
    *,
    title: str | None = None,
    labels: dict[str, str] | None = None,
    lines: dict[str, dict[str, Any]] | None = None,
    ax: Any = None,
    cmap: Any = None,
    grid: bool = True,
) -> matplotlib.figure.Figure:
    """A value by layer, one line for each update (or whatever ``by`` names), with the band of its interval.

    Several ``y`` make a row of panels each, several models a column each. Rows without a number in ``x`` (a
    value of the whole model) are left out.

    Args:
        df: one row per layer and ``by``; where it has ``model`` or ``n``, the titles say them.
        x: the column of the layer.
        y: the column, or columns, of the value.
        by: the column that tells lines apart.
        low: the column of the interval's lower end; ``{y}_low``, or else ``low``, where None.
        high: the column of its upper end, likewise.
        title: of the whole figure.
        labels: how to call columns, and values of ``by``, on the figure.
        lines: heights to mark by a dotted line, for each ``y`` by name, such as
            ``{"rid": {"ε RoPE": 0.06}}``; the height may be a dict by model.
        ax: axes to draw in, instead of a new figure: one a panel, row by row.
        cmap: the colours of the lines: even steps of a matplotlib colormap, by itself or by name; None: such as every
            kind of colour vision tells apart.
        grid: whether to draw lines behind the curves.

    Returns:
        The figure, or that of ``ax``.

    Raises:
        InputError: a column is missing, or no row has a layer; another number of axes than panels; no such colours.
    """
    import pandas as pd

    ys = [y] if isinstance(y, str) else list(y)
    _check_columns(df, [x, by, *ys])
    names = _LABELS | (labels or {})
    numbers = pd.to_numeric(df[x], errors="coerce")
    df = df.assign(**{x: numbers})[numbers.notna()]
    if df.empty:
        raise InputError(f"No row has a number in {x!r}: there is nothing to draw. Pass at least one layer.")
    models = _models(df)
    groups = list(dict.fromkeys(df[by]))
    check_switch("grid", grid)
    colours = line_colours(cmap, len(groups), PALETTE)
    if ax is None:
        figure = new_figure(5.2 * len(models) + 1.2, 2.9 * len(ys) + 0.5)
        axes = figure.subplots(len(ys), len(models), squeeze=False, sharex="col", sharey="row")
    else:
        n = len(ys) * len(models)
        axes = np.array(given_axes(ax, (n,), f"{n} panels, one for each y and model")).reshape(len(ys), len(models))
        figure = root_figure(axes[0, 0])
    for column, (model, part) in enumerate(models):
        for row, value in enumerate(ys):
            where = axes[row, column]
            ends = _ends(df, value, low, high)
            shown = [(g, names.get(g, str(g)), colour) for g, colour in zip(groups, colours, strict=True)]
            _draw_curves(where, part, (x, value, by), ends, shown, bool(grid))
            for name, height in (lines or {}).get(value, {}).items():
                at = height.get(model) if isinstance(height, dict) else height
                if at is not None:
                    where.axhline(at, color="black", linestyle=":", linewidth=1.2, label=name)
            if column == 0:
                where.set_ylabel(names.get(value, value), parse_math=False)
        put_title(axes[0, column], _heading(model, part), 11)
        axes[-1, column].set_xlabel(names.get(x, x), parse_math=False)
    _name_curves(figure, axes, title, own=ax is None)
    return figure


def _name_curves(figure: matplotlib.figure.Figure, axes: np.ndarray, title: str | None, own: bool) -> None:
    """The legend and the title, at the edge of a figure of one's own or within axes that were given."""
    handles, texts = axes[0, 0].get_legend_handles_labels()
    if own:
        put_legend(figure, handles, texts)
    else:
        put_axes_legend(axes[0, -1], handles, texts)
    if title and axes.size == 1 and not own:
        put_title(axes[0, 0], title, 11)
    elif title:
        put_suptitle(figure, title, 12)


@checked_call
def accuracy_bars(
    df: pandas.DataFrame,
    *,
    kinds: Annotated[Sequence[str] | None, AtLeastOne] = None,
    chance: float | dict[str, float] | None = None,
    title: str | None = None,
    labels: dict[str, str] | None = None,
    ax: Any = None,
    cmap: Any = None,
    grid: bool = True,
) -> matplotlib.figure.Figure:
    """Accuracy under each condition with its interval, and its paired difference from the untouched run.

    One panel for each kind of question ("all" first), one column of panels for each model where there are
    several. The number at the right is the difference in percentage points, with its interval and p where the
    table has them.

    Args:
        df: columns condition, accuracy, low, high (shares of 1); kind, n, difference, difference_low,
            difference_high, p, model if there are any, as `lostattn.experiments.probe` returns them.
        kinds: which kinds of question, in this order; all where None.
        chance: the accuracy of guessing, to be marked by a dotted line; by kind where it differs.
        title: of the whole figure.
        labels: how to call conditions and kinds on the figure.
        ax: axes to draw in, instead of a new figure: one a panel, row by row.
        cmap: the colours of the bars, untouched first: even steps of a matplotlib colormap, by itself or by name;
            None: such as every kind of colour vision tells apart.
        grid: whether to draw lines behind the bars.

    Returns:
        The figure, or that of ``ax``.

    Raises:
        InputError: a column is missing, there is no row, or no such kind; another number of axes than panels; no such
            colours.
    """
    _check_columns(df, ["condition", "accuracy", "low", "high"])
    if df.empty:
        raise InputError("The table has no row: there is nothing to draw. Pass at least one condition.")
    if "kind" not in df.columns:
        df = df.assign(kind="all")
    kinds = _kinds(df, kinds)
    models = _models(df)
    conditions = sorted(dict.fromkeys(df["condition"]), key=lambda c: c != _UNTOUCHED)
    wide = len(models) if len(models) > 1 else min(2, len(kinds))
    panels = [(model, part, kind) for kind in kinds for model, part in models]
    high = math.ceil(len(panels) / wide)
    check_switch("grid", grid)
    own = ax is None
    if own:
        figure = new_figure(6.4 * wide, high * (0.3 * len(conditions) + 0.75) + 0.6)
        axes = list(figure.subplots(high, wide, squeeze=False, sharex=True, sharey=True).ravel())
    else:
        axes = given_axes(ax, (len(panels),), f"{len(panels)} panels, one for each kind and model")
        figure = root_figure(axes[0])
    colours = _bar_colours(cmap, conditions)
    for where, (model, part, kind) in zip(axes, panels, strict=False):
        rows = part[part["kind"] == kind]
        guess = chance.get(kind) if isinstance(chance, dict) else chance
        _draw_bars(where, rows, colours, labels or {}, guess, bool(grid))
        head = _heading(model if len(models) > 1 else "", rows, (labels or {}).get(kind, kind))
        dotted = "" if guess is None else f" (dotted: chance, {100 * guess:.0f} %)"
        put_title(where, head + dotted, 10, "left")
    for spare in axes[len(panels) :]:
        spare.set_visible(False)
    for where in axes[max(0, len(panels) - wide) if own else 0 : len(panels)]:
        where.set_xlabel(_LABELS["accuracy"])
        where.tick_params(labelbottom=True)
    if own:
        head = title or "Accuracy by condition"
        of_one = f"{head}: {models[0][0]}" if len(models) == 1 and models[0][0] else head
        put_suptitle(figure, f"{of_one}\nat the right: difference from the untouched run, in points")
    else:
        _name_given(figure, axes, title, len(panels))
    return figure


def _name_given(figure: matplotlib.figure.Figure, axes: list[Any], title: str | None, panels: int) -> None:
    """The title, in axes that were given."""
    if title and panels == 1:
        put_title(axes[0], title, 10, "left")
    elif title:
        put_suptitle(figure, title)


def _draw_curves(
    axes: matplotlib.axes.Axes,
    df: pandas.DataFrame,
    columns: tuple[str, str, str],
    ends: tuple[str, str] | None,
    groups: list[tuple[Any, str, Any]],
    grid: bool,
) -> None:
    from matplotlib.ticker import MaxNLocator

    x, y, by = columns
    style(axes, grid)
    for index, (group, name, colour) in enumerate(groups):
        rows = df[df[by] == group].sort_values(x)
        if rows.empty:
            continue
        marker = MARKERS[index % len(MARKERS)]
        at = rows[x].to_numpy(dtype=float)
        axes.plot(at, rows[y], color=colour, marker=marker, markersize=4.5, linewidth=1.6, label=name)
        if ends is None:
            continue
        lower, upper = (rows[end].to_numpy(dtype=float) for end in ends)
        axes.fill_between(at, lower, upper, color=colour, alpha=0.18, linewidth=0)
        if len(at) == 1:  # a band of no width cannot be seen
            axes.vlines(at, lower, upper, color=colour)
    axes.xaxis.set_major_locator(MaxNLocator(integer=True))


def _draw_bars(
    axes: matplotlib.axes.Axes,
    rows: pandas.DataFrame,
    colours: dict[Any, Any],
    labels: dict[str, str],
    chance: float | None,
    grid: bool,
) -> None:
    style(axes, grid)
    axes.grid(False, axis="y")
    for place, (condition, colour) in enumerate(colours.items()):
        for row in rows[rows["condition"] == condition].to_dict("records"):
            axes.barh(place, 100 * row["accuracy"], height=0.62, color=colour, alpha=0.85)
            axes.hlines(place, 100 * row["low"], 100 * row["high"], color="black", linewidth=1.4)
            text = "" if condition == _UNTOUCHED else _difference(row)
            side = axes.get_yaxis_transform()
            axes.text(1.01, place, text, transform=side, va="center", fontsize=8.5)
    if chance is not None:
        axes.axvline(100 * chance, color="black", linestyle=":", linewidth=1.2)
    axes.set(xlim=(0, 100), ylim=(len(colours) - 0.5, -0.5))
    said = [tick_label(fitted(labels.get(c, str(c)), _CONDITION, 9)) for c in colours]
    axes.set_yticks(range(len(colours)), said)


def _bar_colours(cmap: Any, conditions: Sequence[Any]) -> dict[Any, Any]:
    """The colour of each condition, in their order: the untouched run grey, all others alike, or steps of a map."""
    if cmap is None:
        return {condition: GREY if condition == _UNTOUCHED else PALETTE[0] for condition in conditions}
    return dict(zip(conditions, line_colours(cmap, len(conditions), PALETTE), strict=True))


def _difference(row: dict[Any, Any]) -> str:
    """What stands beside a bar: ``−4.0 [−7.1, −1.0], p = 0.012``."""
    parts = []
    if _is_number(row.get("difference")):
        parts.append(_points(row["difference"]))
        low, high = row.get("difference_low", math.nan), row.get("difference_high", math.nan)
        if _is_number(low) and _is_number(high):
            parts[0] += f" [{_points(low)}, {_points(high)}]"
    if _is_number(row.get("p")):
        parts.append("p < 0.001" if row["p"] < 0.001 else f"p = {row['p']:.2g}")
    return ", ".join(parts)


def _points(share: float) -> str:
    value = round(100 * share, 1)
    return "0.0" if value == 0 else f"{value:+.1f}".replace("-", "−")


def _is_number(value: Any) -> bool:
    return isinstance(value, (int, float, np.number)) and math.isfinite(value)


def _kinds(df: pandas.DataFrame, kinds: Sequence[str] | None) -> list[str]:
    known = sorted(dict.fromkeys(df["kind"]), key=lambda kind: kind != "all")
    missing = [kind for kind in kinds or [] if kind not in known]
    if missing:
        raise InputError(f"There are no questions of kind {missing[0]!r}, only {', '.join(map(repr, known))}.")
    return known if kinds is None else list(kinds)


def _models(df: pandas.DataFrame) -> list[tuple[str, pandas.DataFrame]]:
    if "model" not in df.columns:
        return [("", df)]
    return [(str(model), rows) for model, rows in df.groupby("model", sort=False)]


def _heading(model: str, rows: pandas.DataFrame, kind: str = "") -> str:
    """Model, kind, and the number of questions where the table says it: ``tiny-llava, counting, n = 200``."""
    counts = sorted(set(rows["n"].dropna())) if "n" in rows.columns else []
    n = f"n = {counts[0]:g}" if len(counts) == 1 else f"n = {counts[0]:g} to {counts[-1]:g}" if counts else ""
    return ", ".join(part for part in (model, kind, n) if part)


def _ends(df: pandas.DataFrame, y: str, low: str | None, high: str | None) -> tuple[str, str] | None:
    """The columns of the interval of ``y``; None where the table has none and none was asked for."""
    if low is not None or high is not None:
        if low is None or high is None:
            raise InputError(f"low={low!r}, high={high!r}: an interval has two ends. Pass both, or neither.")
        _check_columns(df, [low, high])
        return low, high
    for ends in ((f"{y}_low", f"{y}_high"), ("low", "high")):
        if set(ends) <= set(df.columns):
            return ends
    return None


def _check_columns(df: pandas.DataFrame, columns: Sequence[str]) -> None:
    missing = [c for c in columns if c not in df.columns]
    if missing:
        raise InputError(f"The table has no column {missing[0]!r}, only {', '.join(map(repr, df.columns))}.")
