"""The linear maps of quantised layers are those that their library spells out, and what the layers give."""

from __future__ import annotations

import bounds
import brought
import pytest
import torch

from lostattn.weights import linear_map

PATHS = {
    "tiny-llava": "model.language_model.layers.1.{}",
    "tiny-qwen2_5-vl": "model.language_model.layers.1.{}",
}
MAPS = ("self_attn.q_proj", "self_attn.k_proj", "self_attn.o_proj", "mlp.down_proj")


@pytest.mark.parametrize("how", brought.QUANTISED)
@pytest.mark.parametrize("name", PATHS)
def test_the_map_is_the_weight_that_the_library_spells_out(name, how):
    model = brought.quantised(name, how)
    for part in MAPS:
        path = PATHS[name].format(part)
        layer = model.get_submodule(path)
        expected = brought.dequantised(layer)
        x = torch.randn(2, 3, expected.shape[1], generator=torch.Generator().manual_seed(0))
        for _ in range(2):  # a pass changes how some libraries keep their codes
            got = linear_map(model, path)
            assert got.weight.shape == expected.shape and (got.rounds > 0) is (how in brought.ROUNDS)
            bounds.close(got.weight.float(), expected, bounds.sums(4))
            with torch.no_grad():
                answer, found = layer(x), got(x)
            # What a layer rounds of its input is 1/254 of a row's largest value at the most.
            allowed = 0.02 if got.rounds else bounds.sums(expected.shape[1])
            assert (answer - found).norm() < allowed * answer.norm()


@pytest.mark.parametrize("how", ["8 bit", "nf4, twice", "torchao int8", "quanto int8"])
def test_a_model_in_bfloat16(how):
    model = brought.quantised("tiny-llava", how, dtype=torch.bfloat16)
    path = PATHS["tiny-llava"].format("self_attn.o_proj")
    expected = brought.dequantised(model.get_submodule(path))
    bounds.close(linear_map(model, path).weight.float(), expected, bounds.sums(4))


def test_codes_that_a_pass_on_some_processors_lays_out_anew():
    """bitsandbytes packs 4-bit weights for the CPU's bfloat16 instructions, with their scales rounded to bfloat16."""
    import bitsandbytes.functional as bnb

    for nested in (False, True):
        model = brought.quantised("tiny-llava", "nf4, twice" if nested else "4 bit")
        path = PATHS["tiny-llava"].format("self_attn.o_proj")
        layer = model.get_submodule(path)
        expected = brought.dequantised(layer)
        layer.weight.data, layer.weight.quant_state = bnb._convert_weight_packed_for_cpu(
            layer.weight.data, layer.weight.quant_state
        )
        layer.forward = lambda x, weight=expected: torch.nn.functional.linear(x, weight)  # without its instructions
        got = linear_map(model, path)
        assert layer.weight.quant_state.packing_format_for_cpu
        assert (got.weight - expected).norm() < 2**-8 * expected.norm()
        assert (got.weight - expected).norm() > 0


def test_a_head_in_eight_bits():
    model = brought.plain("tiny-llava", quantization_config=brought.BitsAndBytesConfig(
        load_in_8bit=True, llm_int8_skip_modules=["model.vision_tower"]))  # fmt: skip
    assert model.lm_head.weight.dtype == torch.int8
    expected = brought.dequantised(model.lm_head)
    bounds.close(linear_map(model, "lm_head").weight, expected, bounds.sums(4))
