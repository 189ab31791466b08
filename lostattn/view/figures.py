"""What all figures share: a figure that needs no pyplot, colours, and bytes of PNG and SVG.

matplotlib is imported when something is drawn, so that this module may be imported by whoever may have to draw.
"""

from __future__ import annotations

import base64
import io
from functools import cache
from typing import TYPE_CHECKING, Any

from lostattn.saved.text import printable

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

# Okabe & Ito's colours, told apart by readers of every kind of colour vision; yellow is too pale for lines.
PALETTE = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9", "#000000")
MARKERS = ("o", "s", "^", "D", "v", "P", "X")
GREY = "#6b6b6b"


@cache
def _plain_figure() -> type[Figure]:
    """A matplotlib figure that a notebook shows without pyplot."""
    from matplotlib.figure import Figure

    class PlainFigure(Figure):
        def _repr_png_(self) -> bytes:
            return to_png(self)

        def draw(self, renderer: Any) -> None:
            _show_as_written(self)
            super().draw(renderer)

    PlainFigure.__qualname__ = "PlainFigure"  # where a pickled figure looks for its class: `__getattr__` below
    return PlainFigure


def __getattr__(name: str) -> Any:
    if name == "PlainFigure":
        return _plain_figure()
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")


def new_figure(width: float | int, height: float | int) -> Figure:
    """An empty figure of the given size in inches, laid out so that nothing overlaps."""
    return _plain_figure()(figsize=(width, height), layout="constrained", facecolor="white")


def tick_label(text: object) -> str:
    """A text as the label of a tick, where matplotlib would take ``$`` for the beginning of a formula."""
    return printable(text).replace("$", r"\$")


def _show_as_written(figure: Figure) -> None:
    """Have labels shown as they stand: names of conditions and models are no formulas (``$``) and steer nothing."""
    from matplotlib.text import Text

    axes = [axis for one in figure.axes for axis in (one.xaxis, one.yaxis)]
    ticks = {text for axis in axes for text in (*axis.get_ticklabels(which="both"), axis.get_offset_text())}
    for text in figure.findobj(Text):
        if text not in ticks:  # matplotlib writes numbers as formulas itself; see `tick_label`
            text.set_parse_math(False)
            text.set_text(printable(text.get_text()))


def style(axes: Axes, grid: bool = True) -> None:
    """The look of a plot with axes; set on the plot itself, so that nobody's own defaults change it."""
    axes.spines[["top", "right"]].set_visible(False)
    if grid:
        axes.grid(color="#e4e4e4", linewidth=0.8)
    else:
        axes.grid(False)
    axes.set_axisbelow(True)
    axes.title.set_fontsize(11)
    axes.tick_params(labelsize=9)


def to_png(figure: Figure, dpi: int = 160) -> bytes:
    """The figure as the bytes of a PNG file."""
    out = io.BytesIO()
    figure.savefig(out, format="png", dpi=dpi)
    return out.getvalue()


def to_svg(figure: Figure) -> bytes:
    """The figure as the bytes of an SVG file, the same for the same figure."""
    import matplotlib

    out = io.BytesIO()
    # Ids in an SVG are drawn at random unless salted, and its date is now unless left out.
    with matplotlib.rc_context({"svg.hashsalt": "lostattn", "svg.fonttype": "path"}):
        figure.savefig(out, format="svg", metadata={"Date": None})
    return out.getvalue()


def data_uri(content: bytes, kind: str) -> str:
    """``content`` as an address that holds the file itself."""
    return f"data:{kind};base64,{base64.b64encode(content).decode()}"
