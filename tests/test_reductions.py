"""Metrics reduced inside the pass against the same metrics of the activations that the pass keeps."""

from __future__ import annotations

import bounds
import pytest
import torch

import lostattn as la
from lostattn.errors import InputError
from lostattn.reductions import between, update_metrics

METRICS = ("delta_s", "delta_d", "column_innovation", "row_innovation", "rid", "mixig")


@pytest.fixture(scope="module")
def batch(tiny_model, shapes_questions):
    """Questions of unequal length, so that some rows are padding."""
    chosen = [shapes_questions.only(kind)[0] for kind in ("existence", "choice", "comparison")]
    prompt = tiny_model.prompt(chosen)
    assert not prompt.token_map["all"].all()
    return tiny_model, prompt


@pytest.mark.parametrize("convention", ["paper", "released"])
@pytest.mark.parametrize("tol", [None, 1e-2])
def test_updates_in_the_pass_equal_those_of_the_cache(batch, convention, tol):
    model, prompt = batch
    reduced = model.measure(prompt, update_metrics(model, prompt, None, convention, tol))
    _, cache = model.run_with_cache(prompt)
    states = [cache["resid_pre", 0]]
    for i in range(model.cfg.n_layers):
        states += [cache["resid_mid", i], cache["resid_post", i]]
    expected = la.metrics.stream_metrics(states, convention, tol, prompt.token_map["all"])
    assert set(reduced) == {f"updates.{i}" for i in range(model.cfg.n_layers)}
    for i in range(model.cfg.n_layers):
        for metric in METRICS:
            got = reduced[f"updates.{i}"][metric]
            bounds.close(got, expected[metric][2 * i : 2 * i + 2], bounds.SPECTRAL)


def test_some_layers_alone_give_the_same_numbers(batch):
    model, prompt = batch
    whole = model.measure(prompt, update_metrics(model, prompt))
    some = model.measure(prompt, update_metrics(model, prompt, layers=[1, 3, 4]))
    assert set(some) == {"updates.1", "updates.3", "updates.4"}
    for name, numbers in some.items():
        bounds.close(numbers["rid"], whole[name]["rid"], bounds.SPECTRAL)
        bounds.close(numbers["mixig"], whole[name]["mixig"], bounds.SPECTRAL)


def test_numbers_show_the_stream_after_interventions(batch):
    model, prompt = batch
    edit = la.Ablate("attn", layers=[2])
    plain = model.measure(prompt, update_metrics(model, prompt))
    edited = model.measure(prompt, update_metrics(model, prompt), edit)
    # Attention that adds nothing changes nothing.
    assert edited["updates.2"]["rid"][0].abs().max() == 0
    assert edited["updates.2"]["mixig"][0].abs().max() == 0
    assert plain["updates.2"]["rid"][0].min() > 0
    bounds.close(edited["updates.1"]["rid"], plain["updates.1"]["rid"], bounds.SPECTRAL)


def test_between_a_point_and_a_state_of_another_pass(batch):
    model, prompt = batch
    edit = la.NoiseUpdate("attn", layers=[1], seed=3)
    _, plain = model.run_with_cache(prompt, "blocks.1.hook_resid_mid")
    _, noisy = model.run_with_cache(prompt, ["blocks.1.hook_resid_mid"], edit)
    other = plain["resid_mid", 1]
    got = model.measure(prompt, [between(prompt, "noise", other, "blocks.1.hook_resid_mid")], edit)["noise"]
    expected = la.metrics.rid(other, noisy["resid_mid", 1], mask=prompt.token_map["all"])
    bounds.close(got["rid"], expected, bounds.SPECTRAL)


def test_bad_settings_are_refused_before_the_pass(batch):
    model, prompt = batch
    with pytest.raises(InputError, match="convention"):
        update_metrics(model, prompt, convention="papr")
    with pytest.raises(InputError, match="tol"):
        update_metrics(model, prompt, tol=-1.0)


def test_without_rotation_in_every_layer_the_model_is_that_with_cos_1_and_sin_0(batch):
    model, prompt = batch

    def unrotated(module, arguments, output):
        cos, sin = output
        return torch.ones_like(cos), torch.zeros_like(sin)

    rotary = model.hf.get_submodule(model.architecture.decoder).rotary_emb
    handle = rotary.register_forward_hook(unrotated)
    try:
        with torch.no_grad():
            expected = model.hf(**prompt.inputs, use_cache=False).logits
    finally:
        handle.remove()
    logits, _ = model.run_with_cache(prompt, "hook_unembed", la.RemoveRotary())
    real = prompt.token_map["all"]
    share = bounds.passes(model.hf, prompt.inputs)
    bounds.close(logits[real], expected[real], share)
    assert bounds.moved(logits[real], model.forward(prompt)[real], share, times=100)


def test_without_rotation_in_one_layer_only_that_layer_changes(batch):
    model, prompt = batch
    _, plain = model.run_with_cache(prompt)
    _, cache = model.run_with_cache(prompt, interventions=la.RemoveRotary(layers=[2]))
    assert torch.equal(cache["resid_pre", 2], plain["resid_pre", 2])
    assert torch.equal(cache["rot_q", 2], plain["q", 2])
    assert torch.equal(cache["rot_k", 2], plain["k", 2])
    assert not torch.equal(cache["resid_mid", 2], plain["resid_mid", 2])
    assert la.Intervention.from_json(la.RemoveRotary(layers=[2]).to_json()) == la.RemoveRotary(layers=(2,))
