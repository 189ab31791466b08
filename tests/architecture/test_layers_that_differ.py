"""Layers that differ from each other: heads, key/value heads and head sizes belong to a layer, not to the model."""

from __future__ import annotations

import copy
from typing import Any

import pytest
import torch
import transformers
from transformers import CONFIG_MAPPING

import lostattn as la
from lostattn.architecture.config_fields import of_layer, one_for_all
from lostattn.architecture.resolve import resolve
from lostattn.conformance.by_hand import by_hand
from lostattn.conformance.models import families, fill
from lostattn.errors import InputError
from lostattn.plan.setting import Setting
from lostattn.points.sites import Sites
from lostattn.view.reading import heads_of_all

KINDS = ["sliding_attention", "full_attention", "sliding_attention", "full_attention"]
SMALL: dict[str, Any] = {
    "vocab_size": 90,
    "vocab_size_per_layer_input": 90,
    "hidden_size": 48,
    "intermediate_size": 56,
    "num_hidden_layers": 4,
    "num_attention_heads": 6,
    "hidden_size_per_layer_input": 20,
    "layer_types": KINDS,
    "sliding_window": 5,
    "pad_token_id": 0,
    "num_kv_shared_layers": 2,  # the last two take the keys of the first two
    # By layer: the size of a head, and how many heads of keys there are.
    "per_layer_config": {
        0: {"head_dim": 8, "num_key_value_heads": 3},
        1: {"head_dim": 16, "num_key_value_heads": 1},
        2: {"head_dim": 8, "num_key_value_heads": 3},
        3: {"head_dim": 16, "num_key_value_heads": 1},
    },
}
SIZES = [(6, 3, 8), (6, 1, 16), (6, 3, 8), (6, 1, 16)]


def gemma4(seed: int = 0, **changes: Any) -> Any:
    """A Gemma 4 whose layers differ in head size, in key/value heads, in window, and in whose keys they take."""
    config = CONFIG_MAPPING["gemma4"](text_config={**SMALL, **changes})
    return weighted(transformers.Gemma4ForConditionalGeneration, config, seed)


def weighted(kind: Any, config: Any, seed: int) -> Any:
    model = kind._from_config(config, attn_implementation="eager").eval()
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for parameter in model.parameters():
            fill(parameter, generator)
    return model


@pytest.fixture(scope="module")
def bare() -> Any:
    return gemma4()


@pytest.fixture(scope="module")
def model(bare: Any) -> Any:
    return la.load(copy.deepcopy(bare), selftest=False)


@pytest.fixture(scope="module")
def prompt(model: Any) -> Any:
    ids = torch.randint(3, 90, (2, 11), generator=torch.Generator().manual_seed(1))
    return model.prompt(inputs={"input_ids": ids, "attention_mask": torch.ones_like(ids)})


def near(value: torch.Tensor, right: torch.Tensor, terms: int = 64) -> None:
    """Equal but for the rounding of sums of so many terms, relative to the largest."""
    allowed = terms * torch.finfo(torch.float32).eps * float(right.abs().max())
    assert float((value - right).abs().max()) <= allowed


def test_each_layer_says_its_own_heads(model: Any) -> None:
    cfg = model.cfg
    found = list(zip(cfg.heads_by_layer, cfg.key_value_heads_by_layer, cfg.d_head_by_layer, strict=True))
    assert found == SIZES
    assert (cfg.n_heads, cfg.n_key_value_heads, cfg.d_head) == (6, 3, 16)


def test_a_cache_has_each_layers_own_shapes(model: Any, prompt: Any) -> None:
    _, cache = model.run_with_cache(prompt)
    for i, (heads, kv_heads, size) in enumerate(SIZES):
        assert cache["pattern", i].shape == (2, heads, 11, 11)
        assert cache["z", i].shape == (2, 11, heads, size)
        assert cache["rot_k", i].shape == (2, 11, kv_heads, size)
        assert (f"blocks.{i}.attn.hook_k" in model.hook_names) == (i < 2)  # the others take over the keys


def test_the_self_test_holds(model: Any, prompt: Any) -> None:
    assert model.selftest(prompt).passed


def test_patterns_are_the_bare_models(model: Any, bare: Any, prompt: Any) -> None:
    with by_hand(bare) as seen:
        bare(**prompt.inputs, use_cache=False)
    _, cache = model.run_with_cache(prompt, lambda name: name.endswith("hook_pattern"))
    for i, block in enumerate(model.architecture.stack.blocks):
        near(cache["pattern", i], seen.weights[block.attn.path][0])


@pytest.mark.parametrize("layer", range(4))
def test_heads_are_ablated_as_by_hand(model: Any, bare: Any, prompt: Any, layer: int) -> None:
    size = SIZES[layer][2]

    def without(module: Any, given: Any) -> Any:
        z = given[0].clone()
        z[..., 2 * size : 3 * size] = 0
        z[..., 5 * size : 6 * size] = 0
        return (z,)

    path = model.architecture.stack.blocks[layer].attn.o
    handle = bare.get_submodule(path).register_forward_pre_hook(without)
    try:
        with torch.no_grad():
            right = bare(**prompt.inputs, use_cache=False).logits
    finally:
        handle.remove()
    edit = la.Ablate("head", layers=[layer], heads=[2, -1])
    logits, _ = model.run_with_cache(prompt, "hook_embed", interventions=edit)
    near(logits, right, 1024)


def test_uniform_weights_in_every_layer_are_as_by_hand(model: Any, bare: Any, prompt: Any) -> None:
    def uniform(path: str, call: int, weights: torch.Tensor) -> torch.Tensor:
        new = weights.clone()
        last = weights[:, :, -1]
        seen = (last > 0).float()
        new[:, :, -1] = last.sum(-1, keepdim=True) * seen / seen.sum(-1, keepdim=True)
        return new

    with by_hand(bare, uniform, model.architecture.unembed) as seen:
        bare(**prompt.inputs, use_cache=False)
    edit = la.ReplaceAttention(la.Uniform(), keys="all", queries="last")
    logits, _ = model.run_with_cache(prompt, "hook_embed", interventions=edit)
    near(logits, seen.logits[0], 1024)


def test_a_reference_has_the_shape_of_its_layer(model: Any, prompt: Any) -> None:
    rows = {i: torch.randn(3, 6, SIZES[i][2], generator=torch.Generator().manual_seed(i)) for i in (0, 1)}
    for i, reference in rows.items():
        edit = la.Ablate("head", layers=[i], to="mean", reference=reference)
        _, cache = model.run_with_cache(prompt, f"blocks.{i}.attn.hook_z", interventions=edit)
        near(cache["z", i], reference.mean(0).expand(2, 11, -1, -1))
    with pytest.raises(InputError, match=r"blocks\.1\.attn\.hook_z.*\[row, 6, 16\]"):
        model.run_with_cache(prompt, interventions=la.Ablate("head", layers=[0, 1], to="mean", reference=rows[0]))


def test_a_head_that_only_other_layers_have_is_refused_with_the_layer_named(prompt: Any) -> None:
    text = {"layer_types": ["full_attention", "sliding_attention"] * 2, "num_hidden_layers": 4}
    config = CONFIG_MAPPING["step3p7"](text_config={**text, "num_sliding_attention_heads": 96})
    with torch.device("meta"):
        module = transformers.Step3p7ForConditionalGeneration(config)
    sites = Sites(resolve(module))
    assert sites.architecture.stack.heads_by_layer == (64, 96, 64, 96)
    setting = Setting(sites, module, prompt)
    assert setting.heads((70, -1), "blocks.1.attn.hook_z") == (70, 95)
    assert setting.heads((-1,), "blocks.2.attn.hook_z") == (63,)
    with pytest.raises(InputError, match=r"head 70 .* layer 2 \(of layers with 64 or 96 heads\) has 64"):
        setting.heads((70,), "blocks.2.attn.hook_z")


def test_layers_that_differ_make_no_one_tensor(model: Any, prompt: Any) -> None:
    _, cache = model.run_with_cache(prompt)
    assert cache.stack_activation("pattern").shape == (4, 2, 6, 11, 11)
    with pytest.raises(InputError, match=r"\[2, 11, 6, 8\] in layers \[0, 2\]; .* in layers \[1, 3\]"):
        cache.stack_activation("z")
    with pytest.raises(InputError, match="layer 3 has 6"):
        heads_of_all(None, {1: 4, 3: 6})
    with pytest.raises(InputError, match="head 5; layer 1 has heads 0 to 3"):
        heads_of_all([5], {1: 4, 3: 6})
    assert heads_of_all(3, {1: 4, 3: 6}) == [3]


def test_fields_of_a_layer_are_read_where_they_stand() -> None:
    text = CONFIG_MAPPING["gemma4"]().text_config
    full = text.layer_types.index("full_attention")
    assert one_for_all(text, "head_dim") is None
    assert (of_layer(text, full, "head_dim"), of_layer(text, 0, "head_dim")) == (512, 256)

    class Listed:
        num_key_value_heads = (4, 2, 1)

    assert [of_layer(Listed(), i, "num_key_value_heads") for i in range(3)] == [4, 2, 1]


@pytest.mark.parametrize("family", ["gemma4", "dots3_note"])
def test_default_configs_whose_layers_differ_are_resolved(family: str) -> None:
    with torch.device("meta"):
        module = getattr(transformers, families()[family])(CONFIG_MAPPING[family]())
    stack = resolve(module).stack
    assert len(set(zip(stack.heads_by_layer, stack.key_value_heads_by_layer, stack.d_head_by_layer, strict=True))) > 1
    for block in stack.blocks:
        output = module.get_submodule(block.attn.o)
        assert output.in_features == block.attn.n_heads * block.attn.d_head
