"""How figures look where one says it: axes, colours and lines of one's own; words as they are, in the room there is."""

from __future__ import annotations

import inspect

import matplotlib
import numpy as np
import pandas as pd
import pytest
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.collections import PolyCollection
from matplotlib.figure import Figure
from matplotlib.text import Text

import lostattn as la
from lostattn.errors import InputError
from lostattn.view.panels import check_switch
from lostattn.view.words import fitted

VALUES = np.linspace(0.0, 1.0, 35)
DOLLARS = "costs $5_{x and $ \\frac{ more"
CURVES = pd.DataFrame(
    {"layer": [0, 1, 2] * 2, "update": ["attn"] * 3 + [DOLLARS] * 3, "rid": [0.1, 0.3, 0.2, 0.5, 0.4, 0.6]}
)
BARS = pd.DataFrame(
    {"condition": ["untouched", DOLLARS, "x" * 90], "kind": "all", "accuracy": [0.9, 0.5, 0.2], "low": 0.1, "high": 1.0}
)


def draw_all(prompt, cache, picture, grid, **looks):
    """Every figure function of the views, with words that are no formula."""
    words = {"title": f"{DOLLARS} {DOLLARS}"}
    yield la.view.overlay(picture, VALUES, grid, label=DOLLARS, **words, **looks)
    yield la.view.overlays(picture, [VALUES, VALUES], grid, titles=[DOLLARS, "y" * 99], **words, **looks)
    yield la.view.attention_on_image(cache, prompt, 0, **words, **looks)
    named = {"labels": {"rid": DOLLARS, "layer": DOLLARS}, "lines": {"rid": {DOLLARS: 0.2}}}
    yield la.view.layer_curves(CURVES.assign(model=DOLLARS), **named, **words, **looks)
    yield la.view.accuracy_bars(BARS.assign(model=DOLLARS), labels={"all": DOLLARS}, **words, **looks)


def test_every_figure_function_takes_axes_colours_and_lines():
    figures = [name for name in la.view.__all__ if inspect.isfunction(getattr(la.view, name))]
    drawn = [f for f in figures if "Figure" in str(inspect.signature(getattr(la.view, f)).return_annotation)]
    assert sorted(drawn) == ["accuracy_bars", "attention_on_image", "layer_curves", "overlay", "overlays"]
    for name in drawn:
        assert {"ax", "cmap", "grid"} <= set(inspect.signature(getattr(la.view, name)).parameters)


def test_words_are_never_read_as_formulas(prompt, cache, picture, grid):
    """A single or an odd ``$`` and half a formula are drawn as they are."""
    for figure in draw_all(prompt, cache, picture, grid):
        FigureCanvasAgg(figure).draw()
        said = "".join(text.get_text() for text in figure.findobj(Text)).replace("\n", " ")
        assert DOLLARS[:8] in said
        shown = [text for text in figure.findobj(Text) if "$5" in text.get_text()]
        assert not any(text.get_parse_math() and r"\$5" not in text.get_text() for text in shown)


def test_titles_stay_within_the_figure(prompt, cache, picture, grid):
    for figure in draw_all(prompt, cache, picture, grid):
        FigureCanvasAgg(figure).draw()
        title = figure._suptitle.get_window_extent()
        assert 0 <= title.x0 and title.x1 <= figure.bbox.x1
    long = fitted("one two three four five six seven eight", inches=1.0, size=10)
    assert long.count("\n") == 1 and long.endswith("…") and max(map(len, long.split("\n"))) <= 13
    assert fitted("short", 2, 10) == "short" and fitted("a\nb", 2, 10) == "a\nb"
    assert fitted("z" * 50, 1, 10, 1).endswith("…")


def panels_of(figure):
    return [axes for axes in figure.axes if axes.get_visible() and axes.get_label() != "<colorbar>"]


def maps_of(figure):
    return [axes for axes in figure.axes if any(isinstance(c, PolyCollection) for c in axes.collections)]


def test_figures_are_drawn_in_axes_that_are_given(prompt, cache, picture, grid):
    outer = Figure(figsize=(9, 4), layout="constrained")
    (first, second), (third, fourth) = outer.subplots(2, 2)
    alone = la.view.overlay(picture, VALUES, grid, ax=first, title="mine")
    assert alone is outer and first.get_title() == "mine" and maps_of(outer) == [first]
    assert outer._suptitle is None
    la.view.attention_on_image(cache, prompt, 3, heads="mean", ax=second)
    assert second.get_title().startswith("layer 3, mean of heads: ")
    own = la.view.attention_on_image(cache, prompt, 3, heads="mean")
    drawn = [next(c for c in axes.collections if isinstance(c, PolyCollection)) for axes in (second, *maps_of(own))]
    np.testing.assert_array_equal(drawn[0].get_array(), drawn[1].get_array())
    assert la.view.layer_curves(CURVES, ax=third, title="curves") is outer and len(third.lines) == 2
    assert la.view.accuracy_bars(BARS, ax=fourth) is outer and len(fourth.patches) == 3
    FigureCanvasAgg(outer).draw()
    row = Figure(figsize=(9, 3)).subplots(1, 3)
    la.view.overlays(picture, [VALUES, VALUES], grid, titles=["a", "b"], ax=row)
    assert [axes.get_title() for axes in row] == ["picture", "a", "b"]
    half = Figure(figsize=(9, 3)).subfigures(1, 2)[1].subplots(1, 2)
    assert la.view.overlay(picture, VALUES, grid, ax=half) is half[0].get_figure(root=True)


def test_axes_that_do_not_fit_are_refused(prompt, cache, picture, grid):
    axes = Figure().subplots(1, 5)
    for draw, why in (
        (lambda ax: la.view.overlay(picture, VALUES, grid, ax=ax), "there are 1 maps, .* expected 1 or 2"),
        (lambda ax: la.view.overlays(picture, [VALUES] * 2, grid, titles=["a", "b"], ax=ax), "expected 2 or 3"),
        (lambda ax: la.view.attention_on_image(cache, prompt, 0, ax=ax), "expected 3 or 4"),
        (lambda ax: la.view.layer_curves(CURVES, ax=ax), "1 panels, one for each y and model"),
        (lambda ax: la.view.accuracy_bars(BARS, ax=ax), "1 panels, one for each kind and model"),
    ):
        with pytest.raises(InputError, match=why):
            draw(axes)
        for none in ("left", [], [None], Figure()):
            with pytest.raises(InputError, match="expected matplotlib axes"):
                draw(none)


def test_colours_are_those_asked_for(prompt, cache, picture, grid):
    for cmap in ("viridis", matplotlib.colormaps["viridis"]):
        for figure in draw_all(prompt, cache, picture, grid, cmap=cmap):
            for axes in maps_of(figure):
                found = [c.get_cmap().name for c in axes.collections if c.get_array() is not None]
                assert set(found) == {"viridis"} or not found
    curves = la.view.layer_curves(CURVES, cmap="viridis")
    assert curves.axes[0].lines[0].get_color() == matplotlib.colormaps["viridis"](0.0)
    for draw in (
        lambda: la.view.overlay(picture, VALUES, grid, cmap="virids"),
        lambda: la.view.attention_on_image(cache, prompt, 0, cmap="virids"),
        lambda: la.view.layer_curves(CURVES, cmap="virids"),
        lambda: la.view.accuracy_bars(BARS, cmap="virids"),
    ):
        with pytest.raises(InputError, match="cmap is 'virids'; .* Did you mean 'viridis'"):
            draw()
    with pytest.raises(InputError, match="cmap is 3; expected a matplotlib colormap"):
        la.view.overlay(picture, VALUES, grid, cmap=3)


def test_lines_are_drawn_where_they_are_asked_for(prompt, cache, picture, grid):
    many = np.ones((13, 13))
    lined = {lines: _edged(la.view.overlay(picture, many, lines=lines)) for lines in (None, True, False)}
    assert lined == {None: False, True: True, False: False}
    assert _edged(la.view.overlay(picture, many, grid=True))
    assert not _edged(la.view.overlay(picture, VALUES, grid, lines=False))
    assert _edged(la.view.overlay(picture, VALUES, grid))
    assert not _edged(la.view.attention_on_image(cache, prompt, 0, grid=False))
    for lined in (True, False):
        for figure in (la.view.layer_curves(CURVES, grid=lined), la.view.accuracy_bars(BARS, grid=lined)):
            FigureCanvasAgg(figure).draw()
            assert any(line.get_visible() for line in panels_of(figure)[0].get_xgridlines()) == lined
    with pytest.raises(InputError, match="grid is 'yes'; expected True, False, or None"):
        check_switch("grid", "yes")


def _edged(figure):
    patches = next(c for c in maps_of(figure)[0].collections if isinstance(c, PolyCollection))
    return len(patches.get_edgecolor()) > 0


def test_a_picture_of_another_size_than_the_grid_s_is_refused(picture, grid):
    with pytest.raises(InputError, match="the picture is 35 x 55 pixels, and the grid lies on one of 70 x 55"):
        la.view.overlay(picture.resize((35, 55)), VALUES, grid)
    with pytest.raises(InputError, match="not of the same picture"):
        la.view.overlays(picture.resize((70, 54)), [VALUES], grid, titles=["a"])
