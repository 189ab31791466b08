"""Pixel boxes of image processors that run on torchvision alone, painted as in `tests/processors/test_geometry.py`.

For the packages that `make conformance` installs: ``python tests/packages`` runs it, and other tests do not.
"""

from __future__ import annotations

import random
from types import SimpleNamespace as Holder

import pytest
import torch
from painting import inside
from PIL import Image
from prepared import Prepared, row_each, squares, strip


def in_shapes(before, after, grid):
    """Patches of LFM2-VL, each piece of a shape of its own; two along each side of a token."""
    found = set()
    for k, (high, wide) in enumerate(before["spatial_shapes"].tolist()):
        changed = (before["pixel_values"][k] - after["pixel_values"][k]).abs().amax(-1)[: high * wide] > 0
        found |= {(k, p // wide // 2, p % wide // 2) for p in changed.nonzero().flatten().tolist()}
    return found


def step_tokens(made):
    """Step 3.7: 9 x 9 tokens of 56 pixels a tile, 13 x 13 of the whole."""
    return [81] * int(made["num_local_patches"][0]) + [169]


def step_reached(before, after, grid):
    """Tiles, then the whole."""
    n = int(before["num_local_patches"][0])
    tiles = squares(56, "pixel_values_local")(before, after, grid) if n else set()
    return tiles | squares(56, first=n)(before, after, grid)


def laid_tokens(made):
    """Unlimited-OCR: tiles of 10 x 10 as one grid, 16 x 16 of the whole, a newline a row and a separator."""
    cols, rows = made["patches_grid"][0].tolist()
    tiles = 10 * rows * (10 * cols + 1) if made["num_local_patches"][0] else 0
    return [tiles + 16 * 17 + 1]


def laid_reached(before, after, grid):
    """Tiles laid together, then the whole."""
    cols, _ = before["patches_grid"][0].tolist()
    if not before["num_local_patches"][0]:
        return squares(64)(before, after, grid)
    cut = squares(64, "pixel_values_local")(before, after, grid)
    tiles = {(0, k // cols * 10 + row, k % cols * 10 + col) for k, row, col in cut}
    return tiles | squares(64, first=1)(before, after, grid)


def pooled_tokens(made):
    """Molmo 2: a mark after each row of the small copy and of the large one."""
    low, wide, high, across = made["image_grids"][0].tolist()
    return [wide] * low + [across] * high


def pooled_reached(before, after, grid):
    """Tokens that pool a patch that changed."""
    changed = ((before["pixel_values"] - after["pixel_values"]).abs().amax(-1) > 0).flatten()
    found, small = set(), len(grid.tiles[0])
    for token, patches in enumerate(before["image_token_pooling"].tolist()):
        if any(patch >= 0 and changed[patch] for patch in patches):
            tile = int(token >= small)
            found.add((tile, *divmod(token - small * tile, grid.tiles[tile].cols)))
    return found


def positioned(before, after, grid):
    """Gemma 4's tokens that say their column and row."""
    changed = (before["pixel_values"] - after["pixel_values"])[0].abs().amax(-1) > 0
    return {(0, row, col) for col, row in before["image_position_ids"][0][changed].tolist()}


SAM = {"sam_config": Holder(patch_size=16)}
PIXTRAL = {"patch_size": {"height": 28, "width": 28}, "size": {"longest_edge": 448}}
CASES = {
    "lfm2_vl": Prepared(
        "Lfm2VlImageProcessor", {"patch_size": 16}, lambda i: (i["spatial_shapes"].prod(-1) // 4).tolist(), in_shapes,
        {}, {"downsample_factor": 2},
    ),
    "step3p7": Prepared("Step3p7ImageProcessor", {"patch_size": 14}, step_tokens, step_reached, {}, {}),
    "unlimited_ocr": Prepared("UnlimitedOcrImageProcessor", SAM, laid_tokens, laid_reached, {"max_patches": 9}, {}),
    "molmo2": Prepared("Molmo2ImageProcessor", {"patch_size": 14}, pooled_tokens, pooled_reached, {}, {}),
    "inkling": Prepared(
        "InklingImageProcessor", {"patch_size": 40}, lambda i: [len(i["pixel_values"])], row_each,
        {"rescale_image_frac": 1.5}, {},
    ),
    "minicpm_ocr": Prepared(
        "MiniCPMOcrImageProcessor", {"patch_size": 14}, lambda i: (i["target_sizes"].prod(-1) // 4).tolist(), strip,
        {}, {},
    ),
    "gemma4_unified": Prepared(
        "Gemma4UnifiedImageProcessor", {"patch_size": 16, "pooling_kernel_size": 3},
        lambda i: [int((i["image_position_ids"][0, :, 0] >= 0).sum())], positioned, {}, {},
    ),
    "mistral3": Prepared(
        "PixtralImageProcessor", {"patch_size": 14}, lambda i: [int((i["image_sizes"][0] // 28).prod())], squares(28),
        PIXTRAL, {"spatial_merge_size": 2},
    ),
}  # fmt: skip
PICTURES = [
    ("lfm2_vl", (500, 310), "10 x 16"), ("lfm2_vl", (1500, 700), "8 of 16 x 16 + 10 x 23"),
    ("step3p7", (600, 600), "13 x 13"), ("step3p7", (900, 1300), "6 of 9 x 9 + 13 x 13"),
    ("step3p7", (1000, 200), "5 of 9 x 9 + 13 x 13"), ("step3p7", (31, 400), "13 x 13"),
    ("unlimited_ocr", (500, 310), "16 x 16"), ("unlimited_ocr", (900, 600), "20 x 30 + 16 x 16"),
    ("molmo2", (500, 310), "14 x 14 + 14 x 23"), ("molmo2", (400, 900), "14 x 14 + 33 x 23"),
    ("inkling", (500, 310), "12 x 19"), ("minicpm_ocr", (900, 600), "13 x 20 + 2 of 18 x 14"),
    ("gemma4_unified", (310, 900), "28 x 9"), ("mistral3", (500, 310), "10 x 16"),
]  # fmt: skip


@pytest.mark.parametrize(("name", "size", "grids"), PICTURES)
def test_the_box_of_a_token_holds_its_pixels_and_no_others(name, size, grids):
    case = CASES[name]
    grid = case.grid(size)
    assert str(grid) == grids
    plain = Image.new("RGB", size, (90, 90, 90))
    before = case.inputs(plain)
    for k, tile in enumerate(grid.tiles):
        boxes: torch.Tensor = tile.boxes()
        able = ((boxes[:, 2:] - boxes[:, :2]) > 6).all(-1).nonzero().flatten().tolist()
        for patch in {able[0], able[-1], random.Random(k).choice(able)}:
            painted = plain.copy()
            painted.paste((255, 0, 127), inside(boxes[patch]))
            reached = {cell for cell in case.reached(before, case.inputs(painted), grid) if cell[0] == k}
            assert reached == {(k, *divmod(patch, tile.cols))}
