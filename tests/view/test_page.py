from __future__ import annotations

import base64
import re
from html.parser import HTMLParser
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch

from lostattn.errors import InputError
from lostattn.view.colored_tokens import tokens
from lostattn.view.curves import layer_curves
from lostattn.view.heads import attention
from lostattn.view.page import Page

from .conftest import N_POS

HOSTILE = "<script>alert('x')</script> & \"quoted\""


class Reader(HTMLParser):
    """Collects what a browser would see: elements, their attributes, text outside scripts and styles."""

    def __init__(self, html: str) -> None:
        super().__init__()
        self.elements: list[tuple[str, dict[str, str | None]]] = []
        self.open: list[str] = []
        self.text = ""
        self.feed(html)

    def handle_starttag(self, tag, attrs):
        self.elements.append((tag, dict(attrs)))
        if tag not in ("meta", "img"):
            self.open.append(tag)

    def handle_endtag(self, tag):
        assert self.open and self.open[-1] == tag, f"</{tag}> closes {self.open[-3:]}"
        self.open.pop()

    def handle_data(self, data):
        if not {"script", "style"} & set(self.open):
            self.text += data

    def named(self, tag: str) -> list[dict[str, str | None]]:
        return [attributes for name, attributes in self.elements if name == tag]


def two_points():
    return layer_curves(pd.DataFrame({"layer": [0, 1], "update": "attn", "rid": [0.1, 0.2]}))


@pytest.fixture
def figure():
    return two_points()


@pytest.fixture
def full(figure, prompt, cache):
    df = pd.DataFrame({"condition": ["untouched", HOSTILE], "accuracy": [0.5, -0.25], "n": [7, 11]})
    page = Page(f"Report {HOSTILE}").text(f"## One {HOSTILE}\n\nText {HOSTILE}.\n\n## Two\n\n## Three")
    page.table(df, f"Table {HOSTILE}").figure(figure, f"Figure {HOSTILE}", "rid")
    return page.html(attention(cache, prompt, 3), "Heads").html(tokens(prompt, torch.zeros(N_POS)), HOSTILE)


def test_the_page_is_one_well_formed_document(full):
    html = full.to_html()
    reader = Reader(html)
    assert html.startswith("<!doctype html>") and not reader.open
    assert reader.named("html") == [{"lang": "en"}]
    assert {"name": "viewport", "content": "width=device-width, initial-scale=1"} in reader.named("meta")
    assert len(reader.named("title")) == len(reader.named("h1")) == len(reader.named("main")) == 1


def test_nothing_outside_the_page_is_asked_for(full):
    reader = Reader(full.to_html())
    addresses = [
        value
        for _, attributes in reader.elements
        for name, value in attributes.items()
        if name in ("src", "href", "srcset", "action", "poster", "data", "xlink:href")
    ]
    assert len(addresses) == 6  # three links to sections, a figure and its PNG, the picture beside the heads
    assert all(value.startswith(("data:image/", "#")) for value in addresses)
    assert {tag for tag, _ in reader.elements} & {"link", "iframe", "object", "embed", "base", "form"} == set()
    without_scripts = re.sub(r"<script>.*?</script>", "", full.to_html(), flags=re.DOTALL)
    assert not re.search(r"https?:|url\(|@import|//\w+\.\w", re.sub(r'"data:[^"]*"', "", without_scripts))
    # And the browser is told to refuse whatever a script might ask for.
    (policy,) = (m["content"] for m in reader.named("meta") if "http-equiv" in m)
    assert policy.startswith("default-src 'none'; img-src data:;") and "http" not in policy


def test_scripts_are_the_library_once_and_a_call_for_each_drawing(full):
    html = full.to_html()
    assert html.count("var CircuitsVis=") == 1
    assert len(Reader(html).named("script")) == 3
    assert html.index("var CircuitsVis=") < html.index("CircuitsVis.render(")
    assert "<script" not in Page("No drawing").text("Words.").to_html()


def test_all_text_is_escaped(full):
    reader = Reader(full.to_html())
    assert "alert('x')" in reader.text
    assert (
        reader.text.count(HOSTILE) == 2 + 2 + 1 + 1 + 1 + 1 + 1
    )  # title, heading, text, caption, cell, figure, drawing
    assert not any("alert('x')" in str(a) for _, a in reader.elements if "alt" not in a and "aria-label" not in a)
    assert {a["aria-label"] for a in reader.named("div") if "aria-label" in a} == {f"Table {HOSTILE}"}


def test_text_is_paragraphs_lists_and_headings():
    html = (
        Page("T")
        .text(
            """
        ## A heading
        that is followed by a line

        A *slanted* and a **strong** word, `code *as it is* <b>` and 2 * 3 * 4.

        A list:
        - one
          goes on
        - two

        ### Smaller
        """
        )
        .to_html()
    )
    body = html[html.index("</h1>") :]
    for piece in (
        '<h2 id="s1">A heading</h2>\n<p>that is followed by a line</p>',
        "<p>A <em>slanted</em> and a <strong>strong</strong> word, ",
        "<code>code *as it is* &lt;b&gt;</code> and 2 * 3 * 4.</p>",
        "<p>A list:</p>\n<ul><li>one goes on</li><li>two</li></ul>",
        "<h3>Smaller</h3>",
    ):
        assert piece in body
    assert "<nav" not in html


def test_contents_lead_to_the_sections(full):
    reader = Reader(full.to_html())
    assert [a["href"] for a in reader.named("a") if a["href"].startswith("#")] == ["#s1", "#s2", "#s3"]
    assert [h["id"] for h in reader.named("h2")] == ["s1", "s2", "s3"]


def test_table_cells():
    df = pd.DataFrame(
        {
            "name": ["a", None],
            "share": [0.12345, -1.0],
            "p": [0.00001, np.nan],
            "n": [7, 1234],
            "right": [True, False],
            "layers": [[2, 5], []],
            "big": [np.inf, -np.inf],
        }
    )
    html = Page("T").table(df, "Cells & caption", digits=2).to_html()
    rows = re.findall(r"<tr>(.*?)</tr>", html)
    cells = [re.findall(r"<t[hd].*?>(.*?)</t[hd]>", row) for row in rows]
    assert cells == [
        ["name", "share", "p", "n", "right", "layers", "big"],
        ["a", "0.12", "&lt; 0.01", "7", "yes", "[2, 5]", "∞"],
        ["–", "−1.00", "–", "1234", "no", "[]", "−∞"],
    ]
    assert "<caption>Cells &amp; caption</caption>" in html
    assert rows[0].count('<th scope="col"') == 7 and rows[0].count('class="number"') == 4


def test_table_with_two_columns_of_one_name():
    df = pd.DataFrame([[1, "x"]], columns=["a", "a"])
    assert re.findall(r"<td.*?>(.*?)</td>", Page("T").table(df, "c").to_html()) == ["1", "x"]


def test_figures_are_in_the_page_as_svg_and_png_and_in_files(figure, tmp_path):
    page = Page("T").figure(figure, "RID by layer", "rid", alt="two points")
    page.figure(two_points(), "Again", "rid-2")
    reader = Reader(page.to_html())
    first = reader.named("img")[0]
    assert first["alt"] == "two points" and reader.named("img")[1]["alt"] == "Again"
    svg = base64.b64decode(first["src"].removeprefix("data:image/svg+xml;base64,"))
    (link,) = (a for a in reader.named("a") if a["download"] == "rid.png")
    png = base64.b64decode(link["href"].removeprefix("data:image/png;base64,"))
    paths = page.save_figures(tmp_path / "figures")
    assert [path.name for path in paths] == ["rid.png", "rid.svg", "rid-2.png", "rid-2.svg"]
    assert paths[0].read_bytes() == png and png.startswith(b"\x89PNG")
    assert paths[1].read_bytes() == svg and b"<svg" in svg
    # Drawn again, it has the same bytes: no date and no random ids.
    assert paths[3].read_bytes() == svg


def test_figure_names_are_checked(figure):
    page = Page("T").figure(figure, "c", "rid")
    with pytest.raises(InputError, match=r"There is a figure 'rid' on the page already"):
        page.figure(figure, "c", "rid")
    for name in ("../rid", ""):
        with pytest.raises(InputError, match=f"name is {re.escape(repr(name))}; expected a str that can name a file"):
            page.figure(figure, "c", name)
    for name in ("a b", ".hidden"):
        with pytest.raises(InputError, match=f"A figure cannot be saved as {re.escape(repr(name))}"):
            page.figure(figure, "c", name)


def test_circuitsvis_own_drawings_are_taken_without_their_script(monkeypatch):
    import circuitsvis.utils.render
    from circuitsvis.attention import attention_heads
    from circuitsvis.tokens import colored_tokens

    def ask():
        raise AssertionError("the internet was asked for")

    monkeypatch.setattr(circuitsvis.utils.render, "internet_on", ask)
    page = Page("T").html(colored_tokens(["a", "</script>b"], [0.5, -1.0]), "Tokens")
    page.html(attention_heads(np.eye(3)[None].tolist(), ["x", "y", "z"]))
    html = page.to_html()
    assert html.count("var CircuitsVis=") == 1
    assert len(Reader(html).named("script")) == 3
    assert re.search(r"CircuitsVis\.ColoredTokens,\s*\{\"tokens\": \[\"a\", \"\\u003c/script>b\"\]", html)
    assert "CircuitsVis.AttentionHeads" in html


def test_a_page_refuses_what_it_cannot_show():
    with pytest.raises(InputError, match=r"A page cannot show a str. Pass what lostattn.view.attention"):
        Page("T").html("<b>bold</b>")

    class Odd:
        local_src = "<div>other</div>"

    with pytest.raises(InputError, match=r"not as CircuitsVis 1.43 makes them"):
        Page("T").html(Odd())


def test_a_page_is_saved_whole_or_not_at_all(tmp_path, monkeypatch):
    path = Page("First").save(tmp_path / "new" / "report.html")
    before = path.read_text()
    assert before == Page("First").to_html()

    def stop(self, text, encoding):
        self.write_bytes(text.encode(encoding)[:100])
        raise KeyboardInterrupt

    monkeypatch.setattr(Path, "write_text", stop)
    with pytest.raises(KeyboardInterrupt):
        Page("Second").save(path)
    assert path.read_text() == before and list(path.parent.iterdir()) == [path]


def test_a_page_that_cannot_be_written_says_so(tmp_path, figure):
    (tmp_path / "file").write_text("")
    with pytest.raises(InputError, match=r"Cannot write to the folder"):
        Page("T").save(tmp_path / "file" / "report.html")
    with pytest.raises(InputError, match=r"Cannot write to the folder"):
        Page("T").figure(figure, "c", "rid").save_figures(tmp_path / "file")


def test_a_notebook_shows_the_page(full):
    shown = full._repr_html_()
    assert shown.startswith("<script>") and "<table>" in shown and "<html" not in shown
