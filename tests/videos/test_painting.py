"""Paint one patch's box in one frame, run the real processor, and see which token changes before anything is mixed."""

from __future__ import annotations

import bounds
import clips
import numpy as np
import pytest
import torch

# GLM's processor makes an array of a tensor in a way that numpy is about to drop.
pytestmark = pytest.mark.filterwarnings("ignore:__array__ implementation:DeprecationWarning")

FRAMES, WIDTH, HEIGHT = 3, 500, 300
INTERPOLATED = {"llava_onevision"}  # 27 patches a side become 14 tokens: each is made of up to 2 x 2 patches


def painted(box: tuple[int, int, int, int], frame: int) -> np.ndarray:
    """The same noise in every clip, with a box of one frame in one colour."""
    x0, y0, x1, y1 = box
    out = clips.clip(FRAMES, WIDTH, HEIGHT)
    out[frame, y0:y1, x0:x1] = (255, 0, 128)
    return out


def inside(box: torch.Tensor) -> tuple[int, int, int, int]:
    """Whole pixels well inside a patch's box, so that resizing does not blur them into its neighbours."""
    x0, y0, x1, y1 = box.tolist()
    across, down = (x1 - x0) * 0.3, (y1 - y0) * 0.3
    return (round(x0 + across), round(y0 + down), round(x1 - across), round(y1 - down))


def check(name: str, frame: int, place: int, boxes: torch.Tensor | None = None, later: int = 0) -> None:
    """Painting well inside a patch of a frame changes the token of its time step and place, and no other.

    Args:
        frame: which is painted.
        place: row by row, which patch of it.
        boxes, later: a fault of the map: other boxes, or time steps that come later than they are.
    """
    given, before = plain(name)
    grid = given.token_map.grids[0][0]
    each = grid.rows * grid.cols
    (step,) = grid.steps_of(frame)
    patch = step * each + place
    box = inside((grid.boxes() if boxes is None else boxes)[patch])
    after = clips.seen(name, clips.prompt(name, painted(box, frame), fps=1))
    moved = (after - before).abs().amax(-1)
    changed = given.token_map.patch_index[0][bounds.changed(after, before)].tolist()
    patch += later * each
    if name in INTERPOLATED:
        assert moved.argmax() == (given.token_map.patch_index[0] == patch).nonzero().flatten(), "another changed most"
        near = [abs(a - b) for p in changed for a, b in zip(grid.where(p), grid.where(patch), strict=True)]
        assert max(near) <= 1 and {grid.where(p)[0] for p in changed} == {step}, f"patches {changed} changed"
    else:
        assert changed == [patch], f"patches {changed} changed, not {patch} alone"


_PLAIN: dict[str, tuple[object, torch.Tensor]] = {}


def plain(name: str):
    if name not in _PLAIN:
        given = clips.prompt(name, clips.clip(FRAMES, WIDTH, HEIGHT), fps=1)
        _PLAIN[name] = (given, clips.seen(name, given))
    return _PLAIN[name]


@pytest.mark.parametrize("name", clips.MAKERS)
def test_painting_a_patch_of_a_frame_changes_the_token_that_the_map_names(name):
    grid = plain(name)[0].token_map.grids[0][0]
    for frame, (row, col) in ((0, (1, 2)), (1, (grid.rows // 2, grid.cols - 2)), (2, (grid.rows - 2, 1))):
        check(name, frame, row * grid.cols + col)


@pytest.mark.parametrize("name", clips.MAKERS)
def test_nothing_of_a_frame_goes_into_what_stands_between_them(name):
    given, before = plain(name)
    after = clips.seen(name, clips.prompt(name, clips.clip(FRAMES, WIDTH, HEIGHT, 1), fps=1))
    # The class tokens of Video-LLaVA, which have no place in a frame, see nothing where the tower mixes nothing.
    assert torch.equal(bounds.changed(after, before), given.token_map.patch_index[0] >= 0)


@pytest.mark.parametrize("name", ["qwen2_5_vl", "internvl", "llava_next_video", "video_llava"])
def test_a_map_that_is_wrong_is_caught(name):
    grid = plain(name)[0].token_map.grids[0][0]
    place = grid.rows // 2 * grid.cols + grid.cols // 2 + 1
    with pytest.raises(AssertionError, match="changed"):
        check(name, 0, place, grid.boxes().roll(-1, 0))  # every patch where its left neighbour is
    with pytest.raises(AssertionError, match="changed"):
        check(name, 0, place, later=1)
    check(name, 0, place)
