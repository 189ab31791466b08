"""Videos: frames as they are given, prompts of ready inputs, grids in time too, and what is refused.

What transformers' video processors make of them is tested where torchvision is: ``tests/videos``.
"""

from __future__ import annotations

from types import SimpleNamespace as Holder

import bounds
import numpy as np
import pytest
import torch
from PIL import Image
from small_processors import llava, qwen
from transformers import Qwen2_5_VLForConditionalGeneration

from lostattn.errors import InputError, UnknownName
from lostattn.pictures.patch_grid import PatchGrid
from lostattn.pictures.videos import Video, load_videos
from lostattn.prompt import build_prompt
from lostattn.prompt.layouts.base import SEPARATOR, ImageLayout
from lostattn.prompt.layouts.videos import video_layouts, woven_layouts
from lostattn.prompt.rows import rows_of_videos


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
            moved = bounds.changed(seen[-1], seen[0])
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
    assert [[m.tokens for m in own] for own in woven_layouts(rows, 9, 8, [image], [video, video])] == [[4, 1], [4]]
    with pytest.raises(InputError, match="more images or videos"):
        woven_layouts(rows, 9, 8, [image], [video])
    with pytest.raises(InputError, match="Item 0 holds fewer"):
        woven_layouts([[8, 8]], 9, 8, [], [video])
    with pytest.raises(InputError, match="has no tokens"):
        woven_layouts([[8] * 4], 9, 8, [image], [video])


def frames(n: int = 3, width: int = 40, height: int = 30) -> np.ndarray:
    return np.random.default_rng(0).integers(0, 256, (n, height, width, 3), dtype=np.uint8)


def test_a_video_is_given_as_an_array_or_as_pictures():
    pixels = frames()
    pictures = [Image.fromarray(frame) for frame in pixels]
    for given in (pixels, torch.from_numpy(pixels), pictures, tuple(pixels), pixels / 255):
        video = Video(given)
        assert (video.array() == pixels).all() and video.size == (40, 30) and len(video) == 3
        # One video may stand for a list of one; several are several.
        assert [len(v) for v in load_videos(given)] == [3] and [len(v) for v in load_videos([given, given])] == [3, 3]
    assert load_videos(None) == () and load_videos([pixels], fps=2)[0].fps == 2
    assert load_videos([Video(pixels, fps=5)], fps=2)[0].fps == 5
    assert repr(Video(pixels, 2)) == "Video(3 frames of 40 x 30, 2 fps)"


def test_what_a_processor_is_told_of_times():
    even = Video(frames(4), fps=2).metadata()
    assert (even["total_num_frames"], even["fps"], even["duration"]) == (4, 2, 2.0)
    assert even["frames_indices"] == [0, 1, 2, 3] and (even["width"], even["height"]) == (40, 30)
    uneven = Video(frames(4), seconds=(0, 1, 5, 6)).metadata()  # 3 gaps in 6 seconds
    assert uneven["fps"] == 0.5 and [place / 0.5 for place in uneven["frames_indices"]] == [0, 1, 5, 6]
    assert Video(frames(1), seconds=(3,)).metadata()["frames_indices"] == [3.0]
    assert Video(frames()).metadata()["fps"] is None


@pytest.mark.parametrize(
    ("given", "said"),
    [
        ([], "a video holds no frames"),
        (frames()[0], r"a video is an array of shape \(30, 40, 3\); expected \[frame, height, width, 3\]"),
        ([frames()[0], frames(1, 20)[0]], r"the frames of a video are of \(40, 30\) and \(20, 30\) pixels"),
        ([frames()[0], "nowhere.png"], "frame 1 of a video: there is no file 'nowhere.png'"),
        (3, "a video is a int; a video is a list of pictures, or an array"),
    ],
)
def test_what_is_no_video_is_named(given, said):
    with pytest.raises(InputError, match=said):
        Video(given)


def test_times_that_do_not_fit_are_refused():
    with pytest.raises(InputError, match="fps is 0; expected the number of frames a second, above 0"):
        Video(frames(), fps=0)
    with pytest.raises(InputError, match="either fps= or seconds=, not both"):
        Video(frames(), fps=1, seconds=(0, 1, 2))
    for seconds in ((0, 1), (0, 2, 1)):
        with pytest.raises(InputError, match=f"seconds holds {len(seconds)} times for 3 frames; give one for each, in"):
            Video(frames(), seconds=seconds)
    with pytest.raises(InputError, match=r"video 0 of item 2 is a path, 'clip.mp4', and no animated picture; decode"):
        load_videos("clip.mp4", 2)


def test_without_torchvision_a_prompt_says_what_is_missing():
    with pytest.raises(InputError) as told:
        build_prompt(*qwen(), "How many?", videos=[frames()])
    for said in (
        "videos holds Video(3 frames of 40 x 30), but this Qwen2_5_VLProcessor has no video processor",
        "need torchvision, which is not installed. Install the build that belongs to your torch",
        "model.prompt(inputs=…)",
    ):
        assert said in str(told.value)
    with pytest.raises(InputError, match="LlavaProcessor takes no videos. Give its frames as pictures, images="):
        build_prompt(*llava(), "How many?", videos=[frames()])
    with pytest.raises(InputError, match="'gpt2' is a decoder of text and takes no videos; leave videos= out"):
        build_prompt(qwen()[0], Holder(model_type="gpt2"), "How many?", videos=[frames()])


def test_a_frame_is_chosen_by_its_number():
    token_map = build_prompt(*qwen(), inputs=inputs()).token_map
    video, picture = token_map.grids[0]
    assert video.is_video and not picture.is_video and video.shown_frames == ((0, 1), (2, 3), (4, 5))
    assert video.steps_of(3) == [1] and video.where(21) == (2, 1, 1) and picture.steps_of(0) == []
    for frame, places in ((0, range(3, 11)), (1, range(3, 11)), (4, range(19, 27))):
        assert token_map[f"frame:{frame}"][0].nonzero().flatten().tolist() == list(places)
        assert torch.equal(token_map["frame", frame], token_map[f"frame:{frame}"])
    assert token_map["video"][0].nonzero().flatten().tolist() == list(range(3, 27))
    assert torch.equal(token_map["video:0"], token_map["video"]) and not token_map["video:1"].any()
    assert token_map.video_index[0, [2, 3, 26, 29]].tolist() == [-1, 0, 0, -1]
    assert token_map.step_index[0, [2, 3, 10, 11, 26, 29]].tolist() == [-1, 0, 0, 1, 2, -1]
    with pytest.raises(InputError, match="asks for what is not there: the videos of this prompt hold 6 frames"):
        token_map.resolve("frame:6", need=True)
    with pytest.raises(UnknownName, match="frame:t for frame t of a video"):
        token_map["frame:last"]
    still = build_prompt(*llava(), "How many?", images=[Image.new("RGB", (40, 30))]).token_map
    with pytest.raises(InputError, match="asks for tokens of a video, but the prompt holds none"):
        still.resolve("video", need=True)


def test_frames_given_beside_inputs_have_boxes_and_a_source():
    given = inputs()
    prompt = build_prompt(*qwen(), inputs=given, videos=[frames(5, 96, 48)], images=[Image.new("RGB", (48, 24))])
    video, picture = prompt.token_map.grids[0]
    assert video.shown_frames == ((0, 1), (2, 3), (4,))  # the last is shown twice
    assert video.boxes()[[0, 7, 8]].tolist() == [[0, 0, 24, 24], [72, 24, 96, 48], [0, 0, 24, 24]]
    assert len(prompt.source(0, 0)) == 5 and prompt.source(0, 1).size == (48, 24) and prompt[0].videos == prompt.videos
    assert "5 frames" in prompt._repr_html_() and build_prompt(*qwen(), inputs=given).source(0, 0) is None
    with pytest.raises(InputError, match="and videos for 3 were given"):
        both = {name: torch.cat([value, value]) for name, value in given.items()}
        build_prompt(*qwen(), inputs=both, videos=[[frames()]] * 3)


def test_rows_of_inputs_go_by_video_where_they_add_up():
    video, still = PatchGrid(1, 2, 3, role="video"), PatchGrid(2, 2)
    grids = [still, video, video]
    held = {
        "pixel_values_videos": torch.zeros(6, 3, 8, 8),  # a row a frame
        "second_per_grid_ts": torch.zeros(2),
        "num_frames_per_video": torch.tensor([3, 3]),
        "pixel_values": torch.zeros(1, 3, 8, 8),
    }
    rows = {"pixel_values_videos": [0, 3, 3], "second_per_grid_ts": [0, 1, 1], "num_frames_per_video": [0, 1, 1]}
    assert rows_of_videos(held, grids) == rows
    assert rows_of_videos({"pixel_values": torch.zeros(7, 3, 8, 8)}, grids) == {"pixel_values": [1, 3, 3]}
    assert rows_of_videos({"pixel_values": torch.zeros(2, 3, 3, 8, 8)}, grids[1:]) == {"pixel_values": [1, 1]}
    assert rows_of_videos({"pixel_values": torch.zeros(5, 3, 8, 8)}, grids) == {}
