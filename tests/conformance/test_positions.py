"""Where a picture's features go in, as the token map says it and as the model shows it."""

from __future__ import annotations

import copy
from dataclasses import replace

import bounds
import pytest
import torch

import lostattn as la
from lostattn.conformance.batch import two_items
from lostattn.conformance.compare_edits import uniform
from lostattn.conformance.compare_positions import audio_positions, image_positions
from lostattn.conformance.compare_steps import steps
from lostattn.conformance.comparison import Absent, Subject
from lostattn.conformance.inputs import picture_inputs
from lostattn.conformance.models import build
from lostattn.conformance.sounds import moved_sound, with_sound
from lostattn.errors import InputError
from lostattn.kernels import attention
from lostattn.prompt.cross_keys import CrossKeys
from lostattn.prompt.parts import CODE

pytestmark = pytest.mark.slow


def subject_of(family, more=None):
    module = build(family, "eager")
    inputs, _ = picture_inputs(module, family)
    model = la.load(module, selftest=False)
    return Subject(model, copy.deepcopy(module), model.prompt(inputs={**inputs, **(more or {})}))


def said(subject, **changed):
    """The number of positions that are wrong once the map is changed."""
    token_map = replace(subject.prompt.token_map, **changed)
    (one,) = image_positions(replace(subject, prompt=replace(subject.prompt, token_map=token_map)))
    return one.worst


@pytest.mark.parametrize("family", ["llava", "kosmos-2", "kosmos-2.5", "chameleon", "granite4_vision", "muse_spark",
                                    "diffusion_gemma"])  # fmt: skip
def test_the_stream_moves_with_the_picture_where_the_map_says(family):
    """From tokens, a mask over any ids, codes; in a later layer, in several streams, in what stands before a canvas."""
    subject = subject_of(family)
    assert said(subject) == 0
    part = subject.prompt.token_map.part
    assert said(subject, part=part.roll(1, -1)) >= 2  # one too many on one side, one too few on the other
    first = (part == CODE["image"]).int().argmax(-1)
    assert said(subject, part=part.scatter(1, first[:, None], CODE["separator"])) == 1


@pytest.mark.parametrize("family", ["mllama", "idefics", "florence2", "t5gemma2", "udop", "pix2struct", "pp_formulanet",
                                    "vision-encoder-decoder"])  # fmt: skip
def test_the_keys_of_cross_attention_move_with_the_picture_where_the_map_says(family):
    subject = subject_of(family)
    cross = subject.prompt.token_map.cross
    assert said(subject) == 0 and cross.resolve().any()
    none = cross.image_index.clone()
    none[0, int(cross.resolve()[0].int().argmax())] = -1
    assert said(subject, cross=CrossKeys(none, cross.patch_index, cross.part)) == 1
    if not cross.resolve().all() and cross.part is not None:
        every = torch.zeros_like(cross.image_index)
        assert said(subject, cross=CrossKeys(every, cross.patch_index, cross.part)) == int((~cross.resolve()).sum())


def test_a_family_without_pictures_says_so():
    subject = subject_of("mistral4")
    with pytest.raises(Absent, match="the family takes no picture"):
        image_positions(subject)
    knock = la.KnockOut(queries="last", keys="image")
    with pytest.raises(InputError, match="'image' names no position: 'mistral4' takes no picture"):
        subject.model.run_with_hooks(subject.prompt, interventions=knock)


def test_the_positions_of_an_encoder_decoder_are_its_decoders():
    subject = subject_of("florence2")
    prompt, ids = subject.prompt, subject.prompt.inputs["input_ids"]
    assert prompt.token_map.part.shape == prompt.inputs["decoder_input_ids"].shape != ids.shape
    assert prompt.token_map.counts(0) == {"template": 1, "answer": 5}
    assert prompt.token_map.n_images == (1,) and not prompt.token_map["image"].any()
    cross = prompt.token_map.cross
    picture = ids == subject.bare.config.image_token_id
    assert torch.equal(cross.chosen("image"), picture) and torch.equal(cross.chosen(("image", 0)), picture)
    assert torch.equal(cross.chosen("text"), ~picture) and bool(cross.chosen("all").all())
    assert not cross.chosen("last").any() and not cross.chosen("separator").any()


def test_a_decoder_begins_with_its_start_token_where_the_inputs_hold_none():
    subject = subject_of("vision-encoder-decoder")
    pixels = {"pixel_values": subject.prompt.inputs["pixel_values"]}
    with pytest.raises(
        InputError, match="VisionEncoderDecoderConfig names no decoder_start_token_id; give decoder_inp"
    ):
        subject.model.prompt(inputs=pixels)
    subject.model.hf.generation_config.decoder_start_token_id = 3
    prompt = subject.model.prompt(inputs=pixels)
    assert prompt.inputs["decoder_input_ids"].tolist() == [[3]]
    assert prompt.token_map.counts(0) == {"template": 1}
    assert subject.model.forward(prompt).shape[:2] == (1, 1)
    with pytest.raises(InputError, match="hold neither a picture nor text, only labels"):
        subject.model.prompt(inputs={"labels": torch.ones(1, 2, dtype=torch.long)})


def test_items_of_an_encoder_decoder_are_taken_apart():
    subject = subject_of("t5gemma2")
    known = {"decoder_input_ids", "decoder_attention_mask"}
    batch = subject.model.prompt(inputs=two_items(subject.prompt.inputs, known, decoder=True))
    one = batch[1]
    assert batch.token_map.counts(1)["padding"] == 2 and one.n_pos == batch.n_pos - 2
    assert one.inputs["pixel_values"].shape[0] == one.inputs["input_ids"].shape[0] == 1
    assert torch.equal(one.token_map.cross.part, batch.token_map.cross.part[1:])
    share = bounds.depth(subject.model.cfg)
    bounds.close(subject.model.forward(batch)[:1], subject.model.forward(batch[0]), share)


def test_words_with_boxes_hold_the_patch_at_their_middle():
    """Of 8 x 8 patches; boxes are shares of the page. What lies at 0 throughout, or at 1, has no place."""
    boxes = torch.zeros(1, 8, 4)
    boxes[0, 1] = torch.tensor([0.0, 0.0, 0.1, 0.1])  # patch 0
    boxes[0, 2] = torch.tensor([0.5, 0.25, 0.6, 0.3])  # middle 0.55, 0.275: column 4, row 2
    boxes[0, 3] = torch.tensor([0.9, 0.9, 1.0, 1.0])  # the last one
    boxes[0, 4] = 1.0
    subject = subject_of("udop", {"bbox": boxes})
    cross = subject.prompt.token_map.cross
    assert cross.patch_index[0, :8].tolist() == [-1, 0, 20, 63, -1, -1, -1, -1]
    assert cross.patch_index[0, 8:].tolist() == [*range(1, 20), *range(21, 63), -1, -1, -1]
    assert cross.chosen("text")[0].tolist() == [True] * 8 + [False] * 64
    assert said(subject) == 0


def test_pictures_of_idefics_that_no_token_sees_are_no_pictures():
    subject = subject_of("idefics")
    pixels = torch.randn(1, 3, 3, 64, 64, generator=torch.Generator().manual_seed(0))
    seen = torch.zeros(1, 8, 3, dtype=torch.long)
    seen[0, 2:, 0] = seen[0, 5:, 1] = 1
    changed = {"pixel_values": pixels, "image_attention_mask": seen}
    prompt = subject.model.prompt(inputs={**subject.prompt.inputs, **changed})
    cross = prompt.token_map.cross
    assert prompt.token_map.n_images == (2,) and cross.image_index.shape == (1, 3 * 65)
    assert [int(cross.resolve(k).sum()) for k in (0, 1)] == [65, 65] and not cross.chosen("all")[0, 130:].any()
    assert cross.patch_index[0, 65:67].tolist() == [-1, 0]  # a class token, then the first patch
    assert said(replace(subject, prompt=prompt)) == 0


def test_keys_of_an_encoder_are_kept_with_a_cache(tmp_path):
    subject = subject_of("florence2")
    _, cache = subject.model.run_with_cache(subject.prompt, "blocks.0.hook_resid_pre")
    back = type(cache).load(cache.save(tmp_path / "c"), subject.model).prompt.token_map.cross
    for name in ("image_index", "patch_index", "part"):
        assert torch.equal(getattr(back, name), getattr(subject.prompt.token_map.cross, name))


@pytest.mark.parametrize("family", ["qwen2_5_omni_thinker", "qwen3_omni_moe_thinker", "muse_spark", "dots3_note",
                                    "gemma4", "gemma4_unified"])  # fmt: skip
def test_the_stream_moves_with_a_sound_where_the_map_says(family):
    subject = subject_of(family)
    (one,) = audio_positions(subject)
    assert one.worst == 0
    inputs = with_sound(subject.bare, subject.prompt.inputs)
    token_map = subject.model.prompt(inputs=inputs).token_map
    assert token_map["audio"].any() and token_map["image"].sum() == subject.prompt.token_map["image"].sum()
    assert not (token_map["audio"] & (token_map["text"] | token_map["image"])).any()
    assert torch.equal(token_map["audio"] | token_map["text"] | token_map["image"], token_map["all"])


def test_a_token_too_many_among_those_of_a_sound_is_seen(monkeypatch):
    from lostattn.conformance import compare_positions

    subject = subject_of("muse_spark")
    found = compare_positions._parting

    def shifted(*given):
        return found(*given).roll(1, -1)

    monkeypatch.setattr(compare_positions, "_parting", shifted)
    (one,) = audio_positions(subject)
    assert one.worst == 2


def test_a_sound_is_a_group_of_keys_of_its_own():
    """What the last position reads of the sound is all that another sound changes in its first layer's attention."""
    subject = subject_of("qwen2_5_omni_thinker")
    model, inputs = subject.model, with_sound(subject.bare, subject.prompt.inputs)
    one, other = (model.prompt(inputs=i) for i in (inputs, moved_sound(inputs)))
    knock = la.KnockOut(queries="last", keys="audio", layers=[0])

    def last(prompt, edit=None):
        return model.run_with_cache(prompt, "blocks.0.hook_attn_out", interventions=edit)[1]["attn_out", 0][0, -1]

    # The sounds go through a layer of attention, and what it had read of them is taken away again.
    share = bounds.depth(model.cfg)
    assert bounds.moved(last(one), last(other), share, times=100)
    bounds.close(last(one, knock), last(other, knock), share, size=last(one))
    with pytest.raises(InputError, match="'audio' names no position of this prompt"):
        model.run_with_hooks(subject.prompt, interventions=knock)


def test_keys_of_an_encoder_behind_the_positions_are_edited_at_every_step(monkeypatch):
    subject = subject_of("t5gemma2")
    assert subject.keys == "image" and subject.merged
    assert [str(one) for one in (*uniform(subject), *steps(subject)) if not one.passed] == []
    fixed = la.ReplaceAttention(la.Fixed(torch.ones(1, 24)), keys="image", queries="last")
    with pytest.raises(
        InputError, match="are an encoder's and stand behind the positions; this source is laid onto pos"
    ):
        subject.model.run_with_hooks(subject.prompt, interventions=fixed)
    exact = attention.mask_at_step

    def before(positions, step, n):  # as if they stood before the positions
        found = exact(positions, step, n)
        return found.roll(positions[2].shape[1], 1) if len(positions) == 3 else found

    monkeypatch.setattr(attention, "mask_at_step", before)
    assert not uniform(subject)[0].passed


def test_words_of_the_encoder_and_of_the_decoder_are_text_together():
    subject = subject_of("t5gemma2")
    silent = la.KnockOut(queries="last", keys="text")
    _, cache = subject.model.run_with_cache(subject.prompt, "blocks.0.attn.hook_pattern", interventions=silent)
    left = cache["pattern", 0][0, :, -1] > 0
    picture = torch.cat([torch.zeros(6, dtype=torch.bool), subject.prompt.token_map.cross.chosen("image")[0]])
    assert torch.equal(left.any(0), picture)
