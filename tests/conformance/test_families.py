"""One family of every kind that is supported: built tiny, resolved by structure, proven on a picture."""

from __future__ import annotations

import functools
import warnings

import bounds
import pytest
import torch

import lostattn as la
from lostattn.architecture import resolve
from lostattn.conformance.inputs import moved_picture, picture_inputs, prompt_of
from lostattn.conformance.models import build, families
from lostattn.errors import UnknownName, UnsupportedModel
from lostattn.model import LVLM
from lostattn.plan import Edit
from lostattn.run.local import run_edits

pytestmark = pytest.mark.slow

# family -> the kinds of its layers, and whether a vision tower is found in it
KINDS = {
    "llava": ({"plain"}, True),
    "qwen3_vl": ({"plain"}, True),
    "llama4": ({"plain"}, True),
    "gemma3": ({"post-norm"}, True),
    "aya_vision": ({"parallel"}, True),
    "qwen3_5": ({"plain", "no attention"}, True),
    "mllama": ({"plain", "scaled"}, True),
    "gemma4": ({"differences only"}, True),
    "granite4_vision": ({"plain"}, True),
    "muse_spark": ({"differences only"}, True),  # several streams
    "florence2": ({"differences only"}, False),
    "pix2struct": ({"plain"}, True),  # attention and its residual in a module of the layer; a map called "output"
    "evolla": ({"differences only", "plain"}, False),  # a protein in a picture's place
}


@functools.cache
def proven(family: str):
    """A wrapped model that passed its self-test, its prompt, and a bare model of the same weights."""
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", ".*its other parts run eager attention")  # Gemma 4's ears
        module, bare = build(family, "sdpa"), build(family, "sdpa")
    inputs, _ = picture_inputs(module, family)
    model = la.load(module, selftest=False)
    prompt = prompt_of(model, inputs)
    model.selftest(prompt)
    return model, prompt, bare


@pytest.mark.parametrize("family", KINDS)
def test_a_family_of_each_kind_passes_the_self_test(family):
    model, _, _ = proven(family)
    kinds, tower = KINDS[family]
    assert {block.kind for block in model.architecture.stack.blocks} == kinds
    assert (model.architecture.vision is not None) == tower


@pytest.mark.parametrize("family", KINDS)
def test_the_picture_moves_the_logits(family):
    """What the self-test is run on is a picture that the decoder really looks at."""
    model, prompt, bare = proven(family)
    with torch.no_grad():
        here = bare(**prompt.inputs).logits
        there = bare(**moved_picture(dict(prompt.inputs))).logits
    assert bounds.moved(there, here, bounds.depth(model.cfg), times=1)


@pytest.mark.parametrize("family", ["gemma3", "granite_docling_text", "mllama"])
def test_an_edit_of_the_stream_between_the_updates_is_what_the_rest_sees(family):
    """Norms and factors stand between attention and the stream: what is written there must arrive as written."""
    if family == "granite_docling_text":
        from transformers import GraniteConfig, GraniteForCausalLM

        config = GraniteConfig(
            vocab_size=31, hidden_size=12, intermediate_size=17, num_hidden_layers=2, num_attention_heads=3,
            num_key_value_heads=1, residual_multiplier=0.22, bos_token_id=1, eos_token_id=2, pad_token_id=0,
        )  # fmt: skip
        torch.manual_seed(0)
        model = LVLM(GraniteForCausalLM(config).eval(), None, "granite")
        prompt = prompt_of(model, {"input_ids": torch.tensor([[3, 4, 5, 6, 7]])})
        assert model.architecture.stack.blocks[0].attn_update.factor == 0.22
    else:
        model, prompt, _ = proven(family)
    shift = torch.linspace(-1, 1, model.cfg.d_model)
    _, before = run_edits(model, prompt, ("blocks.0.hook_resid_mid",), ())
    _, after = run_edits(
        model, prompt, ("blocks.0.hook_resid_mid",), [Edit("blocks.0.hook_resid_mid", shifted, {"by": shift})]
    )
    expected = before["blocks.0.hook_resid_mid"] + shift
    # Written as what attention adds, through a factor or a gate or none: a difference, a quotient, a product, a sum.
    bounds.close(after["blocks.0.hook_resid_mid"], expected, bounds.sums(4))


def shifted(x, here, by):
    return x + by


def test_parallel_blocks_say_that_they_have_no_middle():
    model, _, _ = proven("aya_vision")
    with pytest.raises(
        UnknownName, match=r"no sum was found between attention and FFN .* No layer of this model has it"
    ):
        model.sites.find("blocks.0.hook_resid_mid")


def test_a_layer_without_attention_says_which_layers_have_it():
    model, _, _ = proven("qwen3_5")
    blocks = model.architecture.stack.blocks
    without = next(i for i, block in enumerate(blocks) if block.attn is None)
    having = [i for i, block in enumerate(blocks) if block.attn is not None]
    message = rf"does not call transformers' attention interface\. Layers that have it: \[{having[0]}\]"
    with pytest.raises(UnknownName, match=message):
        model.sites.find(f"blocks.{without}.attn.hook_pattern")
    assert f"blocks.{without}.hook_attn_out" in model.hook_names  # what stands in attention's place


def test_experts_have_no_inner_points_and_say_so():
    module = build("ernie4_5_vl_moe", "sdpa")
    model = la.load(module, selftest=False)
    with pytest.raises(UnknownName, match="looked into for two linear maps, or three if gated, and has others"):
        model.sites.find("blocks.1.mlp.hook_post")


def test_every_stream_between_two_updates_can_be_edited_behind_a_gate_too():
    model, _, _ = proven("mllama")
    assert "scaled" in {block.kind for block in model.architecture.stack.blocks}
    names = {f"blocks.{i}.hook_resid_mid" for i in range(model.cfg.n_layers)}
    assert {model.sites.editable(name) for name in names} == names


@pytest.mark.parametrize(
    ("family", "message"),
    [
        ("blip", "looked for a decoder below it and an unembedding, found"),
        ("git", "Its attention is not made through transformers' attention interface"),
    ],
)
def test_attention_that_cannot_be_edited_is_refused(family, message):
    with pytest.raises(UnsupportedModel, match=message):
        la.load(build(family, "eager"), selftest=False)


def test_building_twice_gives_the_same_weights():
    one, other = build("qwen3_vl", seed=3), build("qwen3_vl", seed=3)
    assert all(torch.equal(a, b) for a, b in zip(one.parameters(), other.parameters(), strict=True))
    assert not torch.equal(next(one.parameters()), next(build("qwen3_vl", seed=4).parameters()))


def test_an_unknown_family_is_named_with_its_nearest():
    assert "qwen3_vl" in families()
    with pytest.raises(UnknownName, match=r"'qwen3_v'.*qwen3_vl"):
        build("qwen3_v")


@pytest.mark.parametrize(
    ("family", "tower"),
    [
        ("diffusion_gemma", "model.encoder.vision_tower.encoder.layers"),  # beside the layers of a text encoder
        ("deepseek_ocr2", "model.vision_tower.vision_encoder.layers"),  # its sizes stand in the config of a part
        ("t5gemma2", "model.encoder.vision_tower.encoder.layers"),  # the encoder's own config has the vision config
        ("vision-encoder-decoder", "encoder.layers"),  # the encoder is the tower
    ],
)
def test_the_vision_tower_is_what_sees_the_picture(family, tower):
    found = resolve(build(family)).vision
    assert found is not None
    assert [block.path for block in found.stack.blocks] == [f"{tower}.0", f"{tower}.1"]
    assert found.stack.n_heads * found.stack.d_head == found.stack.d_model
