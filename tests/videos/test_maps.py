"""Token maps on what the video processors of twelve families emit: grids in time, marks, batches, pictures beside."""

from __future__ import annotations

import bounds
import chat_templates
import clips
import pytest
import torch
from clips import TEXT, clip, prompt
from PIL import Image

from lostattn.errors import InputError
from lostattn.pictures.videos import Video
from lostattn.prompt import build_prompt

# GLM's processor makes an array of a tensor in a way that numpy is about to drop.
pytestmark = pytest.mark.filterwarnings("ignore:__array__ implementation:DeprecationWarning")

PAIRS, SINGLES = ((0, 1), (2, 3), (4,)), ((0,), (1,), (2,), (3,), (4,))
FRAME = "<fake_token_around_image><global-img><fake_token_around_image>"
TIMES = "".join(f"<{second} seconds><|vision_start|><|vision_end|>" for second in (0.2, 1.2, 2.0))
ENDS = "<|begin_of_image|><|end_of_image|>"
# By hand, from each processor's settings: five frames of 120 x 90 pixels, two a second.
EXPECTED = [
    # Tokens of 28 pixels, two frames each; the last frame is shown twice.
    ("qwen2_vl", "3 x 3 x 4", PAIRS, (0, 0, 120, 90), ""),
    ("qwen2_5_vl", "3 x 3 x 4", PAIRS, (0, 0, 120, 90), ""),
    # Tokens of 32 pixels; the mean time of two frames before each step.
    ("qwen3_vl", "3 x 3 x 4", PAIRS, (0, 0, 120, 90), TIMES),
    ("qwen3_5", "3 x 3 x 4", PAIRS, (0, 0, 120, 90), TIMES),
    # 27 patches of 14 a side, 6 pixels of 384 that none sees, interpolated to 14; a newline behind all.
    ("llava_onevision", "5 x 14 x 14", SINGLES, (0, 0, 120 * 378 / 384, 90 * 378 / 384), "<newline>"),
    ("internvl", "5 x 16 x 16", SINGLES, (0, 0, 120, 90), "".join(f"Frame{n}: <img></img>\n" for n in range(1, 6))),
    # 27 patches of 14 a side merged 3 x 3.
    ("smolvlm", "5 x 9 x 9", SINGLES, (0, 0, 120 * 378 / 384, 90 * 378 / 384), (
        " You are provided the following series of 5 frames from a 0:00:02 [H:MM:SS] video.\n\n"
        + "".join(f"Frame from 00:0{t}:{FRAME}\n" for t in (0, 0, 1, 1, 2))
    )),
    # 448 x 336, the middle 336 of it; 24 patches a side pooled 2 x 2.
    ("llava_next_video", "5 x 12 x 12", SINGLES, (15, 0, 105, 90), ""),
    # 298 x 224, the middle 224 of it; a class token a frame that has no place.
    ("video_llava", "5 x 16 x 16", SINGLES, (37 * 120 / 298, 0, 261 * 120 / 298, 90), ""),
    # At least 128 tokens of 28 pixels: 140 is 10 x 14.
    ("video_llama_3", "5 x 10 x 14", SINGLES, (0, 0, 120, 90), ",".join(f"Time {t / 2}s:" for t in range(5))),
    ("glm4v", "3 x 3 x 4", PAIRS, (0, 0, 120, 90), f"{ENDS}0{ENDS}1{ENDS}2"),
    # At most 70 tokens of 48 pixels: 9 x 7.
    ("gemma4", "5 x 7 x 9", SINGLES, (0, 0, 120, 90), " ".join(f"00:0{t} <|image><image|>" for t in (0, 0, 1, 1, 2))),
]  # fmt: skip


def joined(given, spec: str, item: int = 0) -> str:
    """The text of the chosen positions."""
    mask = given.token_map[spec][item].tolist()
    return "".join(t for t, m in zip(given.str_tokens[item], mask, strict=True) if m)


@pytest.mark.parametrize(("name", "shape", "frames", "covers", "separators"), EXPECTED, ids=[e[0] for e in EXPECTED])
def test_the_parts_of_a_prompt_with_a_video(name, shape, frames, covers, separators):
    given = prompt(name, Video(clip(5, 120, 90), fps=2))
    token_map = given.token_map
    (grid,) = token_map.grids[0]
    assert (str(grid), grid.shown_frames, grid.size) == (shape, frames, (120, 90)) and grid.is_video
    assert grid.covers == pytest.approx(covers, rel=bounds.sums(4))
    assert joined(given, "question") == TEXT and token_map.located == (True,)
    # Where white space of the template and of the processor became one token, it counts with the processor's.
    assert joined(given, "separator").replace("\n", "").strip() == separators.replace("\n", "").strip()
    patches = token_map.patch_index[0][token_map.patch_index[0] >= 0]
    assert patches.tolist() == list(range(len(grid)))
    assert torch.equal(token_map["video:0"], token_map["image:0"]) and torch.equal(
        token_map["video"], token_map["image"]
    )
    assert torch.equal(token_map.video_index[0] == 0, token_map["image"][0])
    each = grid.rows * grid.cols
    for frame in range(5):
        (step,) = grid.steps_of(frame)
        mine = token_map.patch_index[0][token_map[f"frame:{frame}"][0]].tolist()
        assert mine == list(range(step * each, (step + 1) * each))
        assert set(token_map.step_index[0][token_map["frame", frame][0]].tolist()) == {step}
    assert given.str_tokens[0].count("<video>") == int(token_map["image"].sum())
    assert [len(v) for v in given.videos[0]] == [5] and given.source(0, 0).size == (120, 90)


def test_a_video_of_one_step_is_still_a_video():
    given = prompt("qwen2_5_vl", clip(2, 120, 90))
    (grid,) = given.token_map.grids[0]
    assert grid.is_video and grid.frames == 1 and grid.shown_frames == ((0, 1),)
    assert torch.equal(given.token_map["frame:0"], given.token_map["frame:1"])


BESIDE = ["qwen2_5_vl", "qwen3_vl", "llava_onevision", "internvl", "llava_next_video", "video_llava", "video_llama_3",
          "glm4v", "gemma4"]  # fmt: skip


def picture(seed: int = 5) -> Image.Image:
    return Image.fromarray(clip(1, 210, 330, seed)[0])


@pytest.mark.parametrize("name", BESIDE)
def test_pictures_and_videos_in_one_prompt_are_told_apart(name):
    made, still = clip(3, 140, 84), picture()
    given = prompt(name, made, clip(3, 140, 84, 1), images=[still])
    alone, moving = prompt(name, images=[still]).token_map, prompt(name, made).token_map
    image, first, second = given.token_map.grids[0]
    assert [one.is_video for one in (image, first, second)] == [False, True, True]
    assert image == alone.grids[0][0] and first == moving.grids[0][0] == second
    assert given.source(0, 0).size == (210, 330) and len(given.source(0, 2)) == 3
    assert (
        given.token_map["video:1"].sum() == moving["video"].sum()
        and given.token_map["image:0"].sum() == alone["image"].sum()
    )
    if name == "glm4v":
        return  # its model refuses images beside videos: it takes the tokens of both for images
    # What goes into the tokens: the second video changes its own, and no others.
    before = clips.seen(name, given)
    after = clips.seen(name, prompt(name, made, clip(3, 140, 84, 2), images=[still]))
    placed = given.token_map.patch_index[0] >= 0  # the class tokens of Video-LLaVA see nothing where nothing is mixed
    assert torch.equal(bounds.changed(after, before), given.token_map["video:1"][0] & placed)
    other = clips.seen(name, prompt(name, made, clip(3, 140, 84, 1), images=[picture(6)]))
    assert torch.equal(bounds.changed(other, before), given.token_map["image:0"][0])


@pytest.mark.parametrize("name", ["qwen2_5_vl", "internvl", "llava_onevision"])
def test_placeholders_in_the_text_say_the_order(name):
    processor = clips.family(name).processor
    still, moving = processor.image_token, processor.video_token
    given = prompt(name, clip(2, 140, 84), images=[picture()], text=f"{moving} first, {still} then")
    assert [grid.is_video for grid in given.token_map.grids[0]] == [True, False]
    before = clips.seen(name, given)
    again = prompt(name, clip(2, 140, 84, 1), images=[picture()], text=f"{moving} first, {still} then")
    moved = bounds.changed(clips.seen(name, again), before)
    assert torch.equal(moved, given.token_map["video:0"][0]) and torch.equal(moved, given.token_map["image:0"][0])


@pytest.mark.parametrize(
    "name", ["qwen2_5_vl", "qwen3_vl", "llava_onevision", "internvl", "video_llama_3", "glm4v", "gemma4"]
)
def test_an_item_of_a_batch_is_the_prompt_of_that_item_alone(name):
    family = clips.family(name)
    videos = [[clip(2, 140, 84), clip(2, 140, 84, 1)], [], [clip(2, 140, 84, 2)]]
    images = [[picture()], [picture(6)], []]
    texts = [TEXT, "Is it red?", TEXT]
    batch = build_prompt(family.processor, family.config, texts, images=images, videos=videos)
    for i in range(3):
        alone = build_prompt(family.processor, family.config, texts[i], images=images[i], videos=videos[i])
        one = batch[i]
        assert one.token_map.grids == alone.token_map.grids and one.str_tokens == alone.str_tokens
        assert set(one.inputs) == set(alone.inputs) and one.ids == alone.ids
        assert [len(v) for v in one.videos[0]] == [len(v) for v in alone.videos[0]]
        for field in ("part", "image_index", "patch_index"):
            assert torch.equal(getattr(one.token_map, field), getattr(alone.token_map, field)), field
        for key, value in alone.inputs.items():
            assert torch.equal(one.inputs[key], value), key


def test_a_batch_of_smolvlm_is_taken_apart_by_video():
    family = clips.family("smolvlm")
    videos = [[clip(2, 140, 84)], [clip(3, 140, 84, 1)]]
    batch = build_prompt(family.processor, family.config, [TEXT] * 2, videos=videos)
    one = batch[1]
    assert str(one.token_map.grids[0][0]) == "3 x 9 x 9" and one.inputs["pixel_values"].shape[:2] == (1, 3)
    assert torch.equal(one.inputs["pixel_values"], prompt("smolvlm", videos[1][0]).inputs["pixel_values"])
    with pytest.raises(InputError, match="SmolVLMProcessor puts the pixels of the one in the place of the other's"):
        prompt("smolvlm", videos[0][0], images=[picture()])


@pytest.mark.parametrize(
    "name", ["qwen2_vl", "qwen3_vl", "llava_onevision", "llava_next_video", "video_llama_3", "glm4v", "gemma4"]
)
def test_inputs_made_elsewhere_give_the_same_map(name):
    family = clips.family(name)
    made = prompt(name, clip(4, 140, 84), images=[picture()])
    again = build_prompt(
        family.processor, family.config, TEXT, [picture()], inputs=made.inputs, videos=[clip(4, 140, 84)]
    )
    for field in ("image_index", "patch_index"):
        assert torch.equal(getattr(again.token_map, field), getattr(made.token_map, field)), field
    assert torch.equal(again.token_map["question"], made.token_map["question"])
    assert again.token_map.grids == made.token_map.grids and len(again.videos[0]) == 1
    bare = build_prompt(family.processor, family.config, inputs=made.inputs).token_map
    if name != "glm4v":  # the time behind its last frame cannot be told from the text
        assert torch.equal(bare["question"], made.token_map["question"])
    assert torch.equal(bare.patch_index, made.token_map.patch_index) and bare.grids[0][1].shown_frames
    with pytest.raises(InputError, match="it is a video, and the prompt holds no frames of it"):
        bare.grids[0][1].boxes()


def test_times_are_those_that_were_given():
    seconds = prompt("qwen3_vl", Video(clip(4, 120, 90), seconds=(0, 1, 5, 7)))
    assert joined(seconds, "separator").startswith("<0.5 seconds>") and "<6.0 seconds>" in joined(seconds, "separator")
    assert prompt("qwen2_5_vl", clip(4, 120, 90), fps=4).inputs["second_per_grid_ts"].tolist() == [0.5]
    assert prompt("qwen2_5_vl", Video(clip(4, 120, 90), fps=1), fps=4).inputs["second_per_grid_ts"].tolist() == [2.0]


def test_every_frame_is_shown_also_where_the_processor_would_sample():
    assert clips.family("qwen3_vl").processor.video_processor.do_sample_frames
    assert prompt("qwen3_vl", clip(40, 64, 64), fps=24).token_map.grids[0][0].frames == 20


def test_tokens_that_are_left_out_have_no_position():
    """VideoLLaMA 3 drops tokens that are much like those of the frame before; a frame keeps one at least."""
    frames = clip(3, 280, 280)
    frames[1:] = frames[0]
    frames[2, 28 * 4 : 28 * 5, 28 * 7 : 28 * 8] = 255 - frames[0, 28 * 4 : 28 * 5, 28 * 7 : 28 * 8]
    given = prompt("video_llama_3", frames)
    (grid,) = given.token_map.grids[0]
    each = grid.rows * grid.cols
    kept = given.token_map.patch_index[0][given.token_map["image"][0]].tolist()
    assert kept[:each] == list(range(each)) and len(kept) < 2 * each
    last = [grid.where(p)[1:] for p in kept if grid.where(p)[0] == 2]
    centre = ((4.5 * grid.rows / 10), (7.5 * grid.cols / 10))
    assert last and all(abs(row + 0.5 - centre[0]) <= 1.5 and abs(col + 0.5 - centre[1]) <= 1.5 for row, col in last)


def test_a_template_that_does_not_write_videos_is_told():
    held = clips.family("qwen2_5_vl")
    processor = type(held.processor)(
        image_processor=held.processor.image_processor, tokenizer=held.processor.tokenizer,
        video_processor=held.processor.video_processor, chat_template=chat_templates.one_turn("", "<|image_pad|>", ""),
    )  # fmt: skip
    with pytest.raises(InputError, match=r"0 video placeholders '<\|video_pad\|>' in the prompt, but 1 video given"):
        build_prompt(processor, held.config, TEXT, videos=[clip(2, 56, 56)])
    with pytest.raises(InputError, match="2 texts were given with videos for 1; give a list of videos for each text"):
        build_prompt(held.processor, held.config, [TEXT] * 2, videos=[[clip(2, 56, 56)]])


def test_a_processor_that_takes_no_videos_says_so():
    import families

    llava = families.family("llava")
    with pytest.raises(InputError, match="LlavaProcessor takes no videos. Give its frames as pictures, images="):
        build_prompt(llava.processor, llava.config, TEXT, videos=[clip(2, 56, 56)])
