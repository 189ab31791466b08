"""The picture of the proof: as small as the processor makes it and the model can read it."""

from __future__ import annotations

import pytest
import torch
from families import family
from tiny import FAMILIES, INPUTS, MAKERS

import lostattn as la
from lostattn.selftest import local_proof, sample


def loaded(name):
    made = family(name)
    return la.load(made.model(mixing=True), processor=made.processor, selftest=False)


@pytest.mark.parametrize(
    ("name", "views", "image_tokens"),
    [("smolvlm", 1, 81), ("idefics3", 1, 169), ("qwen3_vl", 16, 4), ("qwen2_5_vl", 16, 4), ("mllama", 4, 0)],
)
def test_pictures_are_not_cut_into_tiles_nor_enlarged(name, views, image_tokens):
    """17 tiles of 64 × 64 pixels (SmolVLM), and 256 × 256 pixels at the least (Qwen3-VL), were most of the proof."""
    model = loaded(name)
    prompt = sample.sample_prompt(model)
    pixels = prompt.inputs["pixel_values"]
    assert pixels.shape[0 if pixels.dim() == 2 else -4] == views
    assert int(prompt.token_map["image"].sum()) == image_tokens


def test_the_proof_reads_the_small_picture(monkeypatch):
    model = loaded("smolvlm")
    read = []
    watch = local_proof.watch
    monkeypatch.setattr(
        local_proof,
        "watch",
        lambda hf, inputs, *rest: read.append(inputs["input_ids"].shape[1]) or watch(hf, inputs, *rest),
    )
    assert model.selftest().passed
    assert read == [sample.sample_prompt(model).n_pos] and read[0] < 120


def test_a_model_that_cannot_read_the_small_picture_is_proved_on_the_plain_one(monkeypatch):
    model = loaded("smolvlm")
    small, plain = sample.sample_prompts(model)
    assert small.n_pos < plain.n_pos
    with torch.no_grad():
        logits = model.hf(**plain.inputs).logits
    taken = []

    def watch(hf, inputs, *rest):
        taken.append(inputs["input_ids"].shape[1])
        if taken[-1] == small.n_pos:
            raise ValueError("Image features and image tokens do not match")
        raise Stopped

    class Stopped(Exception):
        pass

    monkeypatch.setattr(local_proof, "watch", watch)
    with pytest.raises(Stopped):
        model.selftest()
    assert taken == [small.n_pos, plain.n_pos] and logits.shape[1] == plain.n_pos


@pytest.mark.parametrize("broken", [RuntimeError("no memory"), ValueError("of this model's own")])
def test_an_error_of_the_model_itself_comes_out(broken, monkeypatch):
    def watch(*given):
        raise broken

    model = loaded("qwen2_5_vl")
    monkeypatch.setattr(local_proof, "watch", watch)
    with pytest.raises(type(broken), match=str(broken)):
        model.selftest()


@pytest.mark.parametrize("name", FAMILIES)
def test_of_many_patches_the_first_rows_are_proved(name, monkeypatch):
    """As much as four thousand patches of a tower would be a pattern of sixteen million weights a head."""
    from lostattn.selftest import attention_calls

    monkeypatch.setattr(attention_calls, "TOWER_ROWS", 5)
    model = la.load(MAKERS[name](), selftest=False)
    report = model.selftest(model.prompt(inputs=INPUTS[name]()))
    prefix = model.architecture.vision.stack.prefix
    moved = f"a perturbed {prefix}.0.attn.hook_pattern moves the logits"
    assert moved in {check.name for check in report.checks}
