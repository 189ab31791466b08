"""Where a figure is drawn: in panels of its own, or in axes that the caller gives; and in which colours."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from lostattn.errors import InputError, nearest

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure


def given_axes(ax: Any, allowed: Sequence[int], what: str) -> list[Axes]:
    """The caller's axes, one by one.

    Args:
        ax: one, or as many as there is to draw, in a list or an array as ``figure.subplots`` gives it.
        allowed: how many there may be.
        what: what is drawn in them, for the message.

    Raises:
        InputError: something else than axes, or another number of them.
    """
    from matplotlib.axes import Axes

    held = np.asarray(ax, dtype=object).ravel().tolist()
    if not held or not all(isinstance(one, Axes) for one in held):
        raise InputError(f"ax is {ax!r}; expected matplotlib axes, as figure.subplots() gives them.")
    if len(held) not in allowed:
        n = " or ".join(map(str, allowed))
        raise InputError(
            f"ax holds {len(held)} axes, and there are {what} to draw: expected {n}, figure.subplots(1, n)."
        )
    return held


def root_figure(axes: Axes) -> Figure:
    """The figure that axes are of."""
    found: Any = axes.get_figure(root=True)
    return found


def colour_map(cmap: Any, usual: str) -> Any:
    """A map of colours by its name, or as it is; the usual one where None.

    Raises:
        InputError: matplotlib has none of that name; the nearest are named.
    """
    import matplotlib
    from matplotlib.colors import Colormap

    if cmap is None or isinstance(cmap, Colormap):
        return matplotlib.colormaps[usual] if cmap is None else cmap
    if not isinstance(cmap, str) or cmap not in matplotlib.colormaps:
        raise InputError(
            f"cmap is {cmap!r}; expected a matplotlib colormap or the name of one, such as 'viridis'."
            f"{nearest(str(cmap), list(matplotlib.colormaps))}"
        )
    return matplotlib.colormaps[cmap]


def line_colours(cmap: Any, n: int, usual: Sequence[str]) -> list[Any]:
    """A colour for each of ``n`` lines: the usual ones in turn, or even steps of a map of colours."""
    if cmap is None:
        return [usual[i % len(usual)] for i in range(n)]
    chosen = colour_map(cmap, "viridis")
    return [chosen(i) for i in np.linspace(0.0, 0.92, n)]  # the last step of many maps is too pale for a line


def check_switch(name: str, value: Any) -> None:
    """Refuse what is neither True, False nor None.

    Raises:
        InputError: as said.
    """
    if value is not None and not isinstance(value, bool | np.bool_):
        raise InputError(f"{name} is {value!r}; expected True, False, or None for as it fits.")
