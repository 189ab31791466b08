"""la.load: bundled, from a folder, loaded already; kernels and dtypes; what is refused and how."""

from __future__ import annotations

import json
import shutil

import bounds
import pytest
import torch
from tiny import FAMILIES, INPUTS, MAKERS, bare

import lostattn as la
from lostattn.errors import InputError, UnknownName, UnsupportedModel
from lostattn.zoo import path as bundled

FOLDERS = {"llava": "tiny-llava", "qwen": "tiny-qwen2_5-vl"}


def test_a_bundled_model_is_ready_to_use(tiny_model, shapes_questions):
    assert tiny_model.name in FOLDERS.values()
    assert tiny_model.processor is not None and not tiny_model.hf.training
    assert tiny_model.cfg.model_name == tiny_model.name
    assert tiny_model.cfg.attn_implementation == "sdpa" and tiny_model.cfg.dtype == torch.float32
    assert tiny_model.forward(shapes_questions[0]).shape[-1] == tiny_model.cfg.d_vocab


@pytest.mark.parametrize("family", FAMILIES)
def test_sizes_under_transformer_lens_names(family):
    cfg = la.load(MAKERS[family](), selftest=False).cfg
    sizes = {
        "llava": (4, 50, 5, 5, 10, 59, 101, 256, 3, 33, 3),
        "qwen": (3, 60, 6, 2, 10, 71, 103, 512, 4, 36, 3),
    }[family]
    assert (
        cfg.n_layers, cfg.d_model, cfg.n_heads, cfg.n_key_value_heads, cfg.d_head, cfg.d_mlp, cfg.d_vocab, cfg.n_ctx,
        cfg.n_vision_layers, cfg.d_vision, cfg.n_vision_heads,
    ) == sizes  # fmt: skip


def test_a_summary_in_one_line():
    assert repr(la.load(MAKERS["qwen"](), selftest=False)) == (
        "LVLM 'Qwen2_5_VLForConditionalGeneration': Qwen2_5_VLForConditionalGeneration, 3 layers of 6 heads "
        "(2 key/value), d_model 60, 4 vision layers; sdpa, float32 on cpu; 171 hook points"
    )


@pytest.mark.slow
@pytest.mark.parametrize("family", FAMILIES)
def test_a_folder_gives_what_its_name_gives(family, tmp_path, request, shapes_questions):
    known = request.getfixturevalue("tiny_llava" if family == "llava" else "tiny_qwen")
    copy = shutil.copytree(bundled(FOLDERS[family]), tmp_path / "mine")
    for spelling in (copy, str(copy)):
        model = la.load(spelling, selftest=False)
        assert model.name == "mine"
        assert torch.equal(model.forward(shapes_questions[0]), known.forward(shapes_questions[0]))


@pytest.mark.parametrize("family", FAMILIES)
def test_a_loaded_model_is_taken_as_it_is(family):
    module = MAKERS[family]().train()
    weights = {name: value.clone() for name, value in module.state_dict().items()}
    model = la.load(module)
    assert model.hf is module and model.processor is None and not module.training
    inputs = INPUTS[family]()
    prompt = model.prompt(inputs=inputs)
    with torch.no_grad():
        assert torch.equal(model.forward(prompt), bare(family)(**inputs).logits)
    model.run_with_cache(prompt, interventions=la.NoiseWeights("mlp") + la.ReplaceAttention(la.Uniform()))
    assert all(torch.equal(value, weights[name]) for name, value in module.state_dict().items())
    with pytest.raises(InputError, match="loaded without a processor, so a prompt can only be made of inputs that"):
        model.prompt("How many squares?")


def test_a_loaded_model_finds_its_processor(shapes_questions):
    from transformers import LlavaForConditionalGeneration

    folder = bundled("tiny-llava")
    module = LlavaForConditionalGeneration.from_pretrained(folder)
    model = la.load(module)
    assert model.hf is module and model.processor is not None
    assert model.prompt(shapes_questions[0]).batch == 1
    other = la.load(MAKERS["llava"](), processor=model.processor, selftest=False)
    assert other.processor is model.processor


@pytest.mark.parametrize("name", FOLDERS.values())
def test_kernels_agree(name, request, shapes_questions):
    """Eager and sdpa: the same patterns, and the same edit of them."""
    sdpa = request.getfixturevalue("tiny_llava" if name == "tiny-llava" else "tiny_qwen")
    eager = la.load(name, attn_implementation="eager")
    assert eager.cfg.attn_implementation == "eager"
    prompt = sdpa.prompt(shapes_questions[0])
    edit = la.ReplaceAttention(la.Uniform(), queries="all")
    share, names = bounds.passes(sdpa.hf, prompt.inputs), ["pattern1", "blocks.1.attn.hook_attn_scores"]
    for interventions in (None, edit):
        one, cache = sdpa.run_with_cache(prompt, names, interventions)
        other, other_cache = eager.run_with_cache(prompt, names, interventions)
        bounds.close(one, other, share)
        bounds.close(cache["pattern", 1], other_cache["pattern", 1], share, size=cache["attn_scores", 1])


@pytest.mark.slow
@pytest.mark.parametrize("dtype", [torch.bfloat16, "bfloat16"])
def test_half_precision(dtype, shapes_questions):
    model = la.load("tiny-qwen2_5-vl", dtype=dtype, selftest=isinstance(dtype, torch.dtype))
    assert model.cfg.dtype == torch.bfloat16
    logits, cache = model.run_with_cache(shapes_questions[0], ["pattern2", "hook_embed"])
    assert logits.dtype == cache["hook_embed"].dtype == torch.bfloat16 and cache["pattern", 2].dtype == torch.float32


def test_an_unknown_name_is_told_the_nearest():
    with pytest.raises(UnknownName, match="no model is called 'tiny-lava'.*not found on the hub.*Did you mean 'tiny-l"):
        la.load("tiny-lava")


@pytest.mark.parametrize(
    ("name", "error", "message"),
    [
        ("", InputError, "model is ''; expected the name of a bundled model such as 'tiny-llava', a Hugging"),
        ("no/such-model-anywhere", UnknownName, "no model is called 'no/such-model-anywhere': not among the bundled"),
        ("./no/such/folder", UnknownName, "no folder, and not found on the hub"),
    ],
)
def test_names_that_lead_nowhere(name, error, message):
    with pytest.raises(error, match=message):
        la.load(name)


def test_a_folder_without_a_checkpoint(tmp_path):
    with pytest.raises(InputError, match="has no config.json; expected a folder that save_pretrained wrote"):
        la.load(tmp_path)
    (tmp_path / "config.json").write_text("{not json")
    with pytest.raises(InputError, match="holds no checkpoint that can be read: .*config.json' is not a valid JSON"):
        la.load(tmp_path)


def others():
    from transformers import BertConfig, BertModel, CLIPVisionConfig, CLIPVisionModel, LlamaConfig, LlamaModel

    sizes = {"hidden_size": 12, "intermediate_size": 17, "num_hidden_layers": 2, "num_attention_heads": 3}
    return {
        "clip_vision_model": CLIPVisionModel(CLIPVisionConfig(image_size=14, patch_size=7, **sizes)),
        "bert": BertModel(BertConfig(vocab_size=31, **sizes)),
        "llama": LlamaModel(LlamaConfig(vocab_size=31, bos_token_id=1, eos_token_id=2, **sizes)),
    }


@pytest.mark.parametrize(
    ("kind", "stored", "loaded"),
    [
        (
            "clip_vision_model",
            "is a 'clip_vision_model' model; expected an image-text-to-text model or a decoder of text: looked for .* "
            r"among the \d+ families of the one and the \d+ of the other that transformers lists, and found",
            "is a 'clip_vision_model' model; expected an image-text-to-text model",
        ),
        # transformers would make up the head that is missing
        (
            "bert",
            "holds a BertModel; expected .* a decoder of text with its unembedding, .* is BertLMHeadModel",
            "Bert",
        ),
        (
            "llama",
            "holds a LlamaModel; expected .* which for 'llama' is LlamaForCausalLM",
            "LlamaModel is no generative",
        ),
    ],
)
def test_other_kinds_of_models(kind, stored, loaded, tmp_path):
    """A vision tower or an encoder alone, and a decoder without its unembedding: in a folder and loaded already."""
    module = others()[kind]
    with pytest.raises(UnsupportedModel, match=loaded):
        la.load(module)
    module.save_pretrained(tmp_path)
    with pytest.raises(UnsupportedModel, match=stored):
        la.load(tmp_path)


def test_no_model_at_all():
    with pytest.raises(UnsupportedModel, match="Linear is no generative transformers model: looked for get_decoder"):
        la.load(torch.nn.Linear(2, 3))


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"dtype": torch.bfloat16}, "dtype=torch.bfloat16 is for loading a model, but 'Llava.*' is loaded already"),
        ({"attn_implementation": "eager"}, "attn_implementation='eager' is for loading a model"),
        ({"revision": "main"}, "revision='main' is for loading a model"),
        ({"max_memory": {0: 1}}, "max_memory=.* is for loading a model"),
    ],
)
def test_settings_of_loading_are_not_ignored_for_a_loaded_model(settings, message):
    with pytest.raises(InputError, match=message):
        la.load(MAKERS["llava"](), **settings)


def test_code_from_a_checkpoint_is_not_run_unless_asked_for(tmp_path):
    ran = tmp_path / "ran"
    config = {"model_type": "strange", "auto_map": {"AutoConfig": "own.Config", "AutoModelForImageTextToText": "own.M"}}
    (tmp_path / "config.json").write_text(json.dumps(config))
    code = f"open({str(ran)!r}, 'w')\nfrom transformers import PreTrainedConfig\nclass Config(PreTrainedConfig): pass\n"
    (tmp_path / "own.py").write_text(code)
    with pytest.raises(ValueError, match="trust_remote_code=True"):
        la.load(tmp_path)
    assert not ran.exists()


def test_a_kernel_that_does_not_exist():
    with pytest.raises(ValueError, match="nonsense"):
        la.load("tiny-llava", attn_implementation="nonsense")
