from __future__ import annotations

import bounds
import pytest
import torch

from lostattn.errors import InputError
from lostattn.pictures.patch_grid import PatchGrid, UnknownGrid
from lostattn.prompt.batch import Prompt
from lostattn.prompt.token_map import TokenMap
from lostattn.view.reading import on_patches, pattern, pick_heads, picture_and_grid, real_positions, token_labels

from .conftest import COLS, FIRST, HEADS, N_POS, PAD, ROWS


def test_real_positions_leave_padding_out(prompt):
    assert real_positions(prompt, 0).tolist() == list(range(N_POS))
    assert real_positions(prompt, 1).tolist() == list(range(PAD, N_POS))
    with pytest.raises(InputError, match=r"no item 2 in a batch of 2. Pass item=0 to 1"):
        real_positions(prompt, 2)


def test_labels_name_patches_by_row_and_column(prompt):
    labels = token_labels(prompt, 1)
    assert len(labels) == N_POS - PAD
    assert labels[:3] == ["<s>", "USER", "img[0,0]"]
    assert labels[2 + COLS + 3] == "img[1,3]"
    assert labels[2 + ROWS * COLS - 1] == f"img[{ROWS - 1},{COLS - 1}]"
    assert labels[2 + ROWS * COLS] == "⏎"
    assert token_labels(prompt, 0)[:2] == ["be", "brief"]


def test_labels_tell_images_apart_and_keep_what_is_no_patch():
    # CLS, two patches of one image, one of another, one of an image whose grid is not known.
    grids = (PatchGrid(1, 2), PatchGrid(1, 1), UnknownGrid("no patch_size"))
    token_map = TokenMap(
        part=torch.full((1, 5), 2),
        image_index=torch.tensor([[0, 0, 0, 1, 2]]),
        patch_index=torch.tensor([[-1, 0, 1, 0, -1]]),
        grids=(grids,),
        located=(True,),
    )
    prompt = Prompt({}, token_map, ("",), ((),), ("",), (("<image>",) * 5,))
    assert token_labels(prompt, 0) == ["<image>", "img0[0,0]", "img0[0,1]", "img1[0,0]", "<image>"]
    with pytest.raises(InputError, match=r"There is no image 3: item 0 of the prompt has 3"):
        picture_and_grid(prompt, 0, 3)
    with pytest.raises(InputError, match=r"The patch grid of this image is not known: no patch_size"):
        picture_and_grid(prompt, 0, 2)
    with pytest.raises(InputError, match=r"does not hold the picture of image 1 of item 0, only its tensor"):
        picture_and_grid(prompt, 0, 1)


def test_pattern_is_the_items_own_at_real_positions(prompt, cache):
    whole = cache["pattern", 3]
    found = pattern(cache, prompt, 3, 1)
    assert found.shape == (HEADS, N_POS - PAD, N_POS - PAD)
    assert torch.equal(found, whole[1, :, PAD:, PAD:])
    bounds.close(found.sum(-1), torch.ones(HEADS, N_POS - PAD), bounds.sums(N_POS))


def test_pattern_of_one_kept_row(prompt, cache):
    kept = {("pattern", 3): cache["pattern", 3][:, :, -1:]}
    assert torch.equal(pattern(kept, prompt, 3, 1), cache["pattern", 3][1, :, -1:, PAD:])


def test_pattern_of_another_prompt_is_refused(prompt, cache):
    other = {("pattern", 3): cache["pattern", 3][:, :, :, 1:]}
    with pytest.raises(InputError, match=rf"\(2, 3, {N_POS}, {N_POS - 1}\), but the prompt has 2 items of {N_POS}"):
        pattern(other, prompt, 3, 0)


def test_values_are_put_in_the_order_of_the_grid(prompt):
    order = torch.randperm(ROWS * COLS, generator=torch.Generator().manual_seed(1))
    prompt.token_map.patch_index[0, FIRST : FIRST + ROWS * COLS] = order
    values = torch.zeros(2, N_POS)
    values[0, FIRST : FIRST + ROWS * COLS] = order.float() * 2
    values[1, 0] = 9.0  # a text position, which is no patch
    found = on_patches(values, prompt, 0, 0)
    assert torch.equal(found[0], 2.0 * torch.arange(ROWS * COLS))
    assert found[1].abs().max() == 0


def test_heads_are_checked():
    assert pick_heads(None, 3) == [0, 1, 2]
    assert pick_heads(2, 3) == [2]
    assert pick_heads(range(1, 3), 3) == [1, 2]
    with pytest.raises(InputError, match=r"heads asks for head 3; the layer has heads 0 to 2"):
        pick_heads([1, 3], 3)
    with pytest.raises(InputError, match=r"no head at all"):
        pick_heads([], 3)
