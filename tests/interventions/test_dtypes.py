"""Every intervention on random models in half and double precision: it acts, stays finite, and keeps the dtype."""

from __future__ import annotations

import bounds
import pytest
import tiny
import torch

import lostattn as la
from lostattn.errors import InputError

pytestmark = pytest.mark.slow

EDITS = [
    la.ReplaceAttention(la.Gaussian(seed=1)),
    la.ReplaceAttention(la.Gaussian(seed=1), space="scores", queries="all"),
    la.ReplaceAttention(la.Dirichlet(seed=1)),
    la.ReplaceAttention(la.Uniform(), keys="all", mix=0.5),
    la.ReplaceAttention(la.VisionPrior()),
    la.ReplaceAttention(la.Fixed(torch.arange(1.0, 6.0)), keys=slice(3, 8)),
    la.Released(seed=1),
    la.KnockOut("last", "image"),
    la.ScaleAttention(3.0),
    la.Ablate("mlp", layers=1),
    la.Ablate("head", layers=1, heads=0, to="mean"),
    la.Ablate("resid", layers=1, to="resample", positions="image"),
    la.NoiseUpdate("attn", layers=1),
    la.NoiseWeights("qkv", layers=1),
    la.NoiseWeights("mlp", layers=1),
    la.RemoveRotary(),
]


@pytest.fixture(scope="module", params=["llava", "qwen"])
def family(request):
    return request.param


@pytest.fixture(scope="module", params=[torch.bfloat16, torch.float64], ids=str)
def model(request, family):
    return la.load(tiny.MAKERS[family](dtype=request.param), selftest=False)


@pytest.fixture(scope="module")
def prompt(model, family):
    return model.prompt(inputs=tiny.batched(family, tiny.unequal(family)))


@pytest.mark.parametrize("edit", EDITS, ids=lambda edit: repr(edit)[:60])
def test_in_a_padded_batch(model, prompt, edit):
    untouched, edited = model(prompt)[:, -1], model.run_with_hooks(prompt, interventions=edit)[:, -1]
    assert edited.dtype == untouched.dtype == model.hf.dtype
    assert torch.isfinite(edited).all()
    # The same operations in the same shapes beside the edit: any difference is its own; this is one of half precision.
    assert ((edited - untouched).abs().amax(-1) > bounds.unit(torch.bfloat16) * untouched.abs().amax(-1)).all()


def test_every_step_of_a_generation(model, prompt):
    everything = la.Composition(tuple(EDITS))
    tokens = model.generate(prompt, interventions=everything, max_new_tokens=3, eos_token_id=-1).tokens
    assert tokens.shape == (3, 3)


def test_sources_that_need_a_picture_or_a_tower_say_so(model, prompt):
    with pytest.raises(InputError, match="came without its pictures; give them with images="):
        model.run_with_hooks(prompt, interventions=la.ReplaceAttention(la.Complexity()))
