"""Words on a figure: as they are, never read as formulas, and cut to the room that they have."""

from __future__ import annotations

import textwrap
from collections.abc import Iterable, Sequence
from typing import TYPE_CHECKING, Any

from lostattn.saved.text import printable

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

_WIDE = 0.55  # of a letter, as a share of the size of the type
_INCH = 72  # points


def fitted(text: str, inches: float | int, size: float | int, lines: int = 2) -> str:
    """A text broken into lines of so many inches at a size of type; what goes beyond them is left out, with "…"."""
    room = max(8, int(inches * _INCH / (_WIDE * size)))
    broken = [part for line in printable(text).split("\n") for part in textwrap.wrap(line, room) or [""]]
    if len(broken) <= lines:
        return "\n".join(broken)
    last = textwrap.shorten(" ".join(broken[lines - 1 :]), room, placeholder="…") or broken[lines - 1]
    last = last if last.endswith("…") else f"{last[: room - 1]}…"
    return "\n".join([*broken[: lines - 1], last])


def put_title(axes: Axes, text: str, size: float | int, loc: Any = "center") -> None:
    """The title of one panel, no wider than it."""
    wide = 1.15 * axes.get_window_extent().width / axes.figure.dpi
    axes.set_title(fitted(text, wide, size), fontsize=size, loc=loc, parse_math=False)


def put_suptitle(figure: Figure, text: str, size: float | int = 11) -> None:
    """The title of a whole figure, no wider than it."""
    figure.suptitle(fitted(text, 0.95 * figure.get_figwidth(), size, 3), fontsize=size, parse_math=False)


def put_legend(figure: Figure, handles: Sequence[Any], texts: Iterable[str]) -> None:
    """The legend at the right, whose names are no formulas either."""
    short = [fitted(text, 2.6, 9) for text in texts]
    _plain(figure.legend(handles, short, loc="outside right upper", frameon=False, fontsize=9))


def put_axes_legend(axes: Axes, handles: Sequence[Any], texts: Iterable[str]) -> None:
    """The legend inside one panel, of a figure that is somebody else's."""
    _plain(axes.legend(handles, [fitted(text, 2.6, 9) for text in texts], frameon=False, fontsize=9))


def put_colorbar(mappable: Any, axes: Sequence[Axes], label: str, aspect: float | int = 20) -> None:
    """The scale of colours beside some panels."""
    bar = axes[0].figure.colorbar(mappable, ax=list(axes), shrink=0.85, aspect=aspect)
    bar.set_label(label, parse_math=False)


def _plain(legend: Any) -> None:
    for text in legend.get_texts():
        text.set_parse_math(False)
