"""One HTML file that holds everything it shows and opens without a network."""

from __future__ import annotations

import json
import math
import re
from html import escape
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

from lostattn.arguments import checked_call
from lostattn.arguments.kinds import Rule
from lostattn.arguments.known_by import FileName
from lostattn.errors import InputError
from lostattn.files import write_folder
from lostattn.view.drawing import Drawing, circuitsvis_script
from lostattn.view.figures import data_uri, to_png, to_svg
from lostattn.view.html import figure_html, page_html, write_page

if TYPE_CHECKING:
    import matplotlib.figure
    import pandas


Digits = Annotated[int, Rule(lambda n: 0 <= n <= 20, "from 0 to 20")]


@checked_call
class Page:
    """Builds a page piece by piece; every method but the saving ones returns the page.

        Page("Report").text("## Results").table(df, "Accuracy").figure(fig, "RID", "rid").save("report.html")

    All text is escaped. Figures are held as SVG and PNG, CircuitsVis' script once for all drawings.
    """

    def __init__(self, title: str, language: str = "en") -> None:
        self.title = title
        self.language = language
        self._parts: list[str] = []
        self._headings: list[tuple[str, str]] = []
        self._figures: dict[str, tuple[bytes, bytes]] = {}
        self._needs_script = False

    def text(self, text: str) -> Page:
        """Add paragraphs, parted by blank lines.

        ``## `` and ``### `` begin headings, ``- `` the lines of a list; `` `code` ``, ``**strong**`` and
        ``*emphasis*`` are understood inside a line. Everything else is taken as it stands.
        """
        for block in re.split(r"\n\s*\n", text.strip()):
            lines = [line.strip() for line in block.strip().splitlines()]
            if not lines:
                continue
            heading = re.fullmatch(r"(##|###) (.+)", lines[0])
            if heading:
                self._heading(len(heading[1]), heading[2])
                lines = lines[1:]
            self._lines(lines)
        return self

    def table(
        self,
        df: pandas.DataFrame,
        caption: str,
        digits: Digits = 3,
    ) -> Page:
        """Add a table; its index is not shown.

        Args:
            df: what to show; numbers that are missing become a dash.
            caption: what it says, above it.
            digits: after the decimal point of fractional numbers.
        """
        from pandas.api.types import is_bool_dtype, is_numeric_dtype

        kinds = [
            ' class="number"' if is_numeric_dtype(df.iloc[:, i]) and not is_bool_dtype(df.iloc[:, i]) else ""
            for i in range(df.shape[1])
        ]
        head = "".join(f'<th scope="col"{k}>{escape(str(c))}</th>' for c, k in zip(df.columns, kinds, strict=True))
        body = []
        for row in df.itertuples(index=False, name=None):
            cells = "".join(f"<td{k}>{escape(_cell(v, digits))}</td>" for v, k in zip(row, kinds, strict=True))
            body.append(f"<tr>{cells}</tr>")
        # A wide table scrolls by itself, and a keyboard must be able to reach it.
        self._parts.append(
            f'<div class="scroll" tabindex="0" role="region" aria-label="{escape(caption)}"><table>'
            f"<caption>{_inline(caption)}</caption><thead><tr>{head}</tr></thead>"
            f"<tbody>{''.join(body)}</tbody></table></div>"
        )
        return self

    def figure(self, fig: matplotlib.figure.Figure, caption: str, name: FileName, alt: str | None = None) -> Page:
        """Add a matplotlib figure, shown as SVG, with its PNG to download.

        Args:
            fig: the figure.
            caption: what it says, below it.
            name: of its files, unlike all others on the page: letters, digits, ``-``, ``_`` and ``.``.
            alt: what it shows, for those who cannot see it; the caption where None.

        Raises:
            InputError: the name cannot be a file's, or is taken.
        """
        if not re.fullmatch(r"\w[\w.-]*", name, flags=re.ASCII):
            raise InputError(f"A figure cannot be saved as {name!r}. Pass a name of letters, digits, '-', '_', '.'.")
        if name in self._figures:
            raise InputError(f"There is a figure {name!r} on the page already. Pass another name.")
        png, svg = to_png(fig), to_svg(fig)
        self._figures[name] = png, svg
        shown = escape(alt if alt is not None else caption)
        self._parts.append(
            f'<figure><div class="sheet"><img src="{data_uri(svg, "image/svg+xml")}" alt="{shown}"></div>'
            f"<figcaption>{_inline(caption)} "
            f'<a download="{name}.png" href="{data_uri(png, "image/png")}">PNG</a></figcaption></figure>'
        )
        return self

    def html(self, rendered: Any, caption: str = "") -> Page:
        """Add a drawing: what `attention` and `tokens` return, or CircuitsVis' own ``RenderedHTML``.

        Raises:
            InputError: it is something else; plain text goes to `text`.
        """
        drawing = rendered if isinstance(rendered, Drawing) else _from_circuitsvis(rendered)
        self._needs_script |= drawing.needs_script
        self._parts.append(figure_html(drawing.body, caption or drawing.title, _inline(caption)))
        return self

    def to_html(self) -> str:
        """The whole page."""
        return page_html(self.title, self._body(), self._script(), self.language)

    def _repr_html_(self) -> str:
        return self._script() + "\n".join(self._parts)

    def save(self, path: str | Path) -> Path:
        """Write the page, whole or not at all.

        Raises:
            InputError: the folder cannot be written to.
        """
        return write_page(path, self.to_html())

    def save_figures(self, folder: str | Path) -> list[Path]:
        """Write every figure of the page as ``name.png`` and ``name.svg``, all at once, sealed by ``run.json``.

        Raises:
            InputError: the folder cannot be written to.
            NoRoom: the disk is full; the message says where the figures were kept instead.
        """
        folder = Path(folder)
        write_folder(folder, self.write_figures, adds=True)
        return [folder / f"{name}.{kind}" for name in self._figures for kind in ("png", "svg")]

    def write_figures(self, folder: Path) -> None:
        """Write the figures into a folder that is being made."""
        for name, (png, svg) in self._figures.items():
            (folder / f"{name}.png").write_bytes(png)
            (folder / f"{name}.svg").write_bytes(svg)

    def _body(self) -> str:
        return "\n".join(part for part in (self._contents(), *self._parts) if part)

    def _script(self) -> str:
        return circuitsvis_script() if self._needs_script else ""

    def _heading(self, level: int, text: str) -> None:
        anchor = f"s{len(self._headings) + 1}"
        if level == 2:
            self._headings.append((anchor, text))
            self._parts.append(f'<h2 id="{anchor}">{_inline(text)}</h2>')
        else:
            self._parts.append(f"<h3>{_inline(text)}</h3>")

    def _lines(self, lines: list[str]) -> None:
        """A paragraph, a list, or a paragraph that ends in a list."""
        plain: list[str] = []
        items: list[str] = []
        for line in lines:
            if line.startswith("- "):
                items.append(line[2:])
            elif items:
                items[-1] += f" {line}"
            else:
                plain.append(line)
        if plain:
            self._parts.append(f"<p>{_inline(' '.join(plain))}</p>")
        if items:
            self._parts.append(f"<ul>{''.join(f'<li>{_inline(item)}</li>' for item in items)}</ul>")

    def _contents(self) -> str:
        """Links to the sections, where there are enough of them to need it."""
        if len(self._headings) < 3:
            return ""
        items = "".join(f'<li><a href="#{anchor}">{_inline(text)}</a></li>' for anchor, text in self._headings)
        return f'<nav aria-label="Contents"><ul>{items}</ul></nav>'


def _inline(text: str) -> str:
    """Escaped text with `code`, **strong** and *emphasis* as elements; nothing inside code is touched."""
    out = []
    for index, piece in enumerate(re.split(r"`([^`]+)`", text)):
        piece = escape(piece)
        if index % 2:
            out.append(f"<code>{piece}</code>")
            continue
        piece = re.sub(r"\*\*(\S(?:.*?\S)?)\*\*", r"<strong>\1</strong>", piece)
        out.append(re.sub(r"(?<!\*)\*(?![\s*])(.+?)(?<![\s*])\*(?!\*)", r"<em>\1</em>", piece))
    return "".join(out)


def _cell(value: Any, digits: int) -> str:
    import numpy as np
    import pandas as pd

    if isinstance(value, (bool, np.bool_)):
        return "yes" if value else "no"
    if isinstance(value, (dict, list, tuple)):
        return json.dumps(value, ensure_ascii=False, default=str)
    if value is None or pd.isna(value):
        return "–"
    if isinstance(value, (float, np.floating)):
        if math.isinf(value):
            return "∞" if value > 0 else "−∞"
        shown = f"{value:.{digits}f}"
        # A p of 0.00001 is not 0.
        if value != 0 and float(shown) == 0:
            return f"< {10.0**-digits:g}" if value > 0 else f"> −{10.0**-digits:g}"
        return shown.replace("-", "−")
    return str(value)


def _from_circuitsvis(rendered: Any) -> Drawing:
    """CircuitsVis' own HTML without its copy of the script."""
    source = getattr(rendered, "local_src", None)
    if not isinstance(source, str):
        raise InputError(
            f"A page cannot show a {type(rendered).__name__}. Pass what lostattn.view.attention returns, "
            "or a CircuitsVis drawing; text goes to Page.text, a matplotlib figure to Page.figure."
        )
    parts = re.fullmatch(
        r'\s*<div id="(circuits-vis-[\w-]+)".*?>\s*<script[^>]*>'
        r'.*?(CircuitsVis\.render\(\s*"\1",.*)</script>\s*',
        source,
        flags=re.DOTALL,
    )
    if parts is None:
        raise InputError("The drawing is not as CircuitsVis 1.43 makes them. Draw it with lostattn.view instead.")
    place, call = parts.groups()
    # What it shows may hold "</script>"; in this place "<" only ever stands inside a string.
    call = call.replace("<", "\\u003c")
    return Drawing(f'<div id="{place}"></div>\n<script>{call}</script>', "CircuitsVis drawing")
