"""The vision encoder's attention in the decoder's token order, from the eager weights of the bare towers."""

from __future__ import annotations

import bounds
import edit_reference as reference
import pytest
import torch
from vision_priors import PRIORS

import lostattn as la
from lostattn.errors import InputError


@pytest.mark.parametrize("which", ["prompt", "batch"])
@pytest.mark.parametrize("layer", [-1, 0, 1, -2])
def test_the_weights_that_are_put_in(pair, which, layer):
    prompt = getattr(pair, which)
    n_read = pair.model.architecture.vision.n_read
    prior = PRIORS[pair.model.name](pair.hf, prompt, layer % n_read)
    assert prior.max() > 1.05 * prior.min()
    laid = torch.zeros(len(prompt), prompt.n_pos)
    laid[prompt.token_map["image"]] = prior
    edit = la.ReplaceAttention(la.VisionPrior(layer), layers=3, keep_mass=False)
    tower = f"{pair.model.architecture.vision.stack.prefix}.{layer % n_read}.attn.hook_attn_scores"
    _, cache = pair.model.run_with_cache(prompt, ["blocks.3.attn.hook_pattern", tower], edit)
    row = cache["pattern", 3][:, :, -1]
    image = prompt.token_map["image"][:, None, :].expand_as(row)
    # Means of weights of a softmax, each of which is off by a share of itself that its scores are off by.
    scores = cache[tower][cache[tower].isfinite()]
    bounds.close(row[image], laid[:, None].expand_as(row)[image], pair.share, size=prior.max() * scores.abs().max())


def test_the_batch_has_pictures_of_several_sizes(qwen):
    sizes = {tuple(grid) for grid in qwen.batch.inputs["image_grid_thw"].tolist()}
    assert len(sizes) > 1
    side = qwen.hf.config.vision_config.window_size // 2 // qwen.hf.config.vision_config.patch_size
    assert any((h // 2) > side for _, h, _ in sizes), "no picture is cut into windows"
    layers = range(qwen.hf.config.vision_config.depth)
    assert {i in qwen.hf.config.vision_config.fullatt_block_indexes for i in layers} == {True, False}


def test_one_number_a_token_and_its_mass(pair):
    """Averaged over queries, the keys of a picture share out one (without what the class token takes)."""
    _, cache = pair.model.run_with_cache(
        pair.prompt,
        "blocks.0.attn.hook_pattern",
        la.ReplaceAttention(la.VisionPrior(), layers=0, keep_mass=False),
    )
    total = float(cache["pattern", 0][0, 0, -1][pair.prompt.token_map["image"][0]].sum())
    assert 0.01 < total <= 1 + bounds.sums(pair.prompt.n_pos)


def test_with_the_mass_kept_it_moves_the_logits_as_by_hand(pair):
    prompt = pair.batch
    n_read = pair.model.architecture.vision.n_read
    laid = torch.zeros(len(prompt), prompt.n_pos)
    laid[prompt.token_map["image"]] = PRIORS[pair.model.name](pair.hf, prompt, n_read - 1)

    def by_hand(pattern: Tensor, layer: int) -> Tensor:
        out = pattern.clone()
        image = prompt.token_map["image"]
        for b in range(len(prompt)):
            old = pattern[b, :, -1][:, image[b]]
            new = laid[b][image[b]]
            out[b, :, -1, image[b]] = old.sum(-1, keepdim=True) * new / new.sum()
        return out

    got = pair.model.run_with_hooks(prompt, interventions=la.ReplaceAttention(la.VisionPrior()))[:, -1]
    want = reference.logits(pair.hf, prompt, weights=by_hand)[:, -1]
    bounds.close(got, want, pair.share)
    assert bounds.moved(got, pair.model(prompt)[:, -1], pair.share)


@pytest.mark.parametrize("layer", [4, -5])
def test_a_vision_layer_out_of_range(qwen, layer):
    message = rf"vision layer {layer} is out of range: the decoder depends on 4 \(0 to 3, or negative\)"
    with pytest.raises(InputError, match=message):
        qwen.model.run_with_hooks(qwen.prompt, interventions=la.ReplaceAttention(la.VisionPrior(layer)))


def test_a_vision_layer_that_the_decoder_does_not_read(llava):
    n_read = llava.model.architecture.vision.n_read
    with pytest.raises(InputError, match=f"vision layer {n_read} is out of range: the decoder depends on {n_read} "):
        llava.model.run_with_hooks(llava.prompt, interventions=la.ReplaceAttention(la.VisionPrior(n_read)))


def test_keys_beyond_the_image(pair):
    edit = la.ReplaceAttention(la.VisionPrior(), keys="image|question")
    with pytest.raises(InputError, match=r"VisionPrior has values for image tokens only, and keys='image\|question'"):
        pair.model.run_with_hooks(pair.prompt, interventions=edit)


def test_one_picture_of_two(pair):
    prompt = pair.batch[1]
    assert prompt.token_map.n_images == (2,)
    name = "blocks.2.attn.hook_pattern"
    _, plain = pair.model.run_with_cache(prompt, name, la.ScaleAttention(1.0, layers=2))
    _, edited = pair.model.run_with_cache(prompt, name, la.ReplaceAttention(la.VisionPrior(), layers=2, keys="image:1"))
    second = prompt.token_map["image:1"][0]
    assert torch.equal(plain[name][..., ~second], edited[name][..., ~second])
    assert bounds.moved(edited[name][0, :, -1][:, second], plain[name][0, :, -1][:, second], pair.share, times=100)
