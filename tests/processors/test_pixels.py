"""Gradient times input on the pixels of pictures in tiles: bare autograd, and squares scaled by hand."""

from __future__ import annotations

import functools
from typing import Any

import bounds
import families
import pytest
import torch
from painting import TEXT, noise

import lostattn as la
from lostattn import lenses
from lostattn.errors import InputError

pytestmark = pytest.mark.slow

PICTURES = {
    "llava_next": [(500, 420)],
    "internvl": [(230, 230), (300, 160)],
    "smolvlm": [(250, 90), (60, 80)],
    "mllama": [(60, 80), (300, 100)],
    "small llava_onevision": [(380, 280)],
}


@functools.cache
def loaded(name: str):
    """In double precision: a patch among thousands moves the logit by little."""
    small = {"mllama": families.mllama, "small llava_onevision": families.llava_onevision}
    family = small[name](side=112) if name in small else families.family(name)
    return la.load(family.model(mixing=True).double(), processor=family.processor, selftest=False)


@functools.cache
def prompted(name: str):
    return loaded(name).prompt(TEXT, images=[noise(*size, seed) for seed, size in enumerate(PICTURES[name])])


def metric(logits: torch.Tensor) -> torch.Tensor:
    return logits[:, -1, 17]


@functools.cache
def by_autograd(name: str) -> torch.Tensor:
    """Gradient times input of every number of the pixel tensor, on the bare model."""
    inputs = prompted(name).inputs
    pixels = inputs["pixel_values"].double().requires_grad_()
    metric(loaded(name).hf(**{**inputs, "pixel_values": pixels}).logits).sum().backward()
    return (pixels.grad * pixels).detach()


def summed(name: str, numbers: torch.Tensor) -> dict[str, Any]:
    """How far the sum of these numbers may lie from another way's: two norms a layer compute in single precision."""
    cfg = loaded(name).cfg
    return {"share": bounds.sums(2 * 2 * (cfg.n_layers + cfg.n_vision_layers)), "size": numbers.abs().sum()}


def scaled(name: str, at: tuple, rows: slice, columns: slice, factor: float) -> float:
    """The logit of the bare model where one square of one tensor of pixels is multiplied."""
    inputs = dict(prompted(name).inputs)
    pixels = inputs["pixel_values"].double().clone()
    pixels[at][:, rows, columns] *= factor
    with torch.no_grad():
        return float(metric(loaded(name).hf(**{**inputs, "pixel_values": pixels}).logits))


# A family; the picture; the patch of its grid; and by hand: where its square lies in the pixel tensor, and its side.
BY_HAND = [
    # 24 x 24 of the thumbnail first. 500 x 420 fits the canvas of 2 x 2 tiles as 672 x 564: 40 of its 48 rows are
    # not padding. Row 30 and column 29 of those: row 34 - 24 and column 29 - 24 of the last tile.
    ("llava_next", 0, 576 + 30 * 48 + 29, (0, 4), 14 * 10, 14 * 5, 14),
    ("llava_next", 0, 24 * 5 + 7, (0, 0), 14 * 5, 14 * 7, 14),
    # Whole, then tiles and a thumbnail: 16 x 16 tokens of 28 pixels each.
    ("internvl", 1, 256 + 3 * 16 + 5, (2,), 28 * 3, 28 * 5, 28),
    # 9 x 9 tokens of 42 pixels; a tile of 384 has 6 pixels more.
    ("smolvlm", 0, 2 * 81 + 4 * 9 + 8, (0, 2), 42 * 4, 42 * 8, 42),
    # The second image of the item, of which three tiles are real: 8 x 8 patches each.
    ("mllama", 1, 64 + 2 * 8 + 3, (0, 1, 1), 14 * 2, 14 * 3, 14),
]  # fmt: skip


@functools.cache
def attributed(name: str, image: int) -> torch.Tensor:
    return lenses.input_attribution(loaded(name), prompted(name), metric, "pixels", image=image)


@pytest.mark.parametrize(("name", "image", "patch", "at", "y", "x", "side"), BY_HAND)
def test_a_patchs_number_is_that_of_its_square_of_pixels(name, image, patch, at, y, x, side):
    found = attributed(name, image)
    assert len(found) == len(prompted(name).token_map.grids[0][image])
    square = (slice(y, y + side), slice(x, x + side))
    own = by_autograd(name)[at][:, *square]
    bounds.close(found[patch], own.sum(), **summed(name, own))
    # Norms compute in single precision, which is about as much as one of these patches moves the logit.
    noise = bounds.sums(2) * abs(scaled(name, at, *square, 1.0))
    slope, off = bounds.slope(lambda step: scaled(name, at, *square, 1 + step), 0.1, noise)
    assert float(found[patch]) == pytest.approx(slope, rel=0, abs=off) and abs(slope) > off


def test_all_patches_of_all_pictures_are_all_there_is() -> None:
    """InternVL's tensors have no padding and no pixels that no patch sees."""
    both = attributed("internvl", 0).sum() + attributed("internvl", 1).sum()
    bounds.close(both, by_autograd("internvl").sum(), **summed("internvl", by_autograd("internvl")))


def test_a_patch_that_goes_into_several_tokens_is_shared_out_among_them() -> None:
    name = "small llava_onevision"
    found, product = attributed(name, 0), by_autograd(name)[0]
    # The thumbnail, all of whose patches are tokens; of 32 x 24 patches none is padding.
    bounds.close(found[:64].sum(), product[0].sum(), **summed(name, product[0]))
    bounds.close(found[64:].sum(), product[1:].sum(), **summed(name, product[1:]))


def test_what_has_no_tokens_is_refused_by_name() -> None:
    with pytest.raises(InputError, match="reads pictures through cross-attention: give of='pixels'"):
        lenses.input_attribution(loaded("mllama"), prompted("mllama"), metric)
