"""A small batch of two prompts over one picture of 7 x 5 patches, with left padding, and a cache of patterns."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from PIL import Image

from lostattn.pictures.patch_grid import PatchGrid
from lostattn.prompt.batch import Prompt
from lostattn.prompt.parts import PARTS
from lostattn.prompt.token_map import TokenMap

ROWS, COLS, PAD, HEADS = 5, 7, 2, 3
WIDTH, HEIGHT = 70, 55
WORDS = ["<s>", "USER"], ["\n", "How", " many", "</script><script>alert(1)</script>", ":"]
N_POS = PAD + len(WORDS[0]) + ROWS * COLS + len(WORDS[1])
FIRST = PAD + len(WORDS[0])  # the first patch's position


@pytest.fixture
def picture() -> Image.Image:
    pixels = np.full((HEIGHT, WIDTH, 3), 255, dtype=np.uint8)
    pixels[5:20, 10:30] = (200, 30, 30)
    return Image.fromarray(pixels)


@pytest.fixture
def grid() -> PatchGrid:
    return PatchGrid(ROWS, COLS, size=(WIDTH, HEIGHT), covers=(0.0, 0.0, float(WIDTH), float(HEIGHT)))


@pytest.fixture
def prompt(picture, grid):
    """Two items; the second is padded on the left."""
    image = slice(FIRST, FIRST + ROWS * COLS)
    part = torch.full((2, N_POS), PARTS.index("question"))
    part[:, :FIRST] = PARTS.index("system")
    part[:, image] = PARTS.index("image")
    part[1, :PAD] = PARTS.index("padding")
    image_index, patch_index = torch.full((2, N_POS), -1), torch.full((2, N_POS), -1)
    image_index[:, image] = 0
    patch_index[:, image] = torch.arange(ROWS * COLS)
    words = WORDS[0] + ["<image>"] * (ROWS * COLS) + WORDS[1]
    return Prompt(
        inputs={},
        token_map=TokenMap(part, image_index, patch_index, ((grid,), (grid,)), (True, True)),
        texts=("How many?", "How many?"),
        images=((picture,), (picture,)),
        ids=("first", "second"),
        str_tokens=(("be", "brief", *words), ("<pad>", "<pad>", *words)),
    )


@pytest.fixture
def cache(prompt):
    """Patterns of layers 0 and 3 whose rows sum to one over the real positions before them."""
    scores = torch.randn(2, HEADS, N_POS, N_POS, generator=torch.Generator().manual_seed(0))
    seen = torch.ones(N_POS, N_POS).tril().bool() & prompt.token_map.real[:, None, None, :]
    pattern = scores.masked_fill(~seen, -1e9).softmax(-1)
    return {("pattern", 0): pattern, ("pattern", 3): pattern.flip(1)}
