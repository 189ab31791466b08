"""Checkpoints that are not whole, settings that nothing takes: refused with what is wrong, before or at loading."""

from __future__ import annotations

import json
import os
import shutil

import pytest
import tiny
import torch
from safetensors.torch import load_file, save_file

import lostattn as la
from lostattn.checkpoint.no_processor import PlainTokenizer
from lostattn.checkpoint.text_processor import TextProcessor
from lostattn.errors import InputError, UnknownArgument, UnknownName, UnsupportedModel


@pytest.fixture(scope="module")
def stored(tmp_path_factory):
    """A tiny LLaVA in a folder, without a processor."""
    folder = tmp_path_factory.mktemp("stored")
    tiny.llava().save_pretrained(folder)
    return folder


@pytest.fixture
def folder(stored, tmp_path):
    return shutil.copytree(stored, tmp_path / "model")


def load(folder, **settings):
    """The model, with what looks like a processor: nothing is processed here."""
    return la.load(folder, processor=TextProcessor(PlainTokenizer()), selftest=False, **settings)


def changed_weights(folder, change):
    path = folder / "model.safetensors"
    weights = load_file(path)
    change(weights)
    save_file(weights, path, metadata={"format": "pt"})


def changed_config(folder, **fields):
    path = folder / "config.json"
    config = json.loads(path.read_text())
    config.update(fields)
    path.write_text(json.dumps({k: v for k, v in config.items() if v is not None}))


def test_a_weight_that_is_missing_is_not_made_up(folder):
    missing = next(name for name in load_file(folder / "model.safetensors") if "layers.2.mlp.up_proj" in name)
    changed_weights(folder, lambda weights: weights.pop(missing))
    with pytest.raises(InputError, match=r"lacks weights, .* random numbers: .*layers.2.mlp.up_proj.* strict=False"):
        load(folder)
    assert load(folder, strict=False).cfg.n_layers == 4


def test_a_weight_without_a_place_is_named(folder):
    changed_weights(folder, lambda weights: weights.update({"model.adapter.weight": torch.ones(2, 3)}))
    with pytest.raises(InputError, match="no place for: model.adapter.weight"):
        load(folder)
    load(folder, strict=False)


def test_a_weight_of_another_shape_is_refused(folder):
    name = next(name for name in load_file(folder / "model.safetensors") if "layers.2.mlp.up_proj" in name)
    changed_weights(folder, lambda weights: weights.update({name: torch.ones(2, 3)}))
    with pytest.raises(InputError, match="cannot be loaded|of another shape"):
        load(folder)


def test_weights_that_end_too_early(folder):
    path = folder / "model.safetensors"
    os.truncate(path, path.stat().st_size // 2)
    with pytest.raises(InputError, match=r"the weights of 'model' cannot be loaded: .* Are its files whole"):
        load(folder)


def test_a_folder_without_weights(folder):
    (folder / "model.safetensors").unlink()
    with pytest.raises(InputError, match="the weights of 'model' cannot be loaded"):
        load(folder)


@pytest.mark.parametrize(
    ("fields", "error", "said"),
    [
        ({"model_type": None}, UnsupportedModel, "says no model_type"),
        ({"model_type": 7}, UnsupportedModel, "says no model_type"),
        ({"model_type": "lava"}, UnsupportedModel, "is a 'lava' model, which .* Did you mean 'llava'"),
        ({"text_config": "none"}, InputError, "the config of 'model' cannot be read"),
    ],
)
def test_configs_that_say_no_model(folder, fields, error, said):
    changed_config(folder, **fields)
    with pytest.raises(error, match=said):
        load(folder)


@pytest.mark.parametrize("text", ["", "[]", "[" * 100_000, "\x00"])
def test_configs_that_are_no_json(folder, text):
    (folder / "config.json").write_text(text)
    with pytest.raises((InputError, UnsupportedModel), match=r"config.json"):
        load(folder)


def test_names_that_no_file_system_holds(folder):
    for name in ("n" * 5000, "a\0b", "a/" + "n" * 300):
        with pytest.raises(InputError, match="expected the name of a bundled model"):
            load(name)
    with pytest.raises(InputError, match="is a file; expected a Hugging Face id, or the folder"):
        load(folder / "config.json")
    with pytest.raises(UnknownName, match="no model is called"):
        load(folder / "not-here")


@pytest.mark.parametrize(
    ("settings", "error", "said"),
    [
        ({"dtpye": torch.float64}, UnknownArgument, "takes no argument 'dtpye'.*Did you mean 'dtype'"),
        ({"trust_remote_cod": True}, UnknownArgument, "Did you mean 'trust_remote_code'"),
        ({"quantisation_config": {}}, UnknownArgument, "Did you mean 'quantization_config'"),
        ({"nonsense": 1}, UnknownArgument, "takes no argument 'nonsense'"),
        ({"output_loading_info": True}, InputError, "gives back the model alone"),
        ({"device_map": "cuda:99"}, InputError, "device_map is 'cuda:99'; expected .* device of this machine"),
        ({"device_map": "atuo"}, InputError, "device_map is 'atuo'; expected 'auto'"),
        ({"device_map": "meta"}, InputError, "device_map is 'meta'"),
        ({"device_map": {"": "nowhere"}}, InputError, "device_map is 'nowhere'"),
        ({"device_map": 3.5}, InputError, "device_map is 3.5"),
        ({"dtype": "float33"}, InputError, "dtype is 'float33'"),
        ({"dtype": torch.int64}, InputError, "expected a floating-point torch dtype"),
        ({"attn_implementation": "sdap"}, InputError, "Did you mean 'sdpa'"),
        ({"revision": 3}, InputError, "revision is 3; expected a str"),
        ({"selftest": "no"}, InputError, "selftest is 'no'; expected 'always'"),
    ],
)
def test_settings_that_nothing_takes(stored, settings, error, said):
    with pytest.raises(error, match=said):
        la.load(stored, **{"selftest": False, **settings})


@pytest.mark.parametrize("processor", ["tiny-llava", 3, object(), dict, {"tokenizer": 1}, lambda text: text])
def test_a_processor_that_is_none(stored, processor):
    with pytest.raises(InputError, match="processor is .*; expected a processor that holds a tokenizer"):
        la.load(stored, processor=processor, selftest=False)
