"""Encoder-decoders whose decoder is padded on the right: what reads the last position reads the last real one."""

from __future__ import annotations

import bounds
import pytest
import torch

import lostattn as la
from lostattn.conformance.inputs import moved_picture, picture_inputs, prompt_of
from lostattn.conformance.models import build
from lostattn.errors import InputError
from lostattn.gradients import gradients

FAMILIES = ("florence2", "udop", pytest.param("pix2struct", marks=pytest.mark.slow))
LEFT_OUT = 2  # columns of the second item
RIGHT, WRONG = torch.tensor([7, 11]), torch.tensor([13, 5])
POINT = "blocks.0.hook_resid_pre"


def metric(logits):
    return la.answers.logit_difference(logits, RIGHT[: len(logits)], WRONG[: len(logits)])


@pytest.fixture(scope="module", params=FAMILIES)
def padded(request):
    """A model, two items of unequal lengths in one batch padded on the right, and each alone; in double precision."""
    module = build(request.param, "sdpa").double()
    inputs, _ = picture_inputs(build(request.param, "sdpa"), request.param)
    model = la.load(module, selftest=False)
    first = {name: value.double() if value.is_floating_point() else value for name, value in inputs.items()}
    prompt = prompt_of(model, first)
    other = moved_picture(dict(prompt.inputs))
    both = {name: torch.cat([prompt.inputs[name], other[name]]) for name in prompt.inputs}
    mask = torch.ones_like(both["decoder_input_ids"])
    mask[1, -LEFT_OUT:] = 0
    both["decoder_input_ids"] = both["decoder_input_ids"].masked_fill(mask == 0, 0)
    short = {name: value[:, :-LEFT_OUT] if name.startswith("decoder_") else value for name, value in other.items()}
    return model, model.prompt(inputs={**both, "decoder_attention_mask": mask}), [prompt, model.prompt(inputs=short)]


def near(model, found, expected):
    bounds.close(torch.as_tensor(found), torch.as_tensor(expected), model.cfg.n_layers * bounds.sums(256), size=10.0)


@pytest.mark.parametrize("edit", [None, la.Ablate("mlp", positions="last", layers=[0])], ids=["untouched", "edited"])
def test_answers_are_read_where_each_item_ends(padded, edit) -> None:
    model, both, alone = padded
    logits = model.run_with_hooks(both, interventions=edit)
    own = [model.run_with_hooks(one, interventions=edit) for one in alone]
    expected = [
        float(la.answers.logit_difference(one, RIGHT[i : i + 1], WRONG[i : i + 1])) for i, one in enumerate(own)
    ]
    near(model, metric(logits).tolist(), expected)
    read_as_padding = metric(logits.as_subclass(torch.Tensor))[1]
    assert (read_as_padding - expected[1]).abs() > 1e-4
    shares = [float(la.answers.answer_probability(one, RIGHT[i : i + 1])) for i, one in enumerate(own)]
    near(model, la.answers.answer_probability(logits, RIGHT).tolist(), shares)
    near(model, model.measure(both, {"own": metric}, interventions=edit).own.tolist(), expected)


def test_gradients_and_sweeps_follow(padded) -> None:
    model, both, alone = padded
    towards = lambda logits: logits[:, -1, 7] - logits[:, -1, 13]  # noqa: E731
    found = gradients(model, both, towards, [POINT])
    for i, one in enumerate(alone):
        expected = gradients(model, one, towards, [POINT])["resid_pre", 0][0]
        own = found["resid_pre", 0][i][both.token_map.real[i]]
        assert expected.abs().max() > 0
        near(model, own / expected.abs().max(), expected / expected.abs().max())
    for sweep in (la.patching.sweep, la.patching.attribute):
        table = sweep(model, both, both, towards, ["resid_post"], [0], ["last"])
        near(model, table.clean.tolist(), [float(towards(model(one))) for one in alone])
        assert (table.effect == 0).all()


def test_rows_that_are_padded_without_a_mask_are_refused(padded) -> None:
    model, both, alone = padded
    unsaid = {name: value for name, value in both.inputs.items() if name != "decoder_attention_mask"}
    with pytest.raises(InputError, match=r"decoder_input_ids of item 1 end with the token of padding \(0\)"):
        model.prompt(inputs=unsaid)
    left = {**unsaid, "decoder_input_ids": unsaid["decoder_input_ids"].roll(LEFT_OUT, 1)}
    with pytest.raises(InputError, match="decoder_input_ids of item 1 begin with the token of padding"):
        model.prompt(inputs=left)
    start = {**alone[0].inputs, "decoder_input_ids": torch.zeros(1, 1, dtype=torch.long)}
    assert model.prompt(inputs=start).n_pos == 1  # T5 begins with that token
