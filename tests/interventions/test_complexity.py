"""Image complexity: a picture small enough to work out by hand, its place in a prompt, and what is refused."""

from __future__ import annotations

import bounds
import numpy as np
import pytest
import torch
from PIL import Image

import lostattn as la
from lostattn.errors import InputError
from lostattn.interventions.complexity import patch_complexity, prompt_complexity


def picture(rows: list[list[int]]) -> Image.Image:
    return Image.fromarray(np.array(rows, dtype=np.uint8), mode=None).convert("RGB")


# Four boxes of 2 × 2: flat; a step across; a step down; a chequer.
BY_HAND = [[51, 51, 0, 255], [51, 51, 0, 255], [0, 0, 255, 0], [255, 255, 0, 255]]
BOXES = torch.tensor([[0.0, 0, 2, 2], [2, 0, 4, 2], [0, 2, 2, 4], [2, 2, 4, 4]])
# mean |dx| + mean |dy| + variance: 0; 1 + 0 + 1/4; 0 + 1 + 1/4; 1 + 1 + 1/4. Scaled over the four: 0, 5/9, 5/9, 1.
ROUNDED = bounds.sums(2 * 8 * 8)  # differences and squares over the pixels of a patch, which has at most so many
SCALED = torch.tensor([0.0, 5 / 9, 5 / 9, 1.0])


def test_by_hand():
    bounds.close(patch_complexity(picture(BY_HAND), BOXES), torch.softmax(SCALED, 0), ROUNDED)


def test_grey_is_of_colours():
    # A chequer of a red and a grey of one luma is flat in grey.
    red, grey = (255, 0, 0), (76, 76, 76)
    pixels = np.array([[red, grey], [grey, red]], dtype=np.uint8)
    two = Image.new("RGB", (4, 2), grey)
    two.paste(Image.fromarray(pixels), (0, 0))
    boxes = torch.tensor([[0.0, 0, 2, 2], [2, 0, 4, 2]])
    bounds.close(patch_complexity(two, boxes), torch.tensor([0.5, 0.5]), ROUNDED)


def test_a_flat_picture_is_the_same_everywhere():
    flat = Image.new("RGB", (6, 4), (9, 90, 200))
    boxes = torch.tensor([[0.0, 0, 2, 2], [2, 0, 4, 2], [4, 0, 6, 4]])
    bounds.close(patch_complexity(flat, boxes), torch.full((3,), 1 / 3), ROUNDED)


def test_a_box_without_pixels_is_flat():
    boxes = torch.cat([BOXES[1:], torch.tensor([[4.0, 0, 4, 2]])])
    expected = torch.softmax(torch.tensor([5 / 9, 5 / 9, 1.0, 0.0]), 0)
    bounds.close(patch_complexity(picture(BY_HAND), boxes), expected, ROUNDED)


def test_a_box_of_one_pixel_has_no_differences():
    boxes = torch.tensor([[0.0, 0, 1, 1], [2, 2, 4, 4]])
    bounds.close(patch_complexity(picture(BY_HAND), boxes), torch.softmax(torch.tensor([0.0, 1.0]), 0), ROUNDED)


def test_in_a_prompt_each_picture_sums_to_one_at_its_own_tokens(pair):
    values = prompt_complexity(pair.batch)
    token_map = pair.batch.token_map
    assert (values[~token_map["image"]] == 0).all()
    for item, pictures in enumerate(pair.batch.images):
        for k, image in enumerate(pictures):
            mine = (token_map.image_index[item] == k) & token_map["image"][item]
            own = values[item, mine]
            bounds.close(own.sum(), 1.0, bounds.sums(len(own)))
            expected = patch_complexity(image, token_map.grids[item][k].boxes())
            bounds.close(own, expected[token_map.patch_index[item, mine]], ROUNDED)
            assert own.max() > own.min()


def test_the_busy_corner_is_where_the_picture_is_busy(llava):
    pixels = np.full((48, 48, 3), 255, dtype=np.uint8)
    pixels[32:, :16] = np.random.default_rng(0).integers(0, 255, (16, 16, 3))
    prompt = llava.model.prompt("How many squares are there?", images=[Image.fromarray(pixels)])
    values = prompt_complexity(prompt)[prompt.token_map["image"]]
    busy = prompt.token_map.grids[0][0].to_map(values)
    rows, cols = busy.shape
    top = {divmod(int(i), cols) for i in values.topk((rows // 3) * (cols // 3)).indices}
    assert top == {(r, c) for r in range(2 * rows // 3, rows) for c in range(cols // 3)}


def test_no_picture_in_the_prompt(pair):
    prompt = pair.model.prompt("How many squares are there?")
    with pytest.raises(InputError, match="asks for image tokens, but the prompt holds no image; give one"):
        pair.model.run_with_hooks(prompt, interventions=la.ReplaceAttention(la.Complexity()))
    with pytest.raises(InputError, match=r"Complexity looks at the picture, and this prompt holds none"):
        prompt_complexity(prompt)


def test_pixel_values_without_their_picture(pair):
    prompt = pair.model.prompt(inputs=pair.prompt.inputs)
    with pytest.raises(InputError, match=r"item 0 of this prompt came without its pictures; give them with images="):
        pair.model.run_with_hooks(prompt, interventions=la.ReplaceAttention(la.Complexity()))


def test_text_has_no_complexity(pair):
    edit = la.ReplaceAttention(la.Complexity(), keys="all")
    message = r"Complexity has values for image tokens only, and keys='all' takes \d+ other positions; expected keys="
    with pytest.raises(InputError, match=message):
        pair.model.run_with_hooks(pair.prompt, interventions=edit)


def test_a_corrupted_picture_is_refused_by_name(pair, tmp_path):
    broken = tmp_path / "broken.png"
    broken.write_bytes(b"\x89PNG\r\n\x1a\n" + b"no picture")
    with pytest.raises(InputError, match=r"broken\.png"):
        pair.model.prompt("How many squares are there?", images=[broken])
