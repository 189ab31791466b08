"""Pixel boxes of image processors that keep a picture's own size or see it in slices: paint one token's box."""

from __future__ import annotations

import pytest
from painting import inside
from PIL import Image
from prepared import PREPARED

WIDE, TALL = (500, 310), (260, 530)
GRIDS = {
    # 500 x 310 is less than 448 squared: enlarged to 560 x 336 pixels of 56 a token.
    ("minicpmv4_6", WIDE): "6 x 10",
    # One row of two slices of 450 x 600, each near 448 squared: 392 x 504.
    ("minicpmv4_6", (900, 600)): "7 x 10 + 2 of 9 x 7",
    # Two rows of two slices of 320 x 450, each 364 x 532 pixels of 28 a token; so is the whole.
    ("minicpmv4_6 4x", (640, 900)): "5 of 19 x 13",
    ("mistral3", WIDE): "10 x 16",  # 448 x 277 pixels fill 10 x 16 tokens of 28
    ("mistral3", TALL): "16 x 8",
    ("emu3", WIDE): "25 x 40",
    ("emu3", TALL): "45 x 22",
    ("fuyu", WIDE): "11 x 17",  # not enlarged: 310 and 500 pixels, padded to whole patches of 30
    ("fuyu", (900, 260)): "6 x 20",  # shrunk to 600 x 173
}


def painted(name, size, box):
    """The cells that the pixels of a box reach."""
    case, plain = PREPARED[name], Image.new("RGB", size, (90, 90, 90))
    other = plain.copy()
    other.paste((255, 0, 127), box)
    return case.reached(case.inputs(plain), case.inputs(other), case.grid(size))


@pytest.mark.parametrize(("name", "size"), GRIDS)
def test_the_box_of_a_token_holds_its_pixels_and_no_others(name, size):
    grid = PREPARED[name].grid(size)
    assert str(grid) == GRIDS[name, size]
    start = 0
    for k, tile in enumerate(grid.tiles):
        boxes = tile.boxes()
        for row, col in {(0, tile.cols - 1), (tile.rows - 1, tile.cols // 2)}:
            reached = painted(name, size, inside(boxes[row * tile.cols + col]))
            assert {cell for cell in reached if cell[0] == k} == {(k, row, col)}
        start += len(tile)
    assert start == len(grid)
