"""Boxes of pixels and the image tokens that see them."""

from __future__ import annotations

import pytest
import torch

from lostattn.errors import InputError
from lostattn.pictures.patch_grid import PatchGrid, UnknownGrid
from lostattn.prompt.token_map import TokenMap

# Two rows of three tokens, 10 by 10 pixels each, over a picture of 30 by 20.
GRID = PatchGrid(2, 3, size=(30, 20), covers=(0.0, 0.0, 30.0, 20.0))


@pytest.mark.parametrize(
    ("box", "tokens"),
    [
        ((10, 10, 20, 20), [4]),  # exactly one token: what ends at its edge is not touched
        ((9, 3, 11, 5), [0, 1]),
        ((9.5, 9.5, 20.5, 10.5), [0, 1, 2, 3, 4, 5]),
        ((29, 0, 30, 20), [2, 5]),
        ((30, 0, 40, 20), []),
    ],
)
def test_the_tokens_that_a_box_touches(box, tokens) -> None:
    assert GRID.touching(box) == tokens


def test_a_token_in_the_padding_sees_nothing() -> None:
    padded = PatchGrid(2, 2, size=(10, 20), covers=(-10.0, 0.0, 10.0, 20.0))
    assert padded.touching((0, 0, 10, 20)) == [1, 3]


def test_positions_of_boxes_item_by_item() -> None:
    """Two items: one picture after a word, and two pictures of which the second is meant."""
    part = torch.tensor([[0, 0, 0, 0, 0, 0, 1, *[2] * 6, 3], [1, *[2] * 6, *[2] * 6, 3]])
    image = torch.tensor([[*[-1] * 7, *[0] * 6, -1], [-1, *[0] * 6, *[1] * 6, -1]])
    patch = torch.tensor([[*[-1] * 7, *range(6), -1], [-1, *range(6), *range(6), -1]])
    token_map = TokenMap(part, image, patch, ((GRID,), (GRID, GRID)), (True, True))
    found = token_map.in_boxes([(0, 0, 11, 5), (20, 10, 30, 20)], images=[0, 1])
    assert found.nonzero().tolist() == [[0, 7], [0, 8], [1, 12]]
    assert token_map.resolve(found).equal(found)
    for boxes, images, message in (
        ([(0, 0, 1, 1)], 0, "1 boxes and 2 images for 2 items"),
        ([(0, 0, 1, 1)] * 2, 1, "images holds 1; item 0 holds 1 images"),
        ([(40, 0, 41, 1)] * 2, 0, "no token of image 0 of item 0 sees the box"),
        ([(4, 4, 4, 8)] * 2, 0, "box is \\(4, 4, 4, 8\\); expected"),
    ):
        with pytest.raises(InputError, match=message):
            token_map.in_boxes(boxes, images)
    with pytest.raises(InputError, match="not known: no reason"):
        UnknownGrid("no reason").touching((0, 0, 1, 1))
