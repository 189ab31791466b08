"""Overlays on pictures that are cut into tiles: every value in its patch's place, tiles and thumbnail apart."""

from __future__ import annotations

import bounds
import numpy as np
import torch
from painting import noise, prompt
from panels import panels_of

from lostattn.view.image import overlay
from lostattn.view.reading import token_labels


def test_tiles_are_drawn_where_they_lie_and_the_thumbnail_on_a_picture_of_its_own():
    given = prompt("internvl", noise(500, 300))
    (grid,) = given.token_map.grids[0]
    values = torch.arange(float(len(grid)))
    tiles, thumbnail = panels_of(overlay(given.images[0][0], values, grid))
    assert tiles[0] == "tiles, 1536 patches" and thumbnail[0] == "thumbnail, 256 patches"
    off = 500 * bounds.sums(4)  # corners, widths and back again in single precision
    np.testing.assert_allclose(np.concatenate([tiles[1], thumbnail[1]]), grid.boxes(), rtol=0, atol=off)
    np.testing.assert_array_equal(np.concatenate([tiles[2], thumbnail[2]]), values)
    # The second tile lies to the right of the first, and its first patch begins where that ends.
    np.testing.assert_allclose(tiles[1][256][:2], [500 / 3, 0], rtol=0, atol=off)
    labels = token_labels(given, 0)
    assert "img[tile 0,1 0,0]" in labels and "img[thumbnail 15,15]" in labels and "<img>" in labels
