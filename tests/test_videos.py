"""Videos in prompts of ready inputs: grids in time too, and the tokens that a frame's pixels go into."""

from __future__ import annotations

from types import SimpleNamespace as Holder

import pytest
import torch
from small_processors import qwen
from transformers import Qwen2_5_VLForConditionalGeneration

from lostattn.errors import InputError
from lostattn.image_layout import SEPARATOR, ImageLayout
from lostattn.patch_grid import PatchGrid
from lostattn.prompt import build_prompt
from lostattn.video_layouts import video_layouts, woven


def inputs(seed: int = 0) -> dict[str, torch.Tensor]:
    """Text, a video of 3 steps of 2 x 4 tokens, a picture of 1 x 2 tokens, text; in the layout of Qwen2.5-VL."""
    config, generator = qwen()[1], torch.Generator().manual_seed(seed)
    image, video = config.image_token_id, config.video_token_id
    start, end = config.vision_start_token_id, config.vision_end_token_id
    ids = torch.tensor([[40, 41, start, *[video] * 24, end, start, image, image, end, 50, 51]])
    return {
        "input_ids": ids,
        "attention_mask": torch.ones_like(ids),
        "mm_token_type_ids": (ids == image).int() + 2 * (ids == video).int(),
        "pixel_values": torch.randn(8, 216, generator=generator),
        "image_grid_thw": torch.tensor([[1, 2, 4]]),
        "pixel_values_videos": torch.randn(96, 216, generator=generator),
        "video_grid_thw": torch.tensor([[3, 4, 8]]),
    }


def test_a_video_has_a_grid_with_frames():
    prompt = build_prompt(*qwen(), inputs=inputs())
    video, picture = prompt.token_map.grids[0]
    assert (video.frames, video.rows, video.cols, video.merge, str(video)) == (3, 2, 4, 2, "3 x 2 x 4")
    assert str(picture) == "1 x 2"
    assert prompt.token_map["image:0"][0].nonzero().flatten().tolist() == list(range(3, 27))
    assert prompt.token_map["image:1"][0].nonzero().flatten().tolist() == [29, 30]
    assert prompt.token_map.patch_index[0, 3:27].tolist() == list(range(24))
    assert video.to_map(torch.arange(24.0))[2, 1].tolist() == [20, 21, 22, 23] and video.name(21) == "2:1,1"
    with pytest.raises(InputError, match="it is a video, and the prompt holds no frames"):
        video.boxes()
    alone = prompt[0]
    assert all(torch.equal(alone.inputs[name], value) for name, value in prompt.inputs.items())


def test_the_pixels_of_a_place_and_time_go_into_the_token_that_the_map_names():
    config = qwen()[1]
    torch.manual_seed(0)
    model = Qwen2_5_VLForConditionalGeneration._from_config(config, attn_implementation="sdpa").eval()
    for name, parameter in model.named_parameters():
        if "visual" in name and "attn.proj" in name:
            torch.nn.init.zeros_(parameter)
    seen = []
    hook = model.get_decoder().register_forward_pre_hook(
        lambda m, a, k: seen.append(k["inputs_embeds"][0].clone()), with_kwargs=True
    )
    given = inputs()
    token_map = build_prompt(*qwen(), inputs=given).token_map
    with torch.no_grad():
        model(**given)
        for patch in (0, 13, 22):  # frames 0, 1 and 2
            pixels = given["pixel_values_videos"].clone()
            pixels[4 * patch : 4 * patch + 4] += 3
            model(**{**given, "pixel_values_videos": pixels})
            moved = (seen[-1] - seen[0]).abs().amax(-1) > 1e-6
            assert torch.equal(moved, (token_map.image_index[0] == 0) & (token_map.patch_index[0] == patch))
    hook.remove()


def test_frames_that_are_pooled_and_a_newline_behind_them():
    """27 x 27 patches of 384 pixels are pooled to 14 x 14 a frame."""
    config = Holder(vision_config=Holder(patch_size=14))
    held = {"pixel_values_videos": torch.zeros(1, 5, 3, 384, 384)}
    (found,) = video_layouts(held, config, 5 * 14 * 14 + 1)
    assert str(found.grid) == "5 x 14 x 14" and found.order[-1] == SEPARATOR and found.order[:3] == (0, 1, 2)
    assert video_layouts(held, config, 5 * 13 * 13 + 1) is None


def test_frames_between_time_stamps_and_what_does_not_add_up():
    image, video = ImageLayout(1, PatchGrid(1, 1)), ImageLayout(4, PatchGrid(1, 2, 2))
    rows = [[1, 8, 8, 5, 8, 8, 9, 1], [8, 8, 5, 8, 8]]  # two runs of a video's tokens, one a time step
    assert [[m.tokens for m in own] for own in woven(rows, 9, 8, [image], [video, video])] == [[4, 1], [4]]
    with pytest.raises(InputError, match="more images or videos"):
        woven(rows, 9, 8, [image], [video])
    with pytest.raises(InputError, match="Item 0 holds fewer"):
        woven([[8, 8]], 9, 8, [], [video])
    with pytest.raises(InputError, match="has no tokens"):
        woven([[8] * 4], 9, 8, [image], [video])
