"""The comparisons with bare models: the reference by itself, what they say of a sound family, and planted faults."""

from __future__ import annotations

import copy
from dataclasses import replace

import bounds
import pytest
import torch

import lostattn as la
from lostattn.conformance.batch import two_items
from lostattn.conformance.by_hand import by_hand
from lostattn.conformance.compare import compare
from lostattn.conformance.compare_edits import identity, uniform
from lostattn.conformance.compare_flex import flex
from lostattn.conformance.compare_patterns import patterns
from lostattn.conformance.compare_steps import steps
from lostattn.conformance.compare_stream import stream
from lostattn.conformance.comparison import Absent, Comparison, Subject, plain
from lostattn.conformance.inputs import picture_inputs, prompt_of
from lostattn.conformance.models import build
from lostattn.kernels import attention

pytestmark = pytest.mark.slow


def subject_of(family, kernel="sdpa"):
    module = build(family, kernel)
    inputs, _ = picture_inputs(module, family)
    bare = copy.deepcopy(module)
    model = la.load(module, selftest=False)
    return Subject(model, bare, prompt_of(model, inputs))


@pytest.fixture(scope="module")
def gemma():
    """Layers of a sliding window (of nine) and of full attention, in a prompt of 24 positions."""
    return subject_of("gemma3")


@pytest.mark.parametrize("kernel", ["eager", "sdpa"])
def test_what_is_read_by_hand_is_what_transformers_itself_gives_out(kernel):
    model = build("llava", kernel)
    inputs, _ = picture_inputs(model, "llava")
    with by_hand(model) as seen:
        model(**inputs, use_cache=False)
    model.set_attn_implementation("eager")
    with torch.no_grad():
        out = model(**inputs, use_cache=False, output_attentions=True)
    share = bounds.passes(build("llava", "sdpa"), inputs)
    for i, theirs in enumerate(out.attentions):
        (mine,) = seen.weights[f"model.language_model.layers.{i}.self_attn"]
        bounds.close(mine, theirs, share)
    bounds.close(seen.logits[0], out.logits, share)


def test_an_edit_by_hand_changes_the_output_as_its_definition_says():
    model = build("llava", "sdpa")
    inputs, _ = picture_inputs(model, "llava")
    path = "model.language_model.layers.0.self_attn"
    caught = {}

    def note(module, args, kwargs):
        caught["z"] = args[0].clone()

    handle = model.get_submodule(f"{path}.o_proj").register_forward_pre_hook(note, with_kwargs=True)
    values = {}
    hook = model.get_submodule(f"{path}.v_proj").register_forward_hook(lambda m, a, out: values.update(v=out.clone()))

    def first_key_alone(at, call, weights):
        new = torch.zeros_like(weights)
        new[..., 0] = 1.0
        return new if at == path else weights

    with by_hand(model, first_key_alone):
        model(**inputs, use_cache=False)
    handle.remove()
    hook.remove()
    n_heads = model.config.text_config.num_attention_heads
    repeats = n_heads // model.config.text_config.num_key_value_heads
    first = values["v"][:, :1].unflatten(-1, (-1, 16)).repeat_interleave(repeats, dim=2).flatten(-2)
    # Weights of one and nothing: what attention had mixed is taken away again, but for its roundings.
    share = bounds.sums(caught["z"].shape[1])
    bounds.close(caught["z"], first.expand_as(caught["z"]), share, size=values["v"])


def test_a_batch_of_two_pads_the_shorter_item_on_the_left():
    inputs = {"input_ids": torch.tensor([[1, 5, 7, 9, 8]]), "attention_mask": torch.ones(1, 5, dtype=torch.long),
              "pixel_values": torch.zeros(1, 3, 2, 2)}  # fmt: skip
    both = two_items(inputs, {"input_ids", "attention_mask", "pixel_values"}, decoder=False)
    assert both["input_ids"].tolist() == [[1, 5, 7, 9, 8], [0, 0, 1, 5, 8]]
    assert both["attention_mask"].tolist() == [[1, 1, 1, 1, 1], [0, 0, 1, 1, 1]]
    assert both["pixel_values"].shape == (2, 3, 2, 2) and both["pixel_values"][1].abs().sum() > 0


def test_patches_of_two_pictures_are_laid_end_to_end_or_stacked():
    inputs = {"input_ids": torch.tensor([[1, 5, 7, 9, 8]]), "pixel_values": torch.zeros(6, 4)}
    assert two_items(inputs, set(), decoder=False)["pixel_values"].shape == (12, 4)
    assert two_items(inputs, set(), decoder=False, stacked=True)["pixel_values"].shape == (2, 6, 4)
    strip = {**inputs, "pixel_values": torch.zeros(1, 3, 2, 8), "target_sizes": torch.tensor([[2, 2]])}
    both = two_items(strip, set(), decoder=False)
    assert both["pixel_values"].shape == (1, 3, 2, 16) and both["target_sizes"].shape == (2, 2)


def test_a_picture_of_cross_attention_is_edited_in_those_layers_alone():
    subject = subject_of("mllama")
    assert subject.keys == "image" and not subject.prompt.token_map["image"].any()
    assert [str(one) for one in (*uniform(subject), *steps(subject)) if not one.passed] == []


def test_a_family_that_goes_over_all_tokens_at_every_step_is_compared_row_by_row():
    subject = subject_of("pix2struct")
    batch = two_items(subject.prompt.inputs, {"decoder_input_ids", "decoder_attention_mask"}, decoder=True)
    subject = replace(subject, prompt=prompt_of(subject.model, batch))
    assert [str(one) for one in steps(subject) if not one.passed] == []


def test_several_lanes_are_held_to_what_the_last_layer_gives():
    subject = subject_of("glm5_next")
    subject.model.selftest(subject.prompt)  # which takes away what its lanes leave no point for
    (one,) = stream(subject)
    assert one.passed


def test_a_sound_family_passes_every_comparison():
    subject = subject_of("qwen3_vl")
    made = compare(subject.model, subject.bare, subject.prompt)
    assert [str(one) for one in made.values() if not one.passed] == []
    assert {name.partition(": ")[0] for name in made if ": " in name} == {
        "steps", "static cache", "batch", "batch, steps", "bfloat16"
    }  # fmt: skip
    assert set(plain(made)["patterns"]) == {"worst", "allowed"}


def test_masks_of_flex_attention_are_read():
    """Of a padded batch. The kernel itself takes long to start on a processor: a text decoder, and no tower."""
    subject = subject_of("mistral4")
    batch = two_items(subject.prompt.inputs, {"input_ids", "attention_mask"}, decoder=False)
    subject = replace(subject, prompt=prompt_of(subject.model, batch))
    made = flex(subject, lambda: build("mistral4", "flex_attention"))
    assert [str(one) for one in made if not one.passed] == []


@pytest.mark.parametrize("cache", [None, "static"])
def test_positions_are_counted_rightly_where_a_window_has_let_go_of_some(gemma, cache):
    """Sixteen of the keys at a decoding step are gone; the picture's columns are no longer where they were."""
    assert [str(one) for one in steps(gemma, cache) if not one.passed] == []


def test_a_scale_that_is_a_little_off_is_seen_in_the_patterns_but_not_in_the_identity(gemma, monkeypatch):
    exact = attention.attention_scores

    def off(*arguments, **keywords):
        scores, visible = exact(*arguments, **keywords)
        return scores * 1.001, visible

    monkeypatch.setattr("lostattn.kernels.walker.attention_scores", off)
    monkeypatch.setattr("lostattn.cache.activation_cache.attention_scores", off)
    assert patterns(gemma)[0].failed
    assert identity(gemma)[0].passed
    assert uniform(gemma)[0].failed


def test_keys_counted_from_the_wrong_end_are_seen_at_decoding_steps(gemma, monkeypatch):
    def from_the_first(positions, step, n):
        mask, extends = positions
        more = torch.full((mask.shape[0], max(0, n - mask.shape[1])), extends)
        return torch.cat([mask, more], dim=1)[:, :n] if n > 1 else mask[:, -1:] | extends

    monkeypatch.setattr("lostattn.kernels.attention.mask_at_step", from_the_first)
    failed = {one.name for one in steps(gemma) if one.failed}
    assert {"uniform edit", "uniform edit without a cache"} <= failed and "patterns" not in failed


def test_keys_of_cross_attention_that_are_off_by_one_are_seen(monkeypatch):
    """In UDOP's encoder the words of a text stand beside the picture, so its keys are some of those there are."""
    subject = subject_of("udop")
    assert subject.choices == ("image", "cross")
    assert 0 < int(subject.prompt.token_map.cross.resolve().sum()) < subject.prompt.token_map.cross.image_index.shape[1]
    assert [str(one) for one in (*patterns(subject), *uniform(subject)) if not one.passed] == []
    exact = attention.mask_at_step

    def shifted(positions, step, n):
        found = exact(positions, step, n)
        return found.roll(1, dims=1) if positions[1] is None else found

    monkeypatch.setattr("lostattn.kernels.attention.mask_at_step", shifted)
    failed = {one.name for one in (*patterns(subject), *identity(subject), *uniform(subject)) if one.failed}
    assert failed == {"uniform edit"}


def test_cross_attention_that_is_left_out_of_the_updates_is_seen(monkeypatch):
    from lostattn.cache import ActivationCache

    subject = subject_of("pp_formulanet")
    subject.model.selftest(subject.prompt)
    assert stream(subject)[0].passed
    whole = ActivationCache.decompose_resid

    def without(self):
        parts, labels = whole(self, return_labels=True)
        return parts[[i for i, label in enumerate(labels) if not label.endswith("cross_attn_out")]]

    monkeypatch.setattr(ActivationCache, "decompose_resid", without)
    assert stream(subject)[0].failed


def test_an_update_that_is_left_out_is_seen(gemma, monkeypatch):
    from lostattn.cache import ActivationCache

    whole = ActivationCache.decompose_resid
    monkeypatch.setattr(ActivationCache, "decompose_resid", lambda self: whole(self)[:-1])
    assert stream(gemma)[0].failed


def test_an_edit_of_nothing_is_seen_not_to_move(gemma, monkeypatch):
    untouched = gemma.model.forward(gemma.prompt)
    monkeypatch.setattr(gemma.model, "run_with_hooks", lambda prompt, interventions: untouched)
    edit, moves = uniform(gemma)
    assert edit.failed and moves.failed


def test_a_comparison_that_cannot_be_made_says_why():
    why = Comparison("steps", None, 0.0, absent="no generation")
    assert not why.passed and not why.failed and str(why) == "steps: n/a: no generation"
    assert Comparison("patterns", float("nan"), 1e-5).failed
    broken = Comparison("patterns", None, 1e-5, crash="ValueError: x")
    assert broken.failed and str(broken) == "patterns: FAILED (ValueError: x)"
    subject = subject_of("llava")
    subject.bare.can_generate = lambda: False
    with pytest.raises(Absent, match="does not generate with this class"):
        steps(subject)
