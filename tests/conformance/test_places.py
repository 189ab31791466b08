"""Where image tokens lie, proved on tiny models: paint one token's pixels, and the token that the map names moves."""

from __future__ import annotations

import functools
import random

import bounds
import pytest
import torch
from drawn import DRAWN, Drawn
from silenced import embedded, silenced

from lostattn.checkpoint.no_processor import NoProcessor
from lostattn.conformance.inputs import picture_inputs
from lostattn.conformance.models import build
from lostattn.errors import InputError
from lostattn.prompt import build_prompt
from lostattn.prompt.token_map import TokenMap

pytestmark = pytest.mark.slow


@functools.cache
def pictures(family: str) -> list[torch.Tensor]:
    generator = torch.Generator().manual_seed(0)
    return [torch.randn(3, *side, generator=generator) for side in DRAWN[family].sides]


@functools.cache
def plain(family: str) -> tuple[TokenMap, torch.Tensor]:
    """The token map of the drawn inputs, and what the decoder is handed of them."""
    model = silenced(family)
    inputs = DRAWN[family].inputs(model, pictures(family))
    given = build_prompt(NoProcessor(), model.config, inputs=inputs)
    return given.token_map, embedded(model, inputs)


def moved(family: str, view: int, row: int, col: int) -> torch.Tensor:
    """The positions that change when the square of one token is painted."""
    drawn, model = DRAWN[family], silenced(family)
    out = torch.zeros(len(plain(family)[1]), dtype=torch.bool)
    for seed in range(5):  # a tower of codes may give a square the code that it had
        views = [one.clone() for one in pictures(family)]
        square = views[view][:, row * drawn.step : (row + 1) * drawn.step, col * drawn.step : (col + 1) * drawn.step]
        square += 3 * torch.randn(square.shape, generator=torch.Generator().manual_seed(seed))
        after = embedded(model, drawn.inputs(model, views))
        out = bounds.changed(after, plain(family)[1])
        if out.any():
            break
    return out


def named(family: str, view: int, row: int, col: int, fault=lambda place: place) -> torch.Tensor:
    """The positions that the token map says are made of that square."""
    token_map = plain(family)[0]
    picture, tile, row, col = fault(DRAWN[family].where(view, row, col))
    tiles = token_map.grids[0][picture].tiles
    patch = sum(map(len, tiles[:tile])) + row * tiles[tile].cols + col
    return (token_map.image_index[0] == picture) & (token_map.patch_index[0] == patch)


def cells(drawn: Drawn) -> list[tuple[int, int, int]]:
    """Some tokens of the first views and of the last: the last of the first row, and one at random."""
    found = []
    for view in sorted({0, min(3, len(drawn.sides) - 1), len(drawn.sides) - 1}):
        high, wide = drawn.sides[view]
        rows, cols = high // drawn.step, -(-wide // drawn.step)
        chosen = random.Random(view)
        some = {(0, cols - 1), (chosen.randrange(rows), chosen.randrange(cols))}
        found += [(view, row, col) for row, col in sorted(some)]
    return found


@pytest.mark.parametrize("family", DRAWN)
def test_painting_the_square_of_a_token_changes_it_and_no_other(family):
    token_map, _ = plain(family)
    assert tuple(map(str, token_map.grids[0])) == DRAWN[family].grids
    for cell in cells(DRAWN[family]):
        expected = named(family, *cell)
        assert expected.sum() == 1
        assert torch.equal(moved(family, *cell), expected), cell


def transposed(place):
    """Rows taken for columns."""
    picture, tile, row, col = place
    return picture, tile, col, row


def off_by_one(place):
    """The token before."""
    picture, tile, row, col = place
    return picture, tile, row, col - 1


def other_tile(place):
    """The tile before."""
    picture, tile, row, col = place
    return picture, tile - 1, row, col


@pytest.mark.parametrize(
    ("family", "fault", "cell"),
    [
        ("got_ocr2", transposed, (0, 0, 1)), ("got_ocr2", off_by_one, (1, 1, 1)), ("gemma4", transposed, (0, 0, 1)),
        ("gemma4", off_by_one, (0, 1, 2)), ("fuyu", transposed, (0, 1, 2)), ("molmo2", other_tile, (1, 2, 3)),
        ("minicpmv4_6", other_tile, (3, 1, 0)), ("step3p7", off_by_one, (3, 1, 1)),
        ("unlimited_ocr", transposed, (1, 0, 1)), ("chameleon", off_by_one, (0, 1, 2)),
    ],
)  # fmt: skip
def test_a_grid_that_is_wrong_is_caught(family, fault, cell):
    changed = moved(family, *cell)
    assert torch.equal(changed, named(family, *cell))
    assert not torch.equal(changed, named(family, *cell, fault=fault))


@pytest.mark.parametrize(("family", "separators"), [("aria", 0), ("deepseek_ocr2", 1)])
def test_queries_over_the_whole_picture_have_no_place_and_say_so(family, separators):
    """Any pixel changes every one of them, and not the separator behind them."""
    model = build(family)
    inputs, _ = picture_inputs(model, family)
    token_map = build_prompt(NoProcessor(), model.config, inputs=inputs).token_map
    (grid,) = token_map.grids[0]
    assert not grid and "no place in the picture: resampled by" in str(grid)
    with pytest.raises(InputError, match="have no place in the picture"):
        grid.boxes()
    painted = {**inputs, "pixel_values": inputs["pixel_values"].clone()}
    painted["pixel_values"][..., :8, :8] += 3
    changed = bounds.changed(embedded(model, painted), embedded(model, inputs))
    assert torch.equal(changed, token_map["image"][0]) and int(token_map["separator"].sum()) == separators
