"""A page of HTML that opens without a network, and the frame around what it shows."""

from __future__ import annotations

from html import escape
from pathlib import Path

from lostattn.files import PathLike, write_text

# The page forbids itself to ask for anything: what is not inside it cannot be shown.
_POLICY = "default-src 'none'; img-src data:; style-src 'unsafe-inline'; script-src 'unsafe-inline' 'unsafe-eval'"


def page_html(title: str, body: str, script: str = "", language: str = "en") -> str:
    """A whole page.

    Args:
        title: as plain text.
        body: the markup below the title.
        script: a script element that the markup calls.
        language: of its text, as HTML names it.
    """
    shown = escape(title)
    css = Path(__file__).with_name("page.css").read_text(encoding="utf-8")
    parts = [
        f'<!doctype html>\n<html lang="{escape(language)}">\n<head>\n<meta charset="utf-8">',
        f'<meta http-equiv="Content-Security-Policy" content="{_POLICY}">',
        '<meta name="viewport" content="width=device-width, initial-scale=1">',
        f"<title>{shown}</title>\n<style>\n{css}</style>",
        script,
        f"</head>\n<body>\n<main>\n<h1>{shown}</h1>",
        body,
        "</main>\n</body>\n</html>\n",
    ]
    return "\n".join(part for part in parts if part)


def write_page(path: PathLike, html: str) -> Path:
    """Write a page, whole or not at all.

    Raises:
        InputError: the folder cannot be written to.
        NoRoom: the disk is full; the message says where the page was kept instead.
    """
    return write_text(path, html.encode("utf-8", "replace").decode())  # half a surrogate pair has no place in a file


def figure_html(body: str, label: str, caption: str = "") -> str:
    """A drawing's markup as a figure, with a label for those who cannot see it.

    Args:
        body: the markup.
        label: what it shows, as plain text.
        caption: what stands below it, as markup.
    """
    below = f"<figcaption>{caption}</figcaption>" if caption else ""
    return f'<figure aria-label="{escape(label)}"><div class="sheet">{body}</div>{below}</figure>'
