"""Folders in which PEFT saved an adapter alone: the model that it names is loaded with it."""

from __future__ import annotations

import json

import bounds
import brought
import peft
import pytest
import torch
from safetensors.torch import load_file, save_file

import lostattn as la
from lostattn.errors import InputError, UnsupportedModel

PARTS = r".*language_model.*\.(q_proj|o_proj|down_proj)"


@pytest.fixture(scope="module")
def saved(tmp_path_factory):
    """An adapter of the bundled model, and what that model gives with it."""
    adapted = brought.adapted(brought.plain("tiny-llava"), peft.LoraConfig(r=3, target_modules=PARTS))
    folder = tmp_path_factory.mktemp("adapters") / "mine"
    adapted.save_pretrained(folder)
    assert sorted(file.name for file in folder.iterdir() if file.suffix != ".md") == [
        "adapter_config.json", "adapter_model.safetensors"]  # fmt: skip
    return folder, adapted


def renamed(folder, target, **changes):
    target.mkdir()
    for file in folder.iterdir():
        (target / file.name).write_bytes(file.read_bytes())
    config = json.loads((folder / "adapter_config.json").read_text())
    (target / "adapter_config.json").write_text(json.dumps({**config, **changes}))
    return target


@pytest.fixture(scope="module")
def question():
    return la.data.load("shapes", split="test", n=1, seed=3)[0]


@pytest.mark.parametrize("base", ["a folder", "a bundled name"])
def test_the_base_that_an_adapter_names_is_loaded_with_it(saved, base, tmp_path, question):
    folder, adapted = saved
    if base == "a bundled name":
        folder = renamed(folder, tmp_path / "mine", base_model_name_or_path="tiny-llava")
    model, plain = la.load(folder), la.load("tiny-llava", selftest=False)
    assert model.name == "mine" and model.hook_names == la.load("tiny-llava").hook_names
    prompt = model.prompt(question)
    with torch.no_grad():
        expected = adapted(**prompt.inputs).logits
    logits, cache = model.run_with_cache(prompt)
    assert torch.equal(logits, expected) and not torch.equal(logits, plain.run_with_hooks(plain.prompt(question)))
    layer = adapted.get_base_model().get_submodule("model.language_model.layers.1.self_attn.o_proj")
    weight = layer.base_layer.weight + layer.get_delta_weight("default")
    bounds.close(cache["result", 1].sum(-2), cache["z", 1].flatten(-2) @ weight.T.detach(), 4 * bounds.sums(128))


def test_a_base_in_few_bits_with_an_adapter(saved, question):
    folder, _ = saved
    model = la.load(folder, quantization_config=brought.QUANTISED["nf4, twice"]())
    layer = model.hf.get_submodule("model.language_model.layers.1.self_attn.o_proj")
    weight = brought.dequantised(layer.base_layer) + layer.get_delta_weight("default")
    _, cache = model.run_with_cache(model.prompt(question))
    bounds.close(cache["result", 1].sum(-2), cache["z", 1].flatten(-2) @ weight.T.detach(), 4 * bounds.sums(128))


def test_an_adapter_beside_a_whole_model(saved, tmp_path, question):
    folder, adapted = saved
    both = renamed(folder, tmp_path / "both")
    brought.plain("tiny-llava").save_pretrained(both)
    processor = la.load("tiny-llava", selftest=False).processor
    model = la.load(both, processor=processor)
    prompt = model.prompt(question)
    with torch.no_grad():
        bounds.close(model.run_with_hooks(prompt), adapted(**prompt.inputs).logits, 20 * bounds.sums(128))


@pytest.mark.parametrize(
    "changes, reason",
    [
        ({"base_model_name_or_path": "/somewhere/else"}, "an adapter for '/somewhere/else', which is not here"),
        ({"base_model_name_or_path": "someone/away"}, "an adapter for 'someone/away', which is not here: no model"),
        ({"base_model_name_or_path": None}, "does not say which model it was made for"),
        ({"base_model_name_or_path": "tiny-qwen2_5-vl"}, "cannot be put into Qwen2_5_VLForConditionalGeneration"),
        ({"peft_type": "NO_SUCH"}, "cannot be put into LlavaForConditionalGeneration"),
    ],
)  # fmt: skip
def test_an_adapter_that_cannot_be_put_in_says_why(saved, changes, reason, tmp_path):
    with pytest.raises(InputError, match=reason):
        la.load(renamed(saved[0], tmp_path / "other", **changes))


def test_an_adapter_from_a_time_when_layers_were_called_otherwise(saved, tmp_path, question):
    """Of transformers before 4.52, where the decoder of a LLaVA lay elsewhere: it acts all the same."""
    folder = renamed(saved[0], tmp_path / "older")
    held = load_file(folder / "adapter_model.safetensors")
    save_file(
        {name.replace("model.language_model.layers", "language_model.model.layers"): w for name, w in held.items()},
        folder / "adapter_model.safetensors",
    )
    older, newer = la.load(folder, selftest=False), la.load(saved[0], selftest=False)
    found, expected = (one.run_with_hooks(one.prompt(question)) for one in (older, newer))
    assert torch.equal(found, expected)


def test_weights_saved_for_other_layers_are_not_left_out(saved, tmp_path):
    """PEFT warns of layers for which nothing is there, and they would do nothing."""
    folder = renamed(saved[0], tmp_path / "old")
    held = load_file(folder / "adapter_model.safetensors")
    older = {name.replace("language_model.layers", "language_model.blocks"): w for name, w in held.items()}
    assert set(older).isdisjoint(held)
    save_file(older, folder / "adapter_model.safetensors")
    with pytest.raises(InputError, match="cannot be put into Llava.*: Found missing adapter keys"):
        la.load(folder)


def test_a_service_has_no_adapter(saved):
    with pytest.raises(InputError, match=r"a service runs the model that it was made for without it: la.load\("):
        la.load(saved[0], remote=True)


def test_an_adapter_that_acts_beside_the_layers(tmp_path):
    config = peft.LoraConfig(r=3, target_modules=PARTS, alora_invocation_tokens=[5])
    brought.adapted(brought.plain("tiny-llava"), config).save_pretrained(tmp_path / "late")
    with pytest.raises(UnsupportedModel, match="after certain tokens"):
        la.load(tmp_path / "late")
