"""Pixel boxes, proved on real processors: paint the box of one patch, and the token that the map names changes."""

from __future__ import annotations

import random

import families
import painting
import pytest
import torch

WIDE, TALL = (500, 300), (260, 520)
SIZES = {
    "mllama": ((300, 1000),),
    "idefics3": (TALL,),
    "smolvlm": (WIDE,),
    "gemma3 with pan and scan": ((700, 290), (290, 800)),
    # The last is interpolated down to nine tiles' worth of patches, which mixes neighbours.
    "llava_onevision": (WIDE, TALL, (430, 1100)),
}


# PaliGemma's processor makes an array of a tensor in a way that numpy is about to drop.
pytestmark = [
    pytest.mark.slow,
    pytest.mark.filterwarnings("ignore:__array__ implementation:DeprecationWarning"),
]


def chosen(boxes: torch.Tensor, n: int, seed: int) -> list[int]:
    """Corners and others, those with pixels well inside."""
    sizes = (boxes[:, 2:] - boxes[:, :2]).amin(-1)
    able = (sizes > 6).nonzero().flatten().tolist()
    return [able[-1], *random.Random(seed).sample(able, n)]


@pytest.mark.parametrize("name", families.MAKERS)
def test_painting_the_box_of_a_patch_changes_the_token_that_the_map_names(name):
    for size in SIZES.get(name, (WIDE, TALL)):
        boxes = painting.grid_of(name, size).boxes()
        for patch in chosen(boxes, 1, sum(size)):
            painting.check(name, size, patch)


def off_by_one(grid):
    """Every patch where its left neighbour is."""
    return grid.boxes().roll(-1, 0)


def transposed(grid):
    """Rows taken for columns."""
    return torch.cat([t.boxes().reshape(t.rows, t.cols, 4).transpose(0, 1).reshape(-1, 4) for t in grid.tiles])


def thumbnail_last(grid):
    """The thumbnail looked for behind the tiles, or the tiles behind the thumbnail."""
    boxes = [tile.boxes() for tile in grid.tiles]
    return torch.cat([*boxes[1:], boxes[0]] if grid.tiles[0].role == "thumbnail" else [boxes[-1], *boxes[:-1]])


@pytest.mark.parametrize(
    ("name", "fault"),
    [
        ("llava", off_by_one), ("llava", transposed), ("qwen2_5_vl", off_by_one), ("qwen2_5_vl", transposed),
        ("llava_next", off_by_one), ("llava_next", transposed), ("llava_next", thumbnail_last),
        ("internvl", off_by_one), ("internvl", transposed), ("internvl", thumbnail_last), ("smolvlm", thumbnail_last),
    ],
)  # fmt: skip
def test_a_grid_that_is_wrong_is_caught(name, fault):
    grid = painting.grid_of(name, WIDE)
    wrong, patch = fault(grid), len(grid) - len(grid.tiles[-1]) // 2
    assert not torch.equal(wrong[patch], grid.boxes()[patch])
    with pytest.raises(AssertionError, match="changed"):
        painting.check(name, WIDE, patch, wrong)
    painting.check(name, WIDE, patch)


def test_tokens_of_a_picture_that_is_interpolated_down_mix_with_their_neighbours_alone():
    """LLaVA-OneVision keeps nine tiles' worth of patches: each token is made of up to 2 x 2 patches."""
    size = (2000, 1500)
    grid = painting.grid_of("llava_onevision", size)
    detail, boxes = grid.tiles[1], grid.boxes()
    assert (detail.rows, detail.cols) == (70, 93)
    patch = 729 + 35 * 93 + 40
    found = painting.paint("llava_onevision", size, painting.inside(boxes[patch]))
    near = {p - 729 for p in found.patches if p >= 729}
    row, col = divmod(patch - 729, 93)
    assert patch - 729 in near and not found.elsewhere
    assert all(abs(p // 93 - row) <= 1 and abs(p % 93 - col) <= 1 for p in near)
