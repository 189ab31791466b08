"""HTML that draws itself offline: CircuitsVis elements with the script of the installed package.

CircuitsVis' own HTML asks the internet each time it is shown. Here its React elements are called with the
script that the package carries, so that nothing is asked for, and a page of several elements holds it once.
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from functools import cache
from html import escape
from pathlib import Path
from typing import Any
from uuid import uuid4

from lostattn.arguments import checked_call
from lostattn.view.html import figure_html, page_html, write_page


@checked_call
@dataclass(frozen=True)
class Drawing:
    """A piece of HTML; a notebook shows it, `save` writes it as a page, `Page.html` takes it.

    Attributes:
        body: the markup, complete but for CircuitsVis' script.
        title: what it shows, as plain text.
        needs_script: whether the markup calls CircuitsVis.
    """

    body: str
    title: str
    needs_script: bool = True

    def _repr_html_(self) -> str:
        return (circuitsvis_script() if self.needs_script else "") + self.body

    def save(self, path: str | Path) -> Path:
        """Write a page that opens offline, whole or not at all.

        Raises:
            InputError: the folder cannot be written to.
        """
        script = circuitsvis_script() if self.needs_script else ""
        return write_page(path, page_html(self.title, figure_html(self.body, self.title), script))


@cache
def circuitsvis_script() -> str:
    """CircuitsVis' script as an element that defines ``CircuitsVis`` for the whole page."""
    import circuitsvis

    source = Path(circuitsvis.__file__).parent / "dist" / "cdn" / "iife.js"
    code = source.read_text(encoding="utf-8")
    # The first would make developer tools look for a file, the second would end the element too early.
    code = code.replace("//# sourceMappingURL=iife.js.map", "").replace("</script", r"<\/script")
    return f"<script>{code}</script>"


def colored_markup(labels: list[str], values: list[Any], kinds: list[str] | None = None) -> str:
    """The markup that colours tokens by one value each, ``[pos]``, or by a choice of kinds, ``[pos, kind]``.

    These two elements take a token for HTML (the others take it for text), so it is escaped.
    """
    escaped = [escape(label) for label in labels]
    if kinds is None:
        return element("ColoredTokens", tokens=escaped, values=values)
    return element("ColoredTokensMulti", tokens=escaped, values=values, labels=kinds)


def element(name: str, **props: Any) -> str:
    """The markup that draws CircuitsVis' React element ``name``; `circuitsvis_script` must come before it."""
    place = f"circuits-vis-{uuid4().hex[:13]}"
    call = f'CircuitsVis.render("{place}", CircuitsVis.{name}, {script_json(props)})'
    return f'<div id="{place}"></div>\n<script>{call}</script>'


def script_json(value: Any) -> str:
    """JSON that can stand in a script element whatever text it holds (``</script>``, ``<!--``)."""
    text = json.dumps(value, allow_nan=False)
    return text.replace("<", "\\u003c").replace(">", "\\u003e").replace("&", "\\u0026")
