"""Where things are in a model, worked out from its modules; checked against the order in which they really run."""

from __future__ import annotations

import pytest
import torch
from tiny import FAMILIES, INPUTS, MAKERS, bare, wrapped
from torch import nn

from lostattn.architecture import Update, resolve
from lostattn.architecture.call_order import (
    attention_in_comprehension,
    calls_attention,
    children_around_attention,
    children_in_order,
    forward_calls,
)
from lostattn.errors import UnsupportedModel


def test_llava_is_found_whole():
    found = resolve(bare("llava"))
    assert found.decoder == "model.language_model"
    assert found.embed == "model.language_model.embed_tokens"
    assert found.final_norm == "model.language_model.norm"
    assert found.unembed == "lm_head"
    block = found.stack.blocks[3]
    at = "model.language_model.layers.3"
    assert (block.path, block.ln1, block.ln2) == (at, f"{at}.input_layernorm", f"{at}.post_attention_layernorm")
    assert block.attn.order == (f"{at}.self_attn.q_proj", f"{at}.self_attn.k_proj", f"{at}.self_attn.v_proj")
    assert block.attn.o == f"{at}.self_attn.o_proj"
    assert block.mlp_order == (("pre", f"{at}.mlp.gate_proj"), ("pre_linear", f"{at}.mlp.up_proj"))
    assert block.mlp_out == f"{at}.mlp.down_proj"
    stack = found.stack
    assert (stack.n_heads, stack.n_key_value_heads, stack.d_head, stack.d_model, stack.d_mlp) == (5, 5, 10, 50, 59)
    assert found.vision is not None
    assert found.vision.stack.prefix == "vision_encoder.encoder_layers"
    assert found.vision.projector == "model.multi_modal_projector" and not found.vision.projector_inside
    assert found.vision.stack.blocks[0].mlp_order == (("pre", "model.vision_tower.encoder.layers.0.mlp.fc1"),)
    assert not found.vision.stack.blocks[0].attn.windows


def test_qwen_is_found_whole():
    found = resolve(bare("qwen"))
    stack = found.stack
    assert (stack.n_heads, stack.n_key_value_heads, stack.d_head, stack.d_model, stack.d_mlp) == (6, 2, 10, 60, 71)
    assert found.vision is not None
    assert (found.vision.path, found.vision.projector) == ("model.visual", "model.visual.merger")
    assert found.vision.projector_inside and found.vision.n_read == 4
    attention = found.vision.stack.blocks[2].attn
    assert attention.windows and attention.q is None
    assert attention.qkv == "model.visual.blocks.2.attn.qkv"
    assert attention.order == ("model.visual.blocks.2.attn.qkv",)
    assert attention.o == "model.visual.blocks.2.attn.proj"


@pytest.mark.parametrize("family", FAMILIES)
def test_slots_stand_in_the_order_in_which_modules_run(family):
    """Against the events of the bare model: hooks see when each module is entered and when it is left."""
    model = MAKERS[family]()
    events: list[tuple[str, str]] = []
    for path, module in model.named_modules():
        module.register_forward_pre_hook(lambda *_, path=path: events.append((path, "input")))
        module.register_forward_hook(lambda *_, path=path: events.append((path, "output")))
    with torch.no_grad():
        model(**INPUTS[family]())
    slots = [(slot.path, slot.port) for slot in wrapped(family).sites.slots if slot.kind == "tensor"]
    places = [events.index(slot) for slot in slots]
    assert len(places) > 90
    assert places == sorted(places)


@pytest.mark.parametrize("family", FAMILIES)
def test_every_attention_operation_is_found_by_name(family):
    model = wrapped(family)
    stacks = (model.architecture.stack, model.architecture.vision.stack)
    blocks = [block for stack in stacks for block in stack.blocks]
    assert set(model.operations) == {block.attn.path for block in blocks}
    for block in blocks:
        assert model.operations[block.attn.path] == block.attn.operation
        assert block.attn.operation in model.nn.get(block.attn.path).source.names


@pytest.mark.parametrize(("chosen", "read"), [(-2, 2), (-1, 3), (1, 1), (2, 2), (3, 3), ([-3, -2], 2), ([1, 3], 3)])
def test_how_many_vision_layers_are_read(chosen, read):
    config = bare("llava").config
    before = config.vision_feature_layer
    try:
        config.vision_feature_layer = chosen
        assert resolve(bare("llava")).vision.n_read == read
    finally:
        config.vision_feature_layer = before


def test_the_layers_said_to_be_read_are_the_ones_that_matter():
    """Zeroing a read vision layer moves the logits of the bare model; zeroing one after it does not."""
    inputs = INPUTS["llava"]()
    n_read = resolve(bare("llava")).vision.n_read
    with torch.no_grad():
        before = bare("llava")(**inputs).logits
        for i in range(3):
            model = MAKERS["llava"]()
            model.model.vision_tower.encoder.layers[i].mlp.fc2.weight.zero_()
            assert torch.equal(model(**inputs).logits, before) == (i >= n_read)


def test_a_text_model_has_no_vision():
    from transformers import LlamaConfig, LlamaForCausalLM

    config = LlamaConfig(
        vocab_size=31, hidden_size=12, intermediate_size=17, num_hidden_layers=2, num_attention_heads=3,
        bos_token_id=1, eos_token_id=2,
    )  # fmt: skip
    found = resolve(LlamaForCausalLM(config))
    assert found.vision is None
    assert found.decoder == "model" and len(found.stack.blocks) == 2


def test_an_encoder_alone_is_refused():
    from transformers import CLIPVisionConfig, CLIPVisionModel

    config = CLIPVisionConfig(
        hidden_size=12, intermediate_size=17, num_hidden_layers=2, num_attention_heads=3, image_size=14, patch_size=7
    )
    with pytest.raises(
        UnsupportedModel, match="CLIPVisionModel is no generative model: .* found no decoder and no unemb"
    ):
        resolve(CLIPVisionModel(config))


def test_norms_after_the_modules_are_the_updates():
    """Gemma 2 norms what attention and FFN give before it is added, and norms the stream before each of them."""
    from transformers import Gemma2Config, Gemma2ForCausalLM

    config = Gemma2Config(
        vocab_size=31, hidden_size=12, intermediate_size=17, num_hidden_layers=2, num_attention_heads=3,
        num_key_value_heads=1, head_dim=4, bos_token_id=1, eos_token_id=2, pad_token_id=0,
    )  # fmt: skip
    block = resolve(Gemma2ForCausalLM(config)).stack.blocks[1]
    at = "model.layers.1"
    assert block.kind == "post-norm"
    assert (block.ln1, block.ln2) == (f"{at}.input_layernorm", f"{at}.pre_feedforward_layernorm")
    assert block.mid == block.ln2
    assert block.attn_update == Update(f"{at}.post_attention_layernorm", 1.0, f"{at}.self_attn")
    assert block.mlp_update == Update(f"{at}.post_feedforward_layernorm", 1.0, f"{at}.mlp")
    assert (block.attn_out, block.mlp_out) == (f"{at}.self_attn", f"{at}.mlp.down_proj")


def test_attention_that_bypasses_the_interface_is_refused():
    class Plain(nn.Module):
        def forward(self, x):
            return x

    model = MAKERS["llava"]()
    for layer in model.model.language_model.layers:
        layer.self_attn = Plain()
    with pytest.raises(UnsupportedModel, match="looked for a list of layers that call `attention_interface` below"):
        resolve(model)


class Inner(nn.Module):
    """Stands for an attention module, with its calls in an unusual order."""

    def __init__(self):
        super().__init__()
        self.last = nn.Linear(3, 3)
        self.first = nn.Linear(3, 3)
        self.second = nn.Linear(3, 3)

    def forward(self, x, attention_interface):
        y = self.second(self.first(x))
        parts = [attention_interface(self, piece) for piece in y]
        return self.last(parts[0])


def test_calls_are_listed_as_they_are_evaluated():
    inner = Inner()
    assert children_in_order(inner) == ["first", "second", "last"]
    assert children_around_attention(inner) == (["first", "second"], ["last"])
    assert calls_attention(inner) and attention_in_comprehension(inner)
    assert ("attention_interface", True) in forward_calls(inner)
    assert ("self.last", False) in forward_calls(inner)
    assert not calls_attention(inner.last)
