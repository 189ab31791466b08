"""Steering: the vector where it was meant, at the steps it was meant, and nothing elsewhere."""

from __future__ import annotations

import bounds
import pytest
import torch
from tiny import FAMILIES, INPUTS, rounding, wrapped

from lostattn import Steer
from lostattn.errors import InputError
from lostattn.plan.intervention import Intervention


def vector(model, seed: int = 0) -> torch.Tensor:
    return torch.randn(model.cfg.d_model, generator=torch.Generator().manual_seed(seed))


@pytest.mark.parametrize("family", FAMILIES)
@pytest.mark.parametrize("point", ["resid_pre", "resid_mid", "resid_post", "attn_out", "mlp_out"])
def test_the_vector_is_added_at_the_positions_meant(family: str, point: str) -> None:
    model = wrapped(family)
    prompt = model.prompt(inputs=INPUTS[family]())
    _, before = model.run_with_cache(prompt)
    edit = Steer(vector(model), 1, 2.5, "image", point)
    _, after = model.run_with_cache(prompt, interventions=edit)
    added = after[point, 1] - before[point, 1]
    image = prompt.token_map["image"]
    expected = 2.5 * vector(model)
    # A sum and a difference; the middle stream is written where the update is added, with a rounding of its own.
    few, size = bounds.sums(3 if point == "resid_mid" else 2), torch.stack([before[point, 1], after[point, 1]])
    bounds.close(added[image], expected.expand_as(added[image]), few, size=size)
    assert point == "resid_mid" or (added[~image] == 0).all()


@pytest.mark.parametrize("family", FAMILIES)
def test_generation_is_steered_as_a_loop_of_single_passes_is(family: str) -> None:
    model = wrapped(family)
    prompt = model.prompt(inputs=INPUTS[family]())
    edit = Steer(vector(model, 3), [0, 2], 4.0, "all")
    tokens = model.generate(prompt, interventions=edit, max_new_tokens=4, eos_token_id=None).tokens[0].tolist()
    inputs = dict(prompt.inputs)
    for token in tokens:
        model_prompt = model.prompt(inputs=inputs)
        assert int(model.run_with_hooks(model_prompt, interventions=edit)[0, -1].argmax()) == token
        inputs["input_ids"] = torch.cat([inputs["input_ids"], torch.tensor([[token]])], 1)
        inputs["attention_mask"] = torch.ones_like(inputs["input_ids"])
        if "mm_token_type_ids" in inputs:
            inputs["mm_token_type_ids"] = torch.cat([inputs["mm_token_type_ids"], torch.zeros(1, 1).int()], 1)
    untouched = model.generate(prompt, max_new_tokens=4, eos_token_id=None).tokens[0].tolist()
    assert tokens != untouched


def test_steering_is_a_value() -> None:
    model = wrapped("llava")
    edit = Steer(vector(model), 1, -2, "last", "attn_out", "decode")
    assert Intervention.from_json(edit.to_json()) == edit
    assert edit != Steer(vector(model), 1, 2, "last", "attn_out", "decode")
    twice = Steer(vector(model), 1, 1.5) + Steer(vector(model), 1, -1.5)
    prompt = model.prompt(inputs=INPUTS["llava"]())
    bounds.close(model.run_with_hooks(prompt, interventions=twice), model(prompt), rounding("llava"))


def test_bad_vectors_are_refused() -> None:
    model = wrapped("llava")
    prompt = model.prompt(inputs=INPUTS["llava"]())
    with pytest.raises(InputError, match=r"Steer\(vector\) has 7 values; this model's stream has 50"):
        model.run_with_hooks(prompt, interventions=Steer(torch.ones(7), 1))
    with pytest.raises(InputError, match=r"Steer\(vector\) has shape \(2, 50\); expected \[d_model\]"):
        Steer(torch.ones(2, 50), 1)
    with pytest.raises(InputError, match="holds 1 values that are NaN or infinite"):
        Steer(torch.tensor([1.0, float("nan")]), 1)
    with pytest.raises(InputError, match="point is 'z'; expected one of"):
        Steer(torch.ones(50), 1, point="z")
    with pytest.raises(InputError, match="layer 9 is out of range"):
        model.run_with_hooks(prompt, interventions=Steer(torch.ones(50), 9))
