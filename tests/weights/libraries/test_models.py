"""Quantised and adapted models: what multiplies by weights is what the library's own dequantised or merged model gives.

The references are those of ``weight_reference``; ``python tests/weights`` writes how far off each of them is.
"""

from __future__ import annotations

import dataclasses

import brought
import pytest
import torch
from weight_reference import ADAPTERS, LAYER, gap, lora, noise_pairs, pairs, plain, question, wrapped

import lostattn as la
from lostattn.errors import InputError, UnsupportedModel

CLOSE = 1e-4  # relative, in float32
NAMES = ("tiny-llava", "tiny-qwen2_5-vl")


def same_sizes(model, name):
    return dataclasses.replace(model.cfg, model_name=name) == plain(name).cfg


def near(found, expected, of=""):
    assert found.shape == expected.shape
    off = gap(found, expected)
    assert off < CLOSE, f"{of}: off by {off:.2g} of its size"


def check(model, weights):
    for of, found, expected in pairs(model, weights):
        near(found, expected, of)


def check_noise(model, other, rounds=False):
    for of, found, expected in noise_pairs(model, other, rounds):
        near(found, expected, of)


def cases(every, of_both):
    """All of one model, and those that differ with grouped keys and biases of the other."""
    return [
        pytest.param(name, one, id=f"{one}, {name}") for name in NAMES for one in (every, of_both)[name != NAMES[0]]
    ]


@pytest.mark.parametrize("name, how", cases(brought.QUANTISED, ["8 bit", "nf4, twice", "torchao int8", "quanto int4"]))
def test_a_quantised_model(name, how):
    model = la.load(name, quantization_config=brought.QUANTISED[how]())
    assert model.hook_names == plain(name).hook_names and same_sizes(model, name)
    weights = brought.written_out(brought.quantised(name, how))
    check(model, weights)
    check_noise(model, wrapped(name, weights, proved=False), how in brought.ROUNDS)


@pytest.mark.parametrize("name, kind", cases(ADAPTERS, ["q and v", "all", "DoRA"]))
def test_an_adapted_model(name, kind):
    adapted, again = (brought.adapted(brought.plain(name), ADAPTERS[kind]()) for _ in range(2))
    model, merged = wrapped(name, adapted), again.merge_and_unload()
    assert model.hook_names == plain(name).hook_names and same_sizes(model, name)
    check(model, merged)
    other = wrapped(name, merged, proved=False)
    check_noise(model, other)
    ablated = la.Ablate("head", layers=LAYER, heads=2)
    near(*(one.run_with_hooks(one.prompt(question()), interventions=ablated) for one in (model, other)))
    full = [one.run_with_cache(one.prompt(question()))[1].get_full_resid_decomposition() for one in (model, other)]
    near(*full)
    near(full[0].sum(0), model.run_with_cache(model.prompt(question()))[1]["resid_post", -1])


@pytest.mark.parametrize("how", ["8 bit", "nf4, twice", "torchao int8", "quanto int4"])
def test_an_adapter_on_codes_loses_no_point(how):
    """Also where the layer rounds what it is given, as 8 bit does: that is no want of a linear map."""
    adapted = brought.adapted(brought.quantised("tiny-llava", how), lora("o_proj|down_proj"))
    layer = adapted.get_base_model().model.language_model.layers[LAYER].self_attn.o_proj
    weight = brought.dequantised(layer.base_layer) + layer.get_delta_weight("default")
    model = wrapped("tiny-llava", adapted)
    assert model.hook_names == plain("tiny-llava").hook_names and model.selftest().lacks == ()
    _, cache = model.run_with_cache(model.prompt(question()))
    near(cache["result", LAYER].sum(-2), cache["z", LAYER].flatten(-2) @ weight.T.detach())


def test_an_attention_of_its_own():
    """A whole attention kept as a copy: the points are those of the copy that acts."""
    config = lora(target_modules=["lm_head"], modules_to_save=["self_attn"])
    adapted, again = (brought.adapted(brought.plain("tiny-llava"), config) for _ in range(2))
    model = wrapped("tiny-llava", adapted)
    assert model.hook_names == plain("tiny-llava").hook_names
    check(model, again.merge_and_unload())


def test_adapters_switched_after_a_pass():
    module = brought.plain("tiny-llava")
    module.add_adapter(ADAPTERS["o"]())
    brought.written(module)
    model = wrapped("tiny-llava", module)
    _, cache = model.run_with_cache(model.prompt(question()))
    on = cache["result", 1]
    model.hf.disable_adapters()
    for asked in (lambda: cache["result", 1], lambda: cache.W_U, lambda: cache.to(dtype=torch.float64)["result", 1]):
        with pytest.raises(InputError, match="adapters of this model were switched, merged or scaled after this pass"):
            asked()
    check(model, brought.plain("tiny-llava"))
    model.hf.enable_adapters()
    assert torch.equal(cache["result", 1], on)


@pytest.mark.parametrize("how", ["8 bit", "nf4, twice", "torchao int8", "quanto int4"])
def test_a_cache_is_read_back_by_the_model_that_made_it(how, tmp_path):
    model = la.load("tiny-llava", quantization_config=brought.QUANTISED[how]())
    _, cache = model.run_with_cache(model.prompt(question()))
    file = cache.save(tmp_path / "cache")
    assert torch.equal(la.ActivationCache.load(file, model)["result", 1], cache["result", 1])
    with pytest.raises(InputError, match="was made with the weights of"):
        la.ActivationCache.load(file, plain("tiny-llava"))


def test_a_head_in_eight_bits():
    config = brought.BitsAndBytesConfig(load_in_8bit=True, llm_int8_skip_modules=["model.vision_tower"])
    model = la.load("tiny-llava", quantization_config=config)
    assert same_sizes(model, "tiny-llava")
    _, cache = model.run_with_cache(model.prompt(question()))
    near(cache.W_U, brought.dequantised(model.hf.lm_head))


BRIDGED = {
    "8 bit": "in codes of few bits", "4 bit": "in codes of few bits", "torchao int8": "in codes of few bits",
    "quanto int8": "in codes of few bits", "q and v": "a layer with an adapter", "DoRA": "a layer with an adapter",
    "head": "a layer with an adapter", "norms": "a layer with an adapter",
    "copies of FFN and output map": "a layer with an adapter",
}  # fmt: skip


@pytest.mark.parametrize("how", BRIDGED)
def test_a_bridge_would_copy_what_is_stored(how):
    if how in brought.QUANTISED:
        model = la.load("tiny-llava", quantization_config=brought.QUANTISED[how](), selftest=False)
    else:
        model = wrapped("tiny-llava", brought.adapted(brought.plain("tiny-llava"), ADAPTERS[how]()), proved=False)
    with pytest.raises(UnsupportedModel, match=f"takes the weights of .* as they are stored, .*{BRIDGED[how]}"):
        model.to_transformer_bridge()


def test_a_merged_model_has_a_bridge():
    merged = brought.adapted(brought.plain("tiny-llava"), ADAPTERS["o"]()).merge_and_unload()
    model = wrapped("tiny-llava", merged, proved=False)
    bridge = model.to_transformer_bridge()
    o = model.hf.model.language_model.layers[LAYER].self_attn.o_proj.weight
    near(bridge.blocks[LAYER].attn.W_O.flatten(0, 1).T.detach(), o.detach())
