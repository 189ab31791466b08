"""The linear maps of adapted layers are the weights that PEFT itself merges."""

from __future__ import annotations

import bounds
import brought
import peft
import pytest
import torch

from lostattn.errors import InputError, UnsupportedModel
from lostattn.weights import linear_map
from lostattn.weights.adapters import without_wrapper

MAPS = r".*language_model.*\.(q_proj|v_proj|o_proj|down_proj)"
SQUARE = r".*language_model.*\.(q_proj|o_proj)"
LAYER = "model.language_model.layers.1."
PATHS = (LAYER + "self_attn.q_proj", LAYER + "self_attn.o_proj", LAYER + "mlp.down_proj", "lm_head")
KINDS = {
    "LoRA": lambda: peft.LoraConfig(r=3, lora_alpha=5, target_modules=MAPS, lora_dropout=0.3),
    "rsLoRA": lambda: peft.LoraConfig(r=3, target_modules=MAPS, use_rslora=True),
    "DoRA": lambda: peft.LoraConfig(r=3, target_modules=MAPS, use_dora=True),
    "LoRA of the head": lambda: peft.LoraConfig(r=3, target_modules=["lm_head"]),
    "LoRA of every linear layer": lambda: peft.LoraConfig(r=3, target_modules="all-linear"),
    "LoRA and a head of its own": lambda: peft.LoraConfig(r=3, target_modules=MAPS, modules_to_save=["lm_head"]),
    "AdaLoRA": lambda: peft.AdaLoraConfig(init_r=3, target_modules=MAPS, total_step=10),
    "IA3": lambda: peft.IA3Config(target_modules=MAPS, feedforward_modules=r".*down_proj"),
    "LoHa": lambda: peft.LoHaConfig(r=3, target_modules=MAPS),
    "LoKr": lambda: peft.LoKrConfig(r=3, target_modules=MAPS),
    "VeRA": lambda: peft.VeraConfig(r=3, target_modules=SQUARE),
    "OFT": lambda: peft.OFTConfig(r=0, oft_block_size=4, target_modules=MAPS),
    "HRA": lambda: peft.HRAConfig(r=4, target_modules=MAPS),
    "MiSS": lambda: peft.MissConfig(r=4, target_modules=MAPS),
    "VB-LoRA": lambda: peft.VBLoRAConfig(r=4, num_vectors=16, vector_length=16, topk=2, target_modules=MAPS),
    "C3A": lambda: peft.C3AConfig(block_size=16, target_modules=MAPS),
    "RoAd": lambda: peft.RoadConfig(target_modules=MAPS),
    "FourierFT": lambda: peft.FourierFTConfig(n_frequency=50, target_modules=MAPS),
    "GLoRA": lambda: peft.GloraConfig(target_modules=MAPS),
}


# Of the whole weight: adapters are products over ranks, blocks, and at most the width of the stream.
ROUNDED = bounds.sums(128)


def maps(model):
    return {path: linear_map(model, path) for path in PATHS}


def weights(model):
    return {path: model.get_submodule(path).weight.detach().clone() for path in PATHS}


def apart(found, expected):
    return max(float((found[path].weight - expected[path]).norm() / expected[path].norm()) for path in PATHS)


@pytest.mark.parametrize("kind", KINDS)
def test_the_map_is_the_weight_that_the_library_merges(kind):
    adapted = brought.adapted(brought.plain("tiny-llava"), KINDS[kind]())
    model = without_wrapper(adapted)
    assert model is adapted.get_base_model()
    before = weights(brought.plain("tiny-llava"))
    got = maps(model)
    merged = weights(adapted.merge_and_unload())
    assert apart(got, merged) < ROUNDED
    assert any((merged[path] - before[path]).norm() > 1e-3 * before[path].norm() for path in PATHS)


def test_an_adapter_of_grouped_keys_and_values():
    adapted = brought.adapted(brought.plain("tiny-qwen2_5-vl"), KINDS["LoRA"]())
    path = LAYER + "self_attn.v_proj"
    got = linear_map(without_wrapper(adapted), path)
    merged = adapted.merge_and_unload().get_submodule(path)
    bounds.close(got.weight, merged.weight, bounds.sums(8))
    bounds.close(got.bias, merged.bias, bounds.sums(8))


def test_merged_unmerged_off_and_on():
    adapted = brought.adapted(brought.plain("tiny-llava"), KINDS["DoRA"]())
    model = without_wrapper(adapted)
    before, on = weights(brought.plain("tiny-llava")), maps(model)
    expected = {path: one.weight.clone() for path, one in on.items()}
    adapted.merge_adapter()
    assert apart(maps(model), expected) < ROUNDED
    adapted.unmerge_adapter()
    assert apart(maps(model), expected) < ROUNDED
    with adapted.disable_adapter():
        assert apart(maps(model), before) < bounds.sums(8)  # merging and taking out again rounds
    assert apart(maps(model), expected) < ROUNDED


def test_two_adapters_at_once_and_a_weighted_sum_of_them():
    adapted = brought.adapted(brought.plain("tiny-llava"), KINDS["LoRA"](), "one")
    adapted.add_adapter("other", peft.LoraConfig(r=4, target_modules=MAPS))
    brought.written(adapted)
    adapted.add_weighted_adapter(["one", "other"], [0.3, -0.8], "sum", combination_type="cat")
    model = without_wrapper(adapted)
    for active in (["one", "other"], ["other"], ["sum"]):
        adapted.base_model.set_adapter(active)
        got = maps(model)
        adapted.merge_adapter()
        expected = {path: model.get_submodule(path).get_base_layer().weight.detach().clone() for path in PATHS[:3]}
        for path, weight in expected.items():
            bounds.close(got[path].weight, weight, bounds.sums(8))
        adapted.unmerge_adapter()


def test_adapters_that_transformers_puts_in():
    model = brought.plain("tiny-llava")
    model.add_adapter(KINDS["LoRA"]())
    brought.written(model)
    before, path = weights(brought.plain("tiny-llava")), PATHS[1]
    layer = model.get_submodule(path)
    delta = layer.lora_B["default"].weight @ layer.lora_A["default"].weight * (5 / 3)
    bounds.close(linear_map(model, path).weight, before[path] + delta, bounds.sums(8))
    model.disable_adapters()
    assert torch.equal(linear_map(model, path).weight, before[path])


@pytest.mark.parametrize("how", ["8 bit", "nf4, twice", "torchao int8", "quanto int8"])
def test_an_adapter_on_codes(how):
    model = brought.quantised("tiny-llava", how)
    path = PATHS[1]
    codes = brought.dequantised(model.get_submodule(path))
    adapted = brought.adapted(model, KINDS["LoRA"]())
    layer = without_wrapper(adapted).get_submodule(path)
    delta = layer.lora_B["default"].weight @ layer.lora_A["default"].weight * (5 / 3)
    got = linear_map(without_wrapper(adapted), path)
    bounds.close(got.weight, codes + delta, bounds.sums(8))
    assert (got.rounds > 0) is (how in brought.ROUNDS)


def test_an_adapter_that_mixes_positions_is_refused_for_that():
    adapted = brought.adapted(brought.plain("tiny-llava"), peft.LilyConfig(target_modules=MAPS))
    with pytest.raises(InputError, match=r"lily.* is not a linear map: .* depends on the positions"):
        linear_map(without_wrapper(adapted), PATHS[1])


@pytest.mark.parametrize(
    "config, reason",
    [
        (lambda: peft.PromptTuningConfig(task_type="CAUSAL_LM", num_virtual_tokens=3), "before the prompt"),
        (lambda: peft.PrefixTuningConfig(task_type="CAUSAL_LM", num_virtual_tokens=3), "before each layer"),
        (lambda: peft.LoraConfig(target_modules=MAPS, alora_invocation_tokens=[5]), "after certain tokens"),
        (lambda: peft.PolyConfig(r=2, target_modules=MAPS, n_tasks=2), "number of a task"),
    ],
)
def test_what_acts_beside_the_layers_is_refused_by_name(config, reason):
    model = brought.plain("tiny-llava")
    model.config.num_attention_heads = 4  # where prefix tuning looks
    text = model.config.text_config
    for name in ("num_hidden_layers", "hidden_size", "num_key_value_heads"):
        setattr(model.config, name, getattr(text, name))
    with pytest.raises(UnsupportedModel, match=rf"the adapter 'default' \(\w+\) acts beside .*{reason}"):
        without_wrapper(peft.get_peft_model(model, config()))
