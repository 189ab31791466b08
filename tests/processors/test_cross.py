"""Llama 3.2 Vision: image keys of cross-attention layers, named, edited and drawn. Tiles are of 112 pixels, not 560."""

from __future__ import annotations

import bounds
import families
import numpy as np
import pytest
import torch
from painting import TEXT, noise
from panels import panels_of

import lostattn as la
from lostattn.errors import InputError
from lostattn.view.image import attention_on_image

KEYS = 65  # 8 x 8 patches and a class token a tile


@pytest.fixture(scope="module")
def model():
    family = families.mllama(side=112)
    return la.load(family.model(mixing=True), processor=family.processor)


@pytest.fixture(scope="module")
def prompt(model):
    """Two pictures, of two tiles and of one."""
    return model.prompt(TEXT, images=[noise(60, 200), noise(90, 80, 1)])


def test_what_the_keys_are(prompt):
    keys = prompt.token_map.cross
    assert keys.image_index.shape == (1, 2 * 4 * KEYS)
    assert keys.image_index[0, ::KEYS].tolist() == [0, 0, -1, -1, 1, -1, -1, -1]
    assert keys.patch_index[0, :KEYS].tolist() == [-1, *range(64)]
    assert keys.patch_index[0, KEYS : 2 * KEYS].tolist() == [-1, *range(64, 128)]
    assert [str(grid) for grid in prompt.token_map.grids[0]] == ["2 of 8 x 8", "8 x 8"]
    again = prompt[0].to("cpu").token_map.cross
    assert torch.equal(again.image_index, keys.image_index) and torch.equal(again.patch_index, keys.patch_index)


def test_a_knocked_out_image_leaves_its_keys_without_weight(model, prompt):
    _, plain = model.run_with_cache(prompt, ["blocks.1.attn.hook_pattern"])
    edit = la.KnockOut("last", "image:0")
    _, cut = model.run_with_cache(prompt, ["blocks.1.attn.hook_pattern"], interventions=edit)
    image = prompt.token_map.cross.image_index[0]
    before, after = plain["pattern", 1][0, :, -1], cut["pattern", 1][0, :, -1]
    assert (before[:, image == 0].sum(-1) > 0.01).all() and (after[:, image == 0] == 0).all()
    expected = before.masked_fill(image == 0, 0)
    # A softmax over the keys that are left, against what is left of one over all of them.
    left = expected.sum(-1, keepdim=True)
    bounds.close(after, expected / left, bounds.sums(after.shape[-1]), size=1 / left)


def test_text_keys_are_those_of_the_other_layers(model, prompt):
    edit = la.KnockOut("last", "question|image:1")
    names = ["blocks.0.attn.hook_pattern", "blocks.1.attn.hook_pattern"]
    _, cut = model.run_with_cache(prompt, names, interventions=edit)
    question, image = prompt.token_map["question"][0], prompt.token_map.cross.image_index[0] == 1
    assert (cut["pattern", 0][0, :, -1, question] == 0).all() and (cut["pattern", 1][0, :, -1, image] == 0).all()
    row = cut["pattern", 1][0, :, -1]
    bounds.close(row.sum(-1), torch.ones(len(row)), bounds.sums(row.shape[-1]))


def test_every_step_of_a_generation_is_edited(model, prompt):
    """Scaled to nothing at every step, the picture is as if it were all zeros to the layers that read it."""
    plain = model.generate(prompt, max_new_tokens=3)
    edit = la.ScaleAttention(0.0, queries="all", keys="image")
    edited = model.generate(prompt, interventions=edit, max_new_tokens=3)
    (layer,) = [m for name, m in model.hf.named_modules() if name.endswith("cross_attn")]
    hook = layer.register_forward_hook(lambda m, a, out: (torch.zeros_like(out[0]), *out[1:]))
    try:
        expected = model.generate(prompt, max_new_tokens=3)
    finally:
        hook.remove()
    assert edited.text == expected.text and plain.text != edited.text


def test_image_keys_where_there_are_none(model, prompt):
    with pytest.raises(InputError, match=r"keys='image' names no key in layers \[0\].*image keys are in layers \[1\]"):
        model.run_with_cache(prompt, interventions=la.KnockOut("last", "image", layers=0))
    with pytest.raises(InputError, match="reads pictures through cross-attention: its sequence holds no image tokens"):
        model.run_with_cache(prompt, interventions=la.Ablate("resid", layers=0, positions="image"))


def test_attention_is_drawn_in_the_tiles(model, prompt):
    _, cache = model.run_with_cache(prompt, ["blocks.1.attn.hook_pattern"])
    ((title, boxes, values),) = panels_of(attention_on_image(cache, prompt, 1, heads=1))
    row, keys = cache["pattern", 1][0, 1, -1], prompt.token_map.cross
    mine = (keys.image_index[0] == 0) & (keys.patch_index[0] >= 0)
    np.testing.assert_array_equal(np.asarray(values, np.float32), row[mine])
    drawn, size = prompt.token_map.grids[0][0].boxes(), max(prompt.token_map.grids[0][0].size)
    np.testing.assert_allclose(boxes, drawn, rtol=0, atol=size * bounds.sums(4))
    assert title == f"head 1: {100 * values.sum():.0f} %"
    assert "The keys of this layer are the patches" in str(la.view.attention(cache, prompt, 1))
