"""Texts that would be markup: whoever writes HTML escapes them, in every field, and no script begins or ends there."""

from __future__ import annotations

import base64
import json
import re
import xml.etree.ElementTree as tree
from html.parser import HTMLParser

import circuitsvis
import pandas as pd
import pytest
import torch
from PIL import Image

from lostattn.conformance.judge import Verdict
from lostattn.conformance.table import in_page, markdown
from lostattn.data import Question, Questions
from lostattn.pictures.videos import Video
from lostattn.prompt.html import Row, prompt_html
from lostattn.view.colored_tokens import tokens
from lostattn.view.curves import accuracy_bars, layer_curves
from lostattn.view.drawing import Drawing
from lostattn.view.figures import to_svg
from lostattn.view.heads import attention
from lostattn.view.html import write_page
from lostattn.view.page import Page

from .conftest import N_POS

TEXTS = [
    "<img src=x onerror=alert(1)>",
    "</script><script>alert(1)</script>",
    "\"><svg onload='alert(1)'>",
    "' onmouseover='alert(1)",
    '" style="x" onfocus="alert(1)" autofocus="',
    "--><iframe src=//evil.example></iframe><!--",
    "]]><script>alert(1)</script>",
    "</title></style></textarea><base href=//evil.example>",
    "line\u2028alert(1)\u2029line",
    "`</code><img src=x onerror=alert(1)>` **<b onclick=alert(1)>** *<i onclick=alert(1)>*",
    "&lt;img src=x onerror=alert(1)&gt; &#60;script&#62;",
    "${alert(1)} {{alert(1)}} javascript:alert(1)",
    "\x00<\x00img\x00 src=x>",
    "half \ud83d <b onclick=alert(1)>",
    "## <h2 onclick=alert(1)>\n\n- <li onclick=alert(1)>",
]
EVENT = re.compile(r"on[a-z]+")
OURS = {
    *(
        "html",
        "head",
        "meta",
        "title",
        "style",
        "script",
        "body",
        "main",
        "h1",
        "h2",
        "h3",
        "p",
        "ul",
        "li",
        "div",
        "figure",
    ),
    *(
        "figcaption",
        "table",
        "caption",
        "thead",
        "tbody",
        "tr",
        "th",
        "td",
        "img",
        "a",
        "b",
        "br",
        "strong",
        "em",
        "code",
        "nav",
    ),
}


class Browser(HTMLParser):
    """What a browser would make of a page, and what of it nobody here wrote."""

    def __init__(self, html: str) -> None:
        super().__init__()
        self.scripts: list[str] = []
        self.seen: list[str] = []
        self.inside = ""
        self.feed(html)

    def handle_starttag(self, tag, attrs):
        assert tag in OURS, f"<{tag}>"
        self.seen.append(tag)
        self.inside = tag
        for name, value in attrs:
            assert not EVENT.fullmatch(name) and name not in ("srcdoc", "action", "formaction"), f"{tag} {name}"
            if name in ("src", "href"):
                assert value.startswith(("data:image/png;base64,", "data:image/svg+xml;base64,", "#")), value
            if name == "style":
                assert "url(" not in value and "expression" not in value
        if tag == "script":
            assert not attrs
            self.scripts.append("")

    def handle_endtag(self, tag):
        self.inside = ""

    def handle_comment(self, data):
        raise AssertionError(f"a comment: {data[:80]}")

    def handle_data(self, data):
        if self.inside == "script":
            self.scripts[-1] += data


def browsed(html: str) -> Browser:
    """A page as a browser sees it; in its scripts texts stand as strings of JSON alone."""
    found = Browser(html)
    for script in found.scripts:
        for call in re.findall(r"CircuitsVis\.render\((.*)\)$", script):
            assert "<" not in call and "\u2028" not in call and "\u2029" not in call
            place, name, props = re.fullmatch(r'"(circuits-vis-[\w-]+)", (CircuitsVis\.\w+), (.*)', call).groups()
            assert json.loads(props)
    return found


def shape(build, hostile: str) -> list[str]:
    """The elements of what a writer makes of a text; those of a harmless one are the same."""
    return browsed(build(hostile)).seen


@pytest.fixture(params=TEXTS, ids=ascii)
def text(request):
    return request.param


def question(text: str) -> Question:
    picture = Image.new("RGB", (4, 3))
    return Question(text, text, (picture,), text, (text, "b"), text, text)


def test_questions(text):
    def build(one: str) -> str:
        return Questions([question(one)], name=one)._repr_html_() + question(one)._repr_html_()

    assert shape(build, text) == shape(build, "plain") or "\n" in text


def test_prompts(text):
    picture = Image.new("RGB", (4, 3))

    def build(one: str) -> str:
        return prompt_html([Row(one, [picture], [Video([picture])], 1, one, {"image": 3})], 1, 3)

    assert shape(build, text) == shape(build, "plain") or "\n" in text


def test_tables_headings_captions_and_figures_of_a_page(text, tmp_path):
    cell = text.replace("\ud83d", "")  # which pandas takes for no text
    df = pd.DataFrame({cell: [cell, None], "n": [1, 2], "cell": [{text: [text]}, (text,)]})
    figure = layer_curves(pd.DataFrame({"layer": [0, 1], "update": "attn", "rid": [0.1, 0.2]}))
    page = Page(text, language=text).text(text).text(f"## {text}\n\n{text}\n\n- {text}").text("## b\n\n## c\n\n## d")
    page.table(df, text).figure(figure, text, "a").figure(figure, text, "b", alt=text)
    page.html(Drawing("<p>drawn</p>", text, needs_script=False), text).html(Drawing("<p>drawn</p>", text, False))
    browsed(page.to_html())
    browsed(page._repr_html_())
    written = page.save(tmp_path / "page.html").read_text(encoding="utf-8")
    assert browsed(written).seen == browsed(page.to_html()).seen
    assert "default-src 'none'" in written


def test_drawings_of_tokens(text, prompt, cache, tmp_path):
    object.__setattr__(prompt, "str_tokens", tuple(tuple(text for _ in words) for words in prompt.str_tokens))
    for drawing in (
        attention(cache, prompt, 3),
        tokens(prompt, torch.zeros(N_POS), title=text),
        tokens(prompt, torch.zeros(N_POS, 2), labels=[text, "b"], title=text),
    ):
        browsed(drawing.body)
        path = drawing.save(tmp_path / "drawing.html")
        whole = path.read_text(encoding="utf-8").replace(_library(), "")
        browsed(whole)


def _library() -> str:
    from lostattn.view.drawing import circuitsvis_script

    return circuitsvis_script()


def test_circuitsvis_own_drawings(text):
    theirs = circuitsvis.tokens.colored_tokens([text, "b"], [0.5, -1.0])
    browsed(Page("T").html(theirs, text).to_html().replace(_library(), ""))


@pytest.mark.filterwarnings("ignore:constrained_layout not applied")
def test_figures(text):
    """An SVG is shown as a picture, in which nothing runs; nor does it hold anything that would."""
    text = text.replace("\ud83d", "")  # which pandas takes for no text
    df = pd.DataFrame(
        {"layer": [0, 1, 0, 1], "update": [text, text, "b", "b"], "rid": [0.1, 0.2, 0.3, 0.4], "model": text}
    )
    rows = {"condition": ["untouched", text], "accuracy": [0.5, 0.25], "low": [0.1, 0.2], "high": [0.6, 0.5]}
    for figure in (
        layer_curves(df, y="rid", title=text, labels={"rid": text}, lines={"rid": {text: 0.3}}),
        accuracy_bars(pd.DataFrame({**rows, "kind": text, "model": text}), title=text, labels={text: text}),
    ):
        svg = to_svg(figure).decode()
        drawn = re.sub(r"<!--.*?-->", "", svg, flags=re.DOTALL)
        assert not re.search(r"<(script|img|iframe|foreignObject|h2|li|b|i|base)\b", drawn, re.IGNORECASE)
        assert "alert" not in drawn, "texts are drawn as paths"
        assert tree.fromstring(svg).tag.endswith("svg")


@pytest.mark.parametrize(
    "label", ["$", "$5 and $6", "$\\frac$", "$x_{$", "\\$", "a^b_c", "$$", "%", "\\alpha", "$\\mathdefault{"]
)
def test_labels_are_shown_as_they_stand(label):
    df = pd.DataFrame({"layer": [0, 1], "update": label, "rid": [1e-9, 2e-9], "model": label})
    figure = layer_curves(df, y="rid", title=label)
    to_svg(figure)
    rows = {"condition": ["untouched", label], "accuracy": [0.5, 0.25], "low": [0.1, 0.2], "high": [0.6, 0.5]}
    to_svg(accuracy_bars(pd.DataFrame({**rows, "kind": label, "model": label}), title=label))
    assert figure._suptitle.get_text() == label and not figure._suptitle.get_parse_math()


def test_the_table_of_models(text):
    """It goes into a page of Markdown, where markup would be markup."""
    verdict = Verdict(
        text, text, "passed", text, 3, 4, text, text, text, text, comparisons={text: {"absent": text}}, differ=text
    )
    table = markdown([verdict])
    assert len(table.splitlines()) == 3 and len({line.count("|") for line in table.splitlines()}) == 1
    assert not re.search(r"<[a-z/!]", table, re.IGNORECASE)
    page = "<!-- summary -->\n<!-- end of summary -->\n<!-- table -->\n<!-- end of table -->\n"
    assert in_page(in_page(page, [verdict]), [verdict]) == in_page(page, [verdict])


def test_a_page_of_half_a_character_is_written(tmp_path):
    assert "half ?" in write_page(tmp_path / "page.html", "half \ud83d").read_text()


def test_pictures_are_what_the_page_says(figure_page):
    for found in re.findall(r"data:image/png;base64,([A-Za-z0-9+/=]+)", figure_page):
        assert base64.b64decode(found).startswith(b"\x89PNG")


@pytest.fixture
def figure_page():
    figure = layer_curves(pd.DataFrame({"layer": [0, 1], "update": "attn", "rid": [0.1, 0.2]}))
    return Page("T").figure(figure, "c", "n").to_html()
