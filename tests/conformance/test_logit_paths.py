"""The model's logits from the parts of the stream, in families that scale or cap them, or norm the stream otherwise."""

from __future__ import annotations

import functools

import bounds
import pytest
import torch

import lostattn as la
from lostattn.conformance.inputs import picture_inputs, prompt_of
from lostattn.conformance.models import build
from lostattn.errors import InputError

pytestmark = pytest.mark.slow

PATHS = {  # what the unembedding is given is multiplied by, what it gives is multiplied by, and capped at
    "granite_docling": (1.0, 0.25, None),
    "mistral_large4": (1.0, 1.0, 30.0),
    "muse_glimmer": (1.0, 26**-0.5, 20.0),
    "udop": (0.125, 1.0, None),
    "cohere_compass": (1.0, 0.0625, None),  # and its final norm takes the mean away
    "kosmos-2": (1.0, 1.0, None),  # a LayerNorm with a bias
    "florence2": (1.0, 1.0, None),  # no final norm
}


@functools.cache
def run(family: str):
    """``(model, the bare model's logits, cache)``."""
    module, bare = build(family), build(family)
    if family == "cohere_compass":
        module.logit_scale = bare.logit_scale = 0.0625
    model = la.load(module, selftest=False)
    prompt = prompt_of(model, picture_inputs(bare, family)[0])
    model.selftest(prompt)
    with torch.no_grad():
        logits = bare(**model._inputs(prompt), use_cache=False).logits
    return model, logits, model.run_with_cache(prompt)[1]


@pytest.mark.parametrize("family", PATHS)
def test_the_sum_of_the_parts_is_read_as_the_model_reads_it(family: str) -> None:
    model, logits, cache = run(family)
    path = model.sites.logit_path
    assert (path.before, path.scale) == pytest.approx(PATHS[family][:2], rel=bounds.unit())
    assert path.cap == PATHS[family][2]
    stack = cache.decompose_resid()
    bounds.close(cache.to_logits(stack.sum(0)), logits, bounds.depth(model.cfg))
    bounds.close(cache.logit_lens().logits[-1], logits[:, -1:], bounds.depth(model.cfg))


@pytest.mark.parametrize("family", PATHS)
def test_attributions_add_up_to_the_logit_before_its_cap(family: str) -> None:
    model, logits, cache = run(family)
    norm = model.architecture.final_norm and model.hf.get_submodule(model.architecture.final_norm)
    bias = getattr(norm, "bias", None)
    path = model.sites.logit_path
    constant = 0.0 if bias is None else float(cache.W_U[7].detach() @ bias.detach()) * path.before * path.scale
    wanted = logits[..., 7] if path.cap is None else path.cap * torch.atanh(logits[..., 7] / path.cap)
    found = cache.logit_attrs(cache.decompose_resid(), 7)
    bounds.close(found.sum(0) + constant, wanted, bounds.depth(model.cfg), size=found.abs().sum(0))
    heads = cache.logit_attrs(cache.stack_head_results(incl_remainder=True), 7)
    bounds.close(heads.sum(0) + constant, wanted, bounds.depth(model.cfg), size=heads.abs().sum(0))


def test_logits_that_are_read_off_something_else_are_refused() -> None:
    _, _, cache = run("vision-encoder-decoder")
    with pytest.raises(InputError, match="the logits of this model are not read off its normed final stream: the unem"):
        cache.to_logits(cache.final_stream)
    with pytest.raises(InputError, match="not read off"):
        cache.logit_attrs(cache.decompose_resid(), 3)
    _, _, lanes = run("glm5_next")
    with pytest.raises(InputError, match="the stream of this model holds several lanes a position"):
        lanes.to_logits(lanes.final_stream)
