"""Decoders of text alone: loaded, proven and edited as every model, with no image anywhere."""

from __future__ import annotations

import functools

import bounds
import pytest
import torch
from transformers import GPT2Config, GPT2LMHeadModel, LlamaConfig, LlamaForCausalLM, Qwen2Config, Qwen2ForCausalLM

import lostattn as la
from lostattn.checkpoint.text_processor import TextProcessor
from lostattn.conformance.models import fill
from lostattn.errors import InputError, UnknownName, UnsupportedModel

TEXTS = ["How many red", "are there circles first"]
CLASSES = {"llama": LlamaForCausalLM, "qwen2": Qwen2ForCausalLM, "gpt2": GPT2LMHeadModel}


@functools.cache
def tokenizer():
    import small_processors

    return small_processors.llava()[0].tokenizer


def made(kind: str, kernel: str = "sdpa"):
    """Three layers at unequal sizes, with weights of order one."""
    ids = {"bos_token_id": 1, "eos_token_id": 2, "pad_token_id": 0}
    sizes = {"hidden_size": 40, "intermediate_size": 56, "num_hidden_layers": 3}
    config = {
        "llama": lambda v: LlamaConfig(vocab_size=v, num_attention_heads=5, num_key_value_heads=5, **sizes, **ids),
        "qwen2": lambda v: Qwen2Config(vocab_size=v, num_attention_heads=4, num_key_value_heads=2, **sizes, **ids),
        "gpt2": lambda v: GPT2Config(vocab_size=v, n_embd=40, n_layer=3, n_head=5, n_positions=64, **ids),
    }[kind](len(tokenizer()))
    module = CLASSES[kind]._from_config(config, attn_implementation=kernel).eval()
    generator = torch.Generator().manual_seed(0)
    with torch.no_grad():
        for parameter in module.parameters():
            fill(parameter, generator)
    return module


@functools.cache
def loaded(kind: str):
    return la.load(made(kind), processor=tokenizer())  # with the self-test


@pytest.mark.parametrize("kind", CLASSES)
def test_the_tokenizer_stays_as_it_was(kind):
    model = loaded(kind)
    assert model.processor.tokenizer is tokenizer() and tokenizer().padding_side == "right"


@pytest.mark.parametrize("kind", CLASSES)
def test_a_decoder_of_text_loads_from_a_folder_with_its_tokenizer(kind, tmp_path):
    module = made(kind)
    module.save_pretrained(tmp_path)
    tokenizer().save_pretrained(tmp_path)
    model = la.load(tmp_path)
    assert type(model.hf) is CLASSES[kind] and isinstance(model.processor, TextProcessor)
    assert repr(model.processor).startswith("TextProcessor(")
    assert model.cfg.n_vision_layers == 0 and not [n for n in model.hook_names if n.startswith("vision")]
    prompt = model.prompt(TEXTS[0])
    with torch.no_grad():
        assert torch.equal(model.forward(prompt), module(**tokenizer()(TEXTS[0], return_tensors="pt")).logits)


@pytest.mark.parametrize("kind", CLASSES)
def test_patterns_are_those_of_eager_attention(kind):
    model = loaded(kind)
    prompt = model.prompt(TEXTS)
    logits, cache = model.run_with_cache(prompt)
    with torch.no_grad():
        out = made(kind, "eager")(**model._inputs(prompt), output_attentions=True)
    real = prompt.token_map["all"]
    share = bounds.passes(made(kind), model._inputs(prompt))
    bounds.close(logits[real], out.logits[real], share)
    for layer, expected in enumerate(out.attentions):
        found, scores = cache["pattern", layer].transpose(1, 2)[real], cache["attn_scores", layer]
        bounds.close(found, expected.transpose(1, 2)[real], share, size=scores)


@pytest.mark.parametrize("kind", CLASSES)
def test_interventions_act_in_a_pass_and_in_a_generation(kind):
    model = loaded(kind)
    prompt = model.prompt(TEXTS)
    edit = la.KnockOut("last", 1, layers=[1])
    before, after = model.forward(prompt), model.run_with_hooks(prompt, interventions=edit)
    share = bounds.passes(model.hf, model._inputs(prompt))
    assert all(bounds.moved(*rows, share) for rows in zip(after[:, -1], before[:, -1], strict=True))  # in both items
    assert torch.equal(after[:, :-1], before[:, :-1])
    _, cache = model.run_with_cache(prompt, "pattern1", edit)
    second = prompt.token_map[1].nonzero()[:, 1]
    assert torch.equal(cache["pattern", 1][[0, 1], :, -1, second], torch.zeros(2, model.cfg.n_heads))
    generated = model.generate(prompt, interventions=edit, max_new_tokens=3)
    assert torch.equal(generated.tokens[:, 0], after[:, -1].argmax(-1))


def test_every_position_is_text_and_none_is_an_image():
    model = loaded("llama")
    prompt = model.prompt(TEXTS)
    assert torch.equal(prompt.token_map["text"], prompt.token_map["all"])
    assert prompt.token_map["question"].any(-1).all() and not prompt.token_map["image"].any()
    assert prompt.token_map.n_images == (0, 0)
    ready = model.prompt(inputs=dict(prompt.inputs))
    assert torch.equal(ready.token_map.part != 0, prompt.token_map["all"])
    with pytest.raises(InputError, match="'image' names no position: 'llama' is a decoder of text, whose prompts hold"):
        model.run_with_hooks(prompt, interventions=la.KnockOut("last", "image"))
    with pytest.raises(InputError, match=r"'padding' names no position of this prompt"):
        model.run_with_hooks(prompt[1], interventions=la.KnockOut("last", "padding"))
    with pytest.raises(InputError, match="'llama' is a decoder of text and takes no images; leave images= out"):
        model.prompt(TEXTS[0], images=[torch.zeros(3, 4, 4).numpy()])
    with pytest.raises(UnknownName, match="vision_encoder"):
        model.run_with_cache(prompt, "vision_encoder.hook_vision_out")


def test_a_chat_template_is_given_each_turn_as_one_text():
    own = tokenizer()
    template = "{% for m in messages %}{{ m['role'] }}: {{ m['content'] }} {% endfor %}assistant:"
    model = la.load(made("llama"), processor=own, selftest=False)
    held, own.chat_template = own.chat_template, template
    try:
        prompt = model.prompt("How many red", system="You are helpful")
    finally:
        own.chat_template = held
    read = own.decode(prompt.inputs["input_ids"][0], skip_special_tokens=True)
    assert read == "system: You are helpful user: How many red assistant:"
    assert own.decode(prompt.inputs["input_ids"][prompt.token_map["question"]]).strip() == "How many red"


def test_a_conversation_of_text_has_turns():
    own = tokenizer()
    template = (
        "{% for m in messages %}{{ m['role'] }}: {{ m['content'] }}\n{% endfor %}"
        "{% if add_generation_prompt %}assistant:{% endif %}"
    )
    model = la.load(made("llama"), processor=own, selftest=False)
    held, own.chat_template = own.chat_template, template
    said = [{"role": "user", "content": "How many"}, {"role": "assistant", "content": "red"}]
    try:
        prompt = model.prompt([*said, {"role": "user", "content": [{"type": "text", "text": "squares there"}]}])
        again = model.prompt(inputs=prompt.inputs)
    finally:
        own.chat_template = held
    assert torch.equal(prompt.token_map.part, again.token_map.part) and again.token_map.located == (True,)
    assert torch.equal(prompt.token_map.turn_index, again.token_map.turn_index)
    words = {
        name: own.decode(prompt.inputs["input_ids"][prompt.token_map[name]]).strip() for name in ("turn:0", "turn:1")
    }
    assert words == {"turn:0": "How many", "turn:1": "red"} and prompt.texts == ("squares there",)


def test_a_folder_without_a_tokenizer_says_what_to_give(tmp_path):
    made("llama").save_pretrained(tmp_path)
    with pytest.raises(InputError, match=r"No tokenizer could be loaded from .* or give it as processor="):
        la.load(tmp_path)
    assert la.load(tmp_path, processor=tokenizer()).prompt(TEXTS).batch == 2


def test_without_a_tokenizer_prompts_are_made_of_ready_inputs():
    model = la.load(made("gpt2"))
    prompt = model.prompt(inputs={"input_ids": torch.tensor([[5, 6, 7, 9]])})
    assert model.selftest(prompt).passed
    with pytest.raises(InputError, match="loaded without a processor"):
        model.prompt("How many")


def test_a_decoder_without_attention_is_refused():
    from transformers import MambaConfig, MambaForCausalLM

    module = MambaForCausalLM(MambaConfig(vocab_size=31, hidden_size=12, num_hidden_layers=2, state_size=4))
    with pytest.raises(UnsupportedModel, match=r"looked for a list of layers that call `attention_interface`"):
        la.load(module)
