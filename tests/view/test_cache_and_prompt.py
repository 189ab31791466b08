"""A view shows what its cache is about, and lets the picture be seen under what it draws."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.collections import PolyCollection
from PIL import Image

import lostattn as la
from lostattn.errors import InputError
from lostattn.pictures.patch_grid import PatchGrid
from lostattn.view.image import overlay


@pytest.fixture(scope="module")
def two(tiny_llava):
    """Two prompts of equal length about different pictures, and the cache of the first."""
    questions = la.data.load("shapes", split="test", n=40, seed=3)
    one = next(q for q in questions if len(q.images) == 1)
    other = next(q for q in questions if len(q.images) == 1 and q.group != one.group)
    first, second = (tiny_llava.prompt(one.text, images=list(q.images)) for q in (one, other))
    assert first.n_pos == second.n_pos
    return first, second, tiny_llava.run_with_cache(first, lambda name: name.endswith("attn.hook_pattern"))[1]


def test_one_picture_s_map_is_not_drawn_over_another(two, tiny_llava):
    first, second, cache = two
    for draw in (la.view.attention_on_image, la.view.attention):
        with pytest.raises(InputError, match=r"another prompt.*cache\.prompt"):
            draw(cache, second, 2)
    la.view.attention_on_image(cache, first, 2)
    la.view.attention_on_image(cache, tiny_llava.prompt(first.texts[0], images=list(first.images[0])), 2)  # made again


def test_queries_and_heads_by_name(two):
    prompt, _, cache = two
    by_number, by_name = (la.view.attention_on_image(cache, prompt, 2, heads=[1], query=q) for q in (-1, "last"))
    (a,), (b,) = (_values(f) for f in (by_number, by_name))
    np.testing.assert_array_equal(a, b)
    (mean,) = _values(la.view.attention_on_image(cache, prompt, 2, heads="mean"))
    every = np.stack(_values(la.view.attention_on_image(cache, prompt, 2)))
    np.testing.assert_allclose(mean, every.mean(0), rtol=len(every) * np.finfo(np.float32).eps)


@pytest.mark.parametrize("query", ["image", "question", 10**6, "no such thing"])
def test_a_query_that_names_no_single_position_is_refused(two, query):
    prompt, _, cache = two
    with pytest.raises(InputError):
        la.view.attention_on_image(cache, prompt, 2, query=query)


@pytest.mark.parametrize("heads", ["all", {2: [0]}, [0.5], ["1"], 99, []])
def test_heads_that_are_none_are_refused(two, heads):
    prompt, _, cache = two
    with pytest.raises(InputError, match="head"):
        la.view.attention_on_image(cache, prompt, 2, heads=heads)


@pytest.mark.parametrize(
    "make",
    [
        lambda heads: la.Ablate("head", layers=[1, 3], heads=heads),
        lambda heads: la.KnockOut("last", "image", layers=[1, 3], heads=heads),
        lambda heads: la.ScaleAttention(0.5, keys="image", layers=[1, 3], heads=heads),
        lambda heads: la.ReplaceAttention(la.Uniform(), layers=[1, 3], heads=heads),
    ],
    ids=("ablate", "knock out", "scale", "replace"),
)
def test_heads_by_layer_are_not_taken_for_heads(make):
    """The keys of ``{1: [0], 3: [2]}`` are layers: taken as heads, 1 and 3 would be edited in both layers."""
    edit = make({1: [0], 3: [2]})
    assert edit.heads == {1: (0,), 3: (2,)} and edit.layers == (1, 3)
    with pytest.raises(InputError, match="heads by layer are given as heads="):
        la.Ablate("mlp", layers={1: [0], 3: [2]})


def _values(figure) -> list[np.ndarray]:
    found = (c for axes in figure.axes for c in axes.collections if isinstance(c, PolyCollection))
    return [np.asarray(c.get_array()) for c in found if c.axes.get_label() != "<colorbar>"]


def _drawn(values: torch.Tensor, side: int) -> np.ndarray:
    """A red square on blue, under a map: the picture's panel as pixels."""
    picture = Image.new("RGB", (side * 8, side * 8), (40, 60, 200))
    picture.paste((220, 30, 30), (0, 0, side * 4, side * 4))
    whole = (0.0, 0.0, side * 8.0, side * 8.0)
    figure = overlay(picture, values, PatchGrid(side, side, size=picture.size, covers=whole))
    canvas = FigureCanvasAgg(figure)
    canvas.draw()
    axes = next(a for a in figure.axes if any(isinstance(c, PolyCollection) for c in a.collections))
    left, bottom, right, top = (round(v) for v in axes.get_window_extent().extents)
    pixels = np.asarray(canvas.buffer_rgba())[..., :3]
    return pixels[len(pixels) - top : len(pixels) - bottom, left:right].astype(float)


@pytest.mark.parametrize("side", [6, 24, 37])
def test_the_object_keeps_its_colour_under_the_lowest_weights(side):
    """All weight lies in the last patch; the object is in the first quarter, where there is none."""
    values = torch.zeros(side * side)
    values[-1] = 1.0
    pixels = _drawn(values, side)
    high, wide = pixels.shape[:2]
    red = pixels[high // 8 : high // 4, wide // 8 : wide // 4].reshape(-1, 3)
    blue = pixels[high // 8 : high // 4, 3 * wide // 4 : 7 * wide // 8].reshape(-1, 3)
    assert (red[:, 0] > red[:, 2] + 80).mean() > 0.8 and (blue[:, 2] > blue[:, 0] + 80).mean() > 0.8


def test_an_attribution_is_drawn_over_its_own_picture_alone(two, tiny_llava):
    first, second, _ = two
    _, cache = tiny_llava.run_with_cache(first)
    found = la.lenses.image_attribution(cache, la.answers.answer_tokens(tiny_llava, first, "red"), layers=[2])
    assert found.figure(prompt=first, cmap="viridis", lines=False).axes
    with pytest.raises(InputError, match=r"another prompt.*cache\.prompt"):
        found.figure(prompt=second)
