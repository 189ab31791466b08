"""Gradients at hook points against central differences, in double precision."""

from __future__ import annotations

import functools

import pytest
import torch
from tiny import FAMILIES, INPUTS, MAKERS
from torch.testing import assert_close

from lostattn import Ablate, load
from lostattn.errors import InputError
from lostattn.gradients import gradients

POINTS = (
    "blocks.0.hook_resid_pre",
    "blocks.1.hook_resid_mid",
    "blocks.1.hook_mlp_out",
    "blocks.1.attn.hook_q",
    "blocks.1.attn.hook_v",
    "blocks.1.attn.hook_z",
    "blocks.1.attn.hook_rot_k",
    "blocks.1.attn.hook_pattern",
    "blocks.2.attn.hook_attn_scores",
    "vision_projector.hook_out",
)


STEP = 5e-3  # the models' own norms work in single precision, which drowns a smaller one


@functools.cache
def double(family: str):
    return load(MAKERS[family](dtype=torch.float64), selftest=False)


def run(family: str):
    model = double(family)
    return model, model.prompt(inputs=INPUTS[family]())


def metric(logits: torch.Tensor) -> torch.Tensor:
    return logits[:, -1, 17] - 0.5 * logits[:, -2, 40] ** 2


@pytest.mark.parametrize("family", FAMILIES)
def test_gradients_are_slopes(family: str) -> None:
    model, prompt = run(family)
    found = gradients(model, prompt, metric, POINTS)
    assert found.value == pytest.approx(float(metric(model(prompt))), rel=1e-9)
    generator = torch.Generator().manual_seed(0)
    for name in POINTS:
        value, slope = found.cache[name], found[name]
        assert slope.shape == value.shape and slope.abs().max() > 1e-6, name
        random = torch.randn(value.shape, generator=generator, dtype=torch.float64)
        way = slope / slope.norm() + random / random.norm()
        ends = []
        for step in (STEP, -STEP):
            hook = [(name, lambda x, hook, move=step * way: x + move)]
            ends.append(float(metric(model.run_with_hooks(prompt, hook))))
        expected = (ends[0] - ends[1]) / (2 * STEP)
        assert float((slope * way).sum()) == pytest.approx(expected, rel=5e-3, abs=1e-4), name


@pytest.mark.parametrize("family", FAMILIES)
def test_gradients_under_an_intervention_are_those_of_the_edited_pass(family: str) -> None:
    model, prompt = run(family)
    edit = Ablate("mlp", layers=[1])
    found = gradients(model, prompt, metric, "blocks.1.hook_mlp_out", edit)
    assert (found.cache["mlp_out", 1] == 0).all()
    assert found.value == pytest.approx(float(metric(model.run_with_hooks(prompt, interventions=edit))), rel=1e-9)
    slope = found["mlp_out", 1]
    way = slope / slope.norm()
    ends = []
    for step in (STEP, -STEP):
        hook = [("blocks.1.hook_mlp_out", lambda x, hook, move=step * way: x + move)]
        ends.append(float(metric(model.run_with_hooks(prompt, hook, edit))))
    assert float(slope.norm()) == pytest.approx((ends[0] - ends[1]) / (2 * STEP), rel=5e-3)


def test_nothing_is_left_on_the_weights() -> None:
    model, prompt = run("llava")
    found = gradients(model, prompt, metric, "blocks.1.hook_resid_pre")
    assert all(weight.grad is None for weight in model.hf.parameters())
    assert not found.logits.requires_grad and not found["resid_pre", 1].requires_grad
    assert_close(found.logits, model(prompt), rtol=0, atol=0)


def test_what_has_no_gradient_is_refused() -> None:
    model, prompt = run("llava")
    with pytest.raises(InputError, match="does not depend on the logits by anything that has a gradient"):
        gradients(model, prompt, lambda logits: logits.argmax(-1).double(), "blocks.1.hook_resid_pre")
    with pytest.raises(InputError, match="can be read but not edited"):
        gradients(model, prompt, metric, "blocks.1.ln1.hook_scale")
    with pytest.raises(InputError, match="no gradient of 'blocks.2.attn.hook_z' was asked for"):
        gradients(model, prompt, metric, "blocks.1.attn.hook_z")["z", 2]
