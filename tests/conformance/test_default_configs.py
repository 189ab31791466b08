"""Families at their classes' own default configs, on the meta device; tiny models that differ as the real ones do."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest
from transformers import CONFIG_MAPPING

from lostattn.architecture.resolve import resolve
from lostattn.conformance.default_config import amiss, default_config, on_meta
from lostattn.conformance.differences import differences
from lostattn.conformance.judge import DEFAULTS, judge
from lostattn.conformance.models import small_config
from lostattn.conformance.scan import scan
from lostattn.points.hooked_model import HookedModel

DIFFER = {
    "gemma4": {"head size", "window", "layer type"},
    "mllama": {"cross-attention", "what mixes positions", "children"},
    "llama4": {"rotary embedding"},
    "qwen3_5": {"heads", "key/value heads", "head size", "what mixes positions", "layer type", "children"},
    "cohere2_vision": {"window"},
    "step3p7": {"experts", "FFN width"},
    "glm4v_moe": {"FFN width"},
    "dots3_note": {"heads", "key/value heads"},
    "mistral_large4": {"rotary embedding", "experts", "FFN width"},
}


LARGE = ("dots3_note", "mistral_large4", "step3p7")


@pytest.mark.parametrize("family", [pytest.param(f, marks=pytest.mark.slow) if f in LARGE else f for f in DIFFER])
def test_a_default_config_is_resolved_and_the_tiny_model_differs_in_all_that_it_does(family: str) -> None:
    verdict = judge(family, DEFAULTS)
    assert (verdict.outcome, verdict.points > 100) == ("passed", True), verdict.remarks
    assert set(verdict.differ.split(", ")) >= DIFFER[family]


def test_a_default_config_without_a_decoder_to_look_into_is_refused_by_the_models_own_reason() -> None:
    verdict = judge("git", DEFAULTS)
    assert verdict.outcome == "refused" and "below 'git'" in verdict.remarks


@pytest.mark.slow
def test_the_worker_of_the_scan_resolves_default_configs(tmp_path: Any) -> None:
    (verdict,) = scan(["paligemma"], [DEFAULTS], packages=tmp_path)
    assert (verdict.kernel, verdict.outcome, verdict.differ) == (DEFAULTS, "passed", "")


def test_fields_that_defaults_leave_open_are_named() -> None:
    config, filled = default_config("chameleon")
    assert filled == ["vocabulary_map"] and config.vocabulary_map
    assert default_config("gemma3")[1] == []


def test_numbers_that_the_modules_do_not_bear_out_are_told() -> None:
    model = HookedModel(on_meta("paligemma", small_config("paligemma")), None, "paligemma")
    assert amiss(model) == []
    stack = model.architecture.stack
    block = stack.blocks[1]
    wrong = replace(block, attn=replace(block.attn, n_heads=2 * block.attn.n_heads))
    architecture = replace(model.architecture, stack=replace(stack, blocks=(stack.blocks[0], wrong)))
    model.architecture = architecture
    told = amiss(model)
    assert any(one.startswith("layer 1, attn: the output map takes") for one in told)
    absent = replace(architecture, stack=replace(stack, blocks=(replace(block, attn=None), stack.blocks[1])))
    model.architecture = absent
    assert amiss(model) == ["layer 0 holds 1 calls of the attention interface, 0 are known"]


@pytest.mark.parametrize("kinds", [["full_attention", "sliding_attention"], ["sliding_attention", "full_attention"]])
def test_layer_types_in_another_order_are_told_apart_by_layer(kinds: list[str]) -> None:
    text = {"num_hidden_layers": 4, "layer_types": kinds * 2}
    module = on_meta("gemma3", CONFIG_MAPPING["gemma3"](text_config=text))
    found = differences(module, resolve(module))
    assert found["layer type"] == tuple(kinds * 2)
    assert [bool(window) and window != "None" for window in found["window"]] == [k.startswith("sl") for k in kinds * 2]


def test_single_layers_own_sizes_stay_unlike_those_of_all() -> None:
    text = small_config("gemma4").text_config
    sizes = {text.per_layer_config[i].head_dim for i in range(text.num_hidden_layers)}
    assert len(sizes) == 2
