"""Pixel boxes at the borders: corners of what is seen, what is cropped away, what is padding, pictures side by side.

The pictures are very wide and very tall, with sides that no patch divides.
"""

from __future__ import annotations

import bounds
import families
import painting
import pytest
import torch
from painting import grid_of, noise, paint, prompt

# PaliGemma's processor makes an array of a tensor in a way that numpy is about to drop.
pytestmark = [
    pytest.mark.slow,
    pytest.mark.filterwarnings("ignore:__array__ implementation:DeprecationWarning"),
]

VERY_WIDE, VERY_TALL = (1503, 251), (251, 1503)


def seen_by(boxes: torch.Tensor) -> torch.Tensor:
    """Which boxes hold any pixels; the others are padding."""
    return ((boxes[:, 2:] - boxes[:, :2]) > 0).all(-1)


def corners(boxes: torch.Tensor) -> list[tuple[int, int, int, int]]:
    """In each corner of what the patches see, half as much as most patches see, across and down."""
    real = boxes[seen_by(boxes)]
    left, top, right, bottom = (*real[:, :2].amin(0).tolist(), *real[:, 2:].amax(0).tolist())
    across, down = ((real[:, 2:] - real[:, :2]).quantile(0.5, 0) / 2).tolist()
    return [
        (
            round(min(x, x + across * i)),
            round(min(y, y + down * j)),
            round(max(x, x + across * i)),
            round(max(y, y + down * j)),
        )
        for x, i in ((left, 1), (right, -1))
        for y, j in ((top, 1), (bottom, -1))
    ]


def touched(boxes: torch.Tensor, painted: list[tuple[int, int, int, int]], grown: float) -> set[int]:
    """The patches whose boxes, grown to all sides by some pixels, overlap what was painted."""
    paint_ = torch.tensor(painted).float()
    low = torch.maximum(boxes[:, None, :2] - grown, paint_[:, :2])
    high = torch.minimum(boxes[:, None, 2:] + grown, paint_[:, 2:])
    return set(((high > low).all(-1).any(-1) & seen_by(boxes)).nonzero().flatten().tolist())


def check_corners(name: str, size: tuple[int, int], boxes: torch.Tensor) -> None:
    """Paint all four corners; what lies there changes, and nothing that is further away than resizing blurs."""
    painted = corners(boxes)
    assert all(x1 - x0 >= 3 and y1 - y0 >= 3 for x0, y0, x1, y1 in painted)
    found = paint(name, size, *painted)
    must, may = touched(boxes, painted, -1), touched(boxes, painted, 3)
    assert not found.elsewhere and len(must) >= 4
    assert must <= found.patches <= may, f"{sorted(found.patches)} changed, not {sorted(must)}"


@pytest.mark.parametrize("name", families.MAKERS)
def test_the_corners_of_what_is_seen_are_the_corner_patches(name):
    """In every tile that has a corner, and in the thumbnail."""
    costly = {"gemma3 with pan and scan": ((1503, 551),), "mllama": (VERY_TALL,), "idefics3": (VERY_WIDE,)}
    for size in costly.get(name, (VERY_WIDE, VERY_TALL)):
        grid = grid_of(name, size)
        check_corners(name, size, grid.boxes())
        tiles = [tile for tile in grid.tiles if tile.role != "thumbnail"] or grid.tiles
        boxes = torch.cat([tile.boxes() for tile in tiles])
        # All but LLaVA-1.5 see all of it, less 6 of 384 pixels of a tile or a part of a row of patches.
        if name != "llava":
            (left, top), (right, bottom) = boxes[seen_by(boxes)][:, :2].amin(0), boxes[:, 2:].amax(0)
            assert max(left, top) < 2 and right > size[0] * 378 / 384 - 2 and bottom > size[1] * 378 / 384 - 2


@pytest.mark.parametrize("name", ["llava", "internvl", "qwen3_vl", "llava_next"])
def test_a_grid_that_is_off_at_the_border_is_caught(name):
    boxes = grid_of(name, VERY_WIDE).boxes()
    with pytest.raises(AssertionError, match="changed"):
        check_corners(name, VERY_WIDE, boxes.roll(1, 0))


def test_what_is_cropped_away_is_seen_by_no_token():
    """LLaVA-1.5 sees the middle square of a wide picture."""
    boxes = grid_of("llava", VERY_WIDE).boxes()
    left, right = int(boxes[:, 0].min()), int(boxes[:, 2].max())
    assert (left, right) == (625, 876)  # 2011 x 336 once resized; of these 837 to 1173, times 1503 / 2011
    margin = 6  # as far as resizing blurs
    for box in ((0, 0, left - margin, 251), (right + margin, 0, 1503, 251)):
        found = paint("llava", VERY_WIDE, box)
        assert not found.patches and not found.elsewhere


@pytest.mark.parametrize("name", ["llava_next", "llava_onevision", "mllama"])
def test_patches_of_padding_see_nothing_and_all_others_see_something(name):
    """Everything is painted: the patches with a place in the picture change, those that are padding do not."""
    boxes = grid_of(name, VERY_TALL).boxes()
    real = seen_by(boxes)
    assert bool(real.all()) == (name != "mllama")  # the others drop their padding
    assert paint(name, VERY_TALL, (0, 0, *VERY_TALL)).patches == set(real.nonzero().flatten().tolist())


@pytest.mark.parametrize("name", [n for n in families.MAKERS if n != "mllama"])
def test_a_picture_among_others_changes_its_own_tokens_alone(name):
    """A wide one, a tiny one and a tall one in one prompt; another tiny one."""
    if families.family(name).name == "paligemma":
        size = [(120, 50), (31, 47), (60, 130)]
    else:
        size = [(320, 60), (31, 47), (70, 300)]
    pictures = [noise(*s, seed) for seed, s in enumerate(size)]
    before = prompt(name, *pictures)
    after = prompt(name, pictures[0], noise(*size[1], 7), pictures[2])
    moved = bounds.changed(painting.seen(name, after), painting.seen(name, before))
    token_map = before.token_map
    patch = token_map.patch_index[0]
    real = seen_by(token_map.grids[0][1].boxes())
    own = token_map["image:1"][0]
    inside = own & (patch >= 0) & real[patch.clamp(0, len(real) - 1)]
    assert not (moved & ~own).any() and not (inside & ~moved).any()
    # LLaVA-OneVision pads each of several pictures to a square, and resizing blurs the picture into the padding.
    assert bool(real.all()) == (name != "llava_onevision") and (not real.all() or torch.equal(moved, own))
    for k, grid in enumerate(token_map.grids[0]):
        assert grid.size == size[k] and len(grid) == int(token_map[f"image:{k}"].sum())
