"""A model on prompts with videos: interventions on a frame, caches, views."""

from __future__ import annotations

import functools

import bounds
import clips
import pytest
import torch
from clips import TEXT, clip

import lostattn as la
from lostattn.errors import InputError


@functools.cache
def loaded(name: str):
    family = clips.family(name)
    return la.load(family.model(mixing=True), processor=family.processor)


@pytest.mark.parametrize("name", ["qwen2_5_vl", "internvl"])
def test_a_frame_is_knocked_out_as_its_positions_are(name):
    model = loaded(name)
    prompt = model.prompt(TEXT, videos=[clip(4, 120, 90)], fps=1)
    frame = prompt.token_map["frame:2"]
    assert 0 < frame.sum() < prompt.token_map["image"].sum()
    kept = "blocks.0.attn.hook_pattern"
    bare, _ = model.run_with_cache(prompt, names_filter=kept)
    named, cache = model.run_with_cache(
        prompt, interventions=la.KnockOut(keys="frame:2", queries="last"), names_filter=kept
    )
    masked, _ = model.run_with_cache(prompt, interventions=la.KnockOut(keys=frame, queries="last"), names_filter=kept)
    assert torch.equal(named, masked)
    assert bounds.moved(named[0, -1], bare[0, -1], bounds.depth(model.cfg))
    assert (cache["pattern", 0][0, :, -1][:, frame[0]] == 0).all()
    with pytest.raises(InputError, match="asks for what is not there: the videos of this prompt hold 4 frames"):
        model.run_with_cache(prompt, interventions=la.KnockOut(keys="frame:4", queries="last"))


@pytest.mark.parametrize("name", ["qwen2_5_vl"])
def test_a_step_that_shows_a_frame_is_ablated_alone(name):
    model = loaded(name)
    prompt = model.prompt(TEXT, videos=[clip(4, 120, 90)])
    edit = (
        la.Ablate("resid_pre", layers=[0], positions=("video", 0)) if False else la.Ablate("mlp", positions="frame:1")
    )
    _, bare = model.run_with_cache(prompt)
    _, cache = model.run_with_cache(prompt, interventions=edit)
    moved = (cache["mlp_out", 0] - bare["mlp_out", 0])[0].abs().amax(-1) > 0
    assert torch.equal(moved, prompt.token_map["frame:1"][0])


def test_points_of_a_tower_that_runs_for_images_and_for_videos_are_not_taken_for_one():
    model = loaded("qwen2_5_vl")
    both = model.prompt(TEXT, images=[clip(1, 90, 120)[0]], videos=[clip(2, 120, 90)])
    _, cache = model.run_with_cache(both)
    assert not any(name.startswith("vision") for name in cache)
    with pytest.raises(InputError, match="is met twice on this prompt, which holds images and videos"):
        model.run_with_cache(both, names_filter="vision_projector.hook_out")
    alone = model.prompt([TEXT, TEXT], videos=[[clip(2, 120, 90)], [clip(4, 120, 90, 1)]])
    _, cache = model.run_with_cache(alone)
    (mine,) = [cache[name] for name in cache if name == "vision_projector.hook_out"]
    again = model.run_with_cache(alone[1])[1]
    own = cache.apply_slice_to_batch_dim(1)["vision_projector.hook_out"]
    bounds.close(own, again["vision_projector.hook_out"], bounds.depth(model.cfg))
    assert len(mine) == int(alone.token_map["image"].sum())


def test_attention_on_a_video_is_a_strip_of_its_frames(tmp_path):
    model = loaded("qwen2_5_vl")
    prompt = model.prompt(TEXT, videos=[clip(3, 120, 90)])
    _, cache = model.run_with_cache(prompt)
    figure = la.view.attention_on_image(cache, prompt, 0, heads=[1])
    panels = [axes for axes in figure.axes if axes.get_visible() and axes.images]
    assert [axes.get_ylabel() for axes in panels[::2]] == ["layer 0, frames 0 to 1", "layer 0, frame 2"]
    drawn = torch.tensor(panels[3].collections[0].get_array())
    step = cache["pattern", 0][0, 1, -1][prompt.token_map["frame:2"][0]]
    assert torch.equal(drawn.float(), step.float())
    video, grid = prompt.source(0, 0), prompt.token_map.grids[0][0]
    strip = la.view.overlay(video, torch.rand(2, grid.rows, grid.cols), grid)
    assert [axes.get_title() for axes in strip.axes[1:3]] == ["frames 0 to 1, 12 patches", "frame 2, 12 patches"]
    cache.save(tmp_path / "cache.safetensors")
    held = la.ActivationCache.load(tmp_path / "cache.safetensors", model).prompt
    assert held.token_map.grids == prompt.token_map.grids and (held.videos[0][0].array() == video.array()).all()


def test_what_looks_at_still_pictures_alone_refuses_a_video():
    model = loaded("qwen2_5_vl")
    prompt = model.prompt(TEXT, videos=[clip(3, 120, 90)])
    edit = la.ReplaceAttention(la.Complexity(), keys="video", queries="last")
    with pytest.raises(InputError, match="looks at a picture that stands still, and image 0 of item 0"):
        model.run_with_cache(prompt, interventions=edit)
    with pytest.raises(InputError, match="of is 'pixels', but this item holds a video; give of='tokens'"):
        la.lenses.input_attribution(model, prompt, lambda logits: logits[:, -1, 3], of="pixels")
    values = la.lenses.input_attribution(model, prompt, lambda logits: logits[:, -1, 3])
    assert values.shape == (2 * 3 * 4,) and prompt.token_map.grids[0][0].to_map(values).shape == (2, 3, 4)


def test_what_generated_tokens_looked_at_is_a_strip_where_some_patches_have_no_token():
    family = clips.family("video_llama_3")
    model = la.load(family.model(mixing=True), processor=family.processor, selftest=False)
    frames = clip(3, 112, 112)
    frames[2] = frames[1]
    prompt = model.prompt(TEXT, videos=[frames])
    (grid,) = prompt.token_map.grids[0]
    assert prompt.token_map["image"].sum() < len(grid)
    generation = model.generate(prompt, max_new_tokens=2, names_filter="blocks.0.attn.hook_pattern")
    looked = generation.image_attention(layers=0)
    patches, steps = looked.patches(), grid.rows * grid.cols
    assert patches.shape[-1] == len(grid) and patches[:, :steps].sum() > 0
    without = [p for p in range(len(grid)) if p not in prompt.token_map.patch_index[0]]
    assert without and patches[:, without].abs().sum() == 0
    assert len([axes for axes in looked.figure().axes if axes.images]) == 1 + 3 * len(patches)
    row = looked.table().iloc[0]
    best = grid.where(int(looked.values[0, 0, 0].argmax()))
    assert (row.time_step, row.row, row.column) == best and looked.labels["patch"][-1] == (
        2,
        grid.rows - 1,
        grid.cols - 1,
    )
