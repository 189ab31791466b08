"""The drawings of CircuitsVis: heads and coloured tokens."""

from __future__ import annotations

import json
import re
import subprocess
import sys

import bounds
import numpy as np
import pytest
import torch

from lostattn.errors import InputError
from lostattn.pictures.patch_grid import UnknownGrid
from lostattn.view import heads
from lostattn.view.colored_tokens import tokens
from lostattn.view.drawing import Drawing, circuitsvis_script, script_json
from lostattn.view.heads import attention

from .conftest import COLS, HEADS, N_POS, PAD, ROWS

FOUR = 0.5e-4 + bounds.unit()  # a weight of four decimals, held in single precision


def call(body: str) -> tuple[str, dict]:
    """The element that a drawing calls, and the props it is given."""
    ((place, name, props),) = re.findall(r'CircuitsVis\.render\("([\w-]+)", CircuitsVis\.(\w+), (.*)\)</script>', body)
    assert f'<div id="{place}"></div>' in body
    return name, json.loads(props)


def test_heads_are_those_of_the_item_without_its_padding(prompt, cache):
    drawing = attention(cache, prompt, layer=3, item=1)
    name, props = call(drawing.body)
    assert name == "AttentionHeads"
    np.testing.assert_allclose(props["attention"], cache["pattern", 3][1, :, PAD:, PAD:], rtol=0, atol=FOUR)
    assert props["attentionHeadNames"] == ["H0", "H1", "H2"]
    assert len(props["tokens"]) == N_POS - PAD
    assert props["tokens"][2:4] == ["img[0,0]", "img[0,1]"]
    assert props["maskUpperTri"] is True
    assert drawing.title == "Attention in layer 3"


def test_chosen_heads_in_the_order_given(prompt, cache):
    _, props = call(attention(cache, prompt, 3, heads=[2, 0]).body)
    assert props["attentionHeadNames"] == ["H2", "H0"]
    np.testing.assert_allclose(props["attention"][0], cache["pattern", 3][0, 2], rtol=0, atol=FOUR)


def test_the_picture_stands_beside_the_heads(prompt, cache):
    body = attention(cache, prompt, 3).body
    assert body.count('<img src="data:image/png;base64,') == 1
    assert 'alt="Attention of the last position to the image in layer 3: one panel for each head"' in body


def test_heads_without_a_known_grid_say_why_there_is_no_picture(prompt, cache):
    lost = UnknownGrid("9 tokens for <b>4</b> patches")
    object.__setattr__(prompt.token_map, "grids", ((lost,), (lost,)))
    body = attention(cache, prompt, 3).body
    assert "<img" not in body
    assert "not known: 9 tokens for &lt;b&gt;4&lt;/b&gt; patches" in body
    assert call(body)[0] == "AttentionHeads"


def test_heads_of_a_prompt_without_images(prompt, cache):
    object.__setattr__(prompt.token_map, "grids", ((), ()))
    prompt.token_map.image_index.fill_(-1)
    assert "<p>The prompt holds no image.</p>" in attention(cache, prompt, 3).body


def test_one_kept_row_colours_the_tokens(prompt, cache):
    kept = {("pattern", 3): cache["pattern", 3][:, :, -1:]}
    name, props = call(attention(kept, prompt, 3, item=1).body)
    assert name == "ColoredTokensMulti"
    np.testing.assert_allclose(props["values"], cache["pattern", 3][1, :, -1, PAD:].T, rtol=0, atol=FOUR)
    assert props["labels"] == ["H0", "H1", "H2"]


def test_a_long_prompt_colours_the_tokens(prompt, cache, monkeypatch):
    monkeypatch.setattr(heads, "LONGEST", N_POS - 1)
    assert call(attention(cache, prompt, 3).body)[0] == "ColoredTokensMulti"
    monkeypatch.setattr(heads, "LONGEST", N_POS)
    assert call(attention(cache, prompt, 3).body)[0] == "AttentionHeads"


def test_attention_refuses_a_head_that_is_not_there(prompt, cache):
    with pytest.raises(InputError, match=rf"heads asks for head {HEADS}"):
        attention(cache, prompt, 3, heads=[HEADS])


def test_tokens_are_coloured_at_real_positions(prompt):
    values = torch.arange(2.0 * N_POS).reshape(2, N_POS)
    name, props = call(tokens(prompt, values, item=1).body)
    assert name == "ColoredTokens"
    assert props["values"] == values[1, PAD:].tolist()
    for given in (values[1], values[1].numpy(), values[1, PAD:].tolist()):
        assert call(tokens(prompt, given, item=1).body)[1]["values"] == props["values"]


def test_tokens_of_several_kinds(prompt):
    values = torch.rand(N_POS, 2, generator=torch.Generator().manual_seed(0))
    name, props = call(tokens(prompt, values, item=1, labels=["rid", "mixig"]).body)
    assert (name, props["labels"]) == ("ColoredTokensMulti", ["rid", "mixig"])
    np.testing.assert_allclose(props["values"], values[PAD:], rtol=0, atol=0.5e-6 + bounds.unit())  # of six decimals


def test_tokens_refuse_values_that_do_not_fit(prompt):
    with pytest.raises(InputError, match=rf"\(4,\); item 1 has {N_POS - PAD} real positions of {N_POS}. Pass one for"):
        tokens(prompt, torch.zeros(4), item=1)
    with pytest.raises(InputError, match=r"Pass \[pos, kind\] with 3 kinds, as labels"):
        tokens(prompt, torch.zeros(N_POS, 2), labels=["a", "b", "c"])
    with pytest.raises(InputError, match=r"values holds NaN or infinity"):
        tokens(prompt, torch.full((N_POS,), torch.nan))


def test_text_of_tokens_cannot_end_the_script(prompt, cache):
    hostile = "</script><script>alert(1)</script>"
    for drawing in (tokens(prompt, torch.zeros(N_POS)), attention(cache, prompt, 3)):
        assert hostile not in drawing.body
        assert drawing.body.count("</script>") == 1
    # CircuitsVis takes coloured tokens for HTML, patterns' labels for text.
    assert (
        "&lt;/script&gt;&lt;script&gt;alert(1)&lt;/script&gt;"
        in call(tokens(prompt, torch.zeros(N_POS)).body)[1]["tokens"]
    )
    assert hostile in call(attention(cache, prompt, 3).body)[1]["tokens"]


def test_script_json_survives_both_parsers():
    value = {"a": "</script><!-- & ü ⏎", "b": [1.5, None, True]}
    text = script_json(value)
    assert not set(text) & set("<>&")
    assert json.loads(text) == value


def test_every_drawing_has_a_place_of_its_own(prompt):
    places = {re.findall(r'id="([\w-]+)"', tokens(prompt, torch.zeros(N_POS)).body)[0] for _ in range(7)}
    assert len(places) == 7


def test_the_script_is_one_element_that_asks_for_nothing():
    script = circuitsvis_script()
    assert script.count("</script") == 1 and script.endswith("</script>")
    assert "var CircuitsVis=" in script
    assert "sourceMappingURL" not in script


def test_a_notebook_gets_the_script_and_the_drawing(prompt):
    drawing = tokens(prompt, torch.zeros(N_POS))
    shown = drawing._repr_html_()
    assert shown.startswith("<script>") and shown.endswith(drawing.body)
    assert Drawing("<p>plain</p>", "plain", needs_script=False)._repr_html_() == "<p>plain</p>"


def test_a_drawing_saves_itself_as_a_page(prompt, tmp_path):
    path = tokens(prompt, torch.zeros(N_POS), title="a < b").save(tmp_path / "new" / "tokens.html")
    text = path.read_text()
    assert text.startswith("<!doctype html>") and "<title>a &lt; b</title>" in text
    assert text.count("var CircuitsVis=") == 1


def test_importing_the_views_loads_nothing_heavy():
    code = (
        "import sys, lostattn.view as view\n"
        "assert sorted(view.__all__) == dir(view)\n"
        "heavy = {'matplotlib', 'circuitsvis', 'pandas', 'torch'} & set(sys.modules)\n"
        "assert not heavy, heavy\n"
        "for name in view.__all__: assert callable(getattr(view, name)), name\n"
        "heavy = {'matplotlib', 'circuitsvis', 'pandas'} & set(sys.modules)\n"
        "assert not heavy, heavy\n"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr


def test_an_unknown_view_is_an_attribute_error():
    import lostattn.view

    with pytest.raises(AttributeError, match="has no attribute 'pictures'"):
        lostattn.view.pictures  # noqa: B018


def test_patch_labels_cover_the_grid(prompt):
    _, props = call(tokens(prompt, torch.zeros(N_POS)).body)
    assert [t for t in props["tokens"] if t.startswith("img[")] == [
        f"img[{row},{col}]" for row in range(ROWS) for col in range(COLS)
    ]
