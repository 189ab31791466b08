"""The views on a real prompt and a real pass of both tiny models."""

from __future__ import annotations

import re

import numpy as np

from lostattn.view.colored_tokens import tokens
from lostattn.view.heads import attention
from lostattn.view.image import attention_on_image
from lostattn.view.page import Page

from .test_image import drawn


def test_views_of_a_real_pass(tiny_model, shapes_questions, tmp_path):
    prompt = tiny_model.prompt(list(shapes_questions[:3]))
    _, cache = tiny_model.run_with_cache(prompt, names_filter=lambda name: name.endswith("hook_pattern"))
    item = next(i for i, images in enumerate(prompt.images) if len(images) == 1)
    at = prompt.token_map["image"][item]
    figure = attention_on_image(cache, prompt, [0, 2], item=item)
    panels = drawn(figure)
    assert len(panels) == 2 * tiny_model.cfg.n_heads
    expected = cache["pattern", 2][item, 1, -1][at]  # patches come in the order of the grid in both families
    np.testing.assert_array_equal(np.asarray(panels[tiny_model.cfg.n_heads + 1].get_array(), np.float32), expected)
    grid = prompt.token_map.grids[item][0]
    drawing = attention(cache, prompt, 2, item=item)
    assert f"img[{grid.rows - 1},{grid.cols - 1}]" in drawing.body and "<img " in drawing.body
    values = cache["pattern", 2][item, :, -1].mean(0)
    page = Page("Real").figure(figure, "Attention", "attention").html(drawing).html(tokens(prompt, values, item=item))
    html = page.save(tmp_path / "real.html").read_text()
    assert len(re.findall(r"CircuitsVis\.render\(\"", html)) == 2
