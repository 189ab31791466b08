from __future__ import annotations

import sys

import numpy as np
import pytest
import torch
from matplotlib.collections import PolyCollection

from lostattn.errors import InputError
from lostattn.pictures.patch_grid import PatchGrid
from lostattn.view.image import attention_on_image, overlay

from .conftest import COLS, FIRST, HEADS, HEIGHT, ROWS, WIDTH


def drawn(figure) -> list[PolyCollection]:
    """The patches of each panel that has some (a colour bar's own shading is no patch)."""
    panels = [axes for axes in figure.axes if axes.get_label() != "<colorbar>"]
    return [c for axes in panels for c in axes.collections if isinstance(c, PolyCollection)]


def boxes_of(patches: PolyCollection) -> np.ndarray:
    corners = np.array([path.vertices for path in patches.get_paths()])
    return np.concatenate([corners.min(axis=1), corners.max(axis=1)], axis=1)


def test_overlay_draws_each_value_in_its_box(picture):
    # A grid that covers part of the picture only, as where the processor crops.
    grid = PatchGrid(2, 3, size=(WIDTH, HEIGHT), covers=(5.0, 1.0, 65.0, 51.0))
    values = torch.tensor([0.1, 0.2, 0.3, 0.0, 0.5, 0.4])
    figure = overlay(picture, values, grid, title="Gaze", label="weight")
    (patches,) = drawn(figure)
    np.testing.assert_array_equal(np.asarray(patches.get_array(), np.float32), values)
    expected = [[5, 1, 25, 26], [25, 1, 45, 26], [45, 1, 65, 26], [5, 26, 25, 51], [25, 26, 45, 51], [45, 26, 65, 51]]
    np.testing.assert_allclose(boxes_of(patches), expected)
    assert patches.get_clim() == pytest.approx((0.0, 0.5))
    assert figure.get_suptitle() == "Gaze"
    assert any(axes.get_ylabel() == "weight" for axes in figure.axes)


def test_overlay_without_a_grid_divides_the_picture(picture):
    values = np.arange(6.0).reshape(2, 3) - 2
    (patches,) = drawn(overlay(picture, values, limits=(-3.0, 3.0)))
    np.testing.assert_allclose(boxes_of(patches)[4], [WIDTH / 3, HEIGHT / 2, 2 * WIDTH / 3, HEIGHT])
    assert patches.get_array()[4] == 2.0
    assert patches.get_clim() == (-3.0, 3.0)


def test_overlay_takes_rows_and_columns_with_a_grid(picture, grid):
    values = torch.rand(ROWS, COLS, generator=torch.Generator().manual_seed(0))
    (flat,), (laid_out,) = drawn(overlay(picture, values.flatten(), grid)), drawn(overlay(picture, values, grid))
    np.testing.assert_array_equal(flat.get_array(), laid_out.get_array())


def test_overlay_of_nothing_has_a_scale(picture, grid):
    (patches,) = drawn(overlay(picture, np.zeros((ROWS, COLS)), grid))
    assert patches.get_clim() == (0.0, 1.0)


def test_overlay_refuses_values_that_do_not_fit(picture, grid):
    with pytest.raises(InputError, match=r"shape \(7, 5\), but the grid has 5 x 7 patches. Pass one value for each"):
        overlay(picture, np.zeros((COLS, ROWS)), grid)
    with pytest.raises(InputError, match=r"shape \(35,\). Pass \[row, col\], or a grid="):
        overlay(picture, np.zeros(35))
    with pytest.raises(InputError, match=r"values holds NaN or infinity, which has no colour"):
        overlay(picture, np.full((ROWS, COLS), np.nan), grid)


def test_attention_on_image_shows_the_last_row(picture, prompt, cache):
    figure = attention_on_image(cache, prompt, [0, 3], item=1)
    panels = drawn(figure)
    assert len(panels) == 2 * HEADS
    for index, (layer, head) in enumerate((layer, head) for layer in (0, 3) for head in range(HEADS)):
        expected = cache["pattern", layer][1, head, -1, FIRST : FIRST + ROWS * COLS]
        np.testing.assert_array_equal(np.asarray(panels[index].get_array(), np.float32), expected)
    highest = max(float(p.get_array().max()) for p in panels)
    for patches in panels:
        assert patches.get_clim() == pytest.approx((0.0, highest))
    share = cache["pattern", 0][1, 2, -1, FIRST : FIRST + ROWS * COLS].sum()
    assert f"head 2: {100 * share:.0f} %" in [axes.get_title() for axes in figure.axes]
    assert [a.get_ylabel() for a in figure.axes if a.get_ylabel().startswith("layer")] == ["layer 0", "layer 3"]


def test_attention_on_image_of_chosen_heads_and_query(prompt, cache):
    panels = drawn(attention_on_image(cache, prompt, 3, heads=[2, 0], query=-4))
    assert len(panels) == 2
    for patches, head in zip(panels, (2, 0), strict=True):
        expected = cache["pattern", 3][0, head, -4, FIRST : FIRST + ROWS * COLS]
        np.testing.assert_array_equal(np.asarray(patches.get_array(), np.float32), expected)


def test_attention_on_image_in_several_rows(prompt, cache):
    figure = attention_on_image(cache, prompt, 3, columns=2)
    spec = figure.axes[0].get_gridspec()
    assert (spec.nrows, spec.ncols) == (2, 2)
    assert len(drawn(figure)) == HEADS


def test_attention_on_image_refuses(prompt, cache):
    with pytest.raises(InputError, match=r"There is no query 99: the cache holds \d+ rows"):
        attention_on_image(cache, prompt, 3, query=99)
    with pytest.raises(InputError, match=r"There is no image 1"):
        attention_on_image(cache, prompt, 3, image=1)
    with pytest.raises(InputError, match=r"layers is empty"):
        attention_on_image(cache, prompt, [])
    with pytest.raises(InputError, match=r"heads asks for head 7"):
        attention_on_image(cache, prompt, 3, heads=[7])


def test_figures_show_themselves_without_pyplot(picture):
    figure = overlay(picture, np.ones((2, 3)))
    assert figure._repr_png_().startswith(b"\x89PNG")
    assert "matplotlib.pyplot" not in sys.modules or not sys.modules["matplotlib.pyplot"].get_fignums()
