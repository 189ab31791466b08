"""Weights that accelerate keeps on the CPU or the disk are fetched, and let go of again."""

from __future__ import annotations

import accelerate
import bounds
import pytest
import tiny
import torch
from torch import nn

import lostattn as la
from lostattn.errors import InputError
from lostattn.weights import linear_map, with_weights
from lostattn.weights.offload import device_of, is_described_only, keeps_weights

LAYERS = "model.language_model.layers"
POINT = "blocks.2.hook_resid_post"
PLACES = (f"{LAYERS}.1.self_attn.o_proj", f"{LAYERS}.2.mlp.down_proj", "lm_head", f"{LAYERS}.2.self_attn.v_proj")


def on_disk(folder, *paths):
    """A model of which these parts lie on the disk."""
    model = tiny.llava(seed=3)
    language = [f"model.language_model.{name}" for name in ("embed_tokens", "norm", "rotary_emb")]
    parts = [
        "model.vision_tower",
        "model.multi_modal_projector",
        *language,
        *(f"{LAYERS}.{i}" for i in range(4)),
        "lm_head",
    ]
    away = {name: "disk" if name.startswith(paths) else "cpu" for name in parts}
    return accelerate.dispatch_model(model, device_map=away, offload_dir=str(folder), main_device="cpu")


def on_the_cpu():
    """A model whose weights are all brought to where it runs for each call."""
    return accelerate.cpu_offload(tiny.llava(seed=3), execution_device=torch.device("cpu"))


def is_away(model, path):
    return all(parameter.is_meta for parameter in model.get_submodule(path).parameters())


@pytest.mark.parametrize("where", ["disk", "cpu"])
def test_a_map_is_fetched_and_let_go_of(where, tmp_path):
    bare = tiny.llava(seed=3)
    model = on_disk(tmp_path, LAYERS, "lm_head") if where == "disk" else on_the_cpu()
    for path in PLACES:
        assert is_away(model, path)
        got = linear_map(model, path)
        assert torch.equal(got.weight, bare.get_submodule(path).weight) and is_away(model, path)


def test_a_hook_that_brings_a_whole_layer_brings_what_is_in_it(tmp_path):
    bare, model = tiny.llava(seed=3), tiny.llava(seed=3)
    layer = model.get_submodule(f"{LAYERS}.1")
    weights = {name: value.clone() for name, value in layer.state_dict().items()}
    hook = accelerate.hooks.AlignDevicesHook(
        execution_device=torch.device("cpu"), offload=True, weights_map=weights, place_submodules=True
    )
    accelerate.hooks.add_hook_to_module(layer, hook)
    assert is_away(model, PLACES[0]) and not keeps_weights(model.get_submodule(PLACES[0]))
    assert torch.equal(linear_map(model, PLACES[0]).weight, bare.get_submodule(PLACES[0]).weight)
    assert is_away(model, PLACES[0])


def test_a_norm_comes_with_its_weights(tmp_path):
    bare, model = tiny.llava(seed=3), on_disk(tmp_path, f"{LAYERS}.1", "model.language_model.norm")
    x = torch.randn(2, 3, 50, generator=torch.Generator().manual_seed(0))
    for path in ("model.language_model.norm", f"{LAYERS}.1.input_layernorm"):
        found = with_weights(model, path)
        assert not any(parameter.is_meta for parameter in found.parameters())
        assert torch.equal(found(x), bare.get_submodule(path)(x)) and is_away(model, path)
    assert with_weights(model, f"{LAYERS}.0") is model.get_submodule(f"{LAYERS}.0")


def test_a_wrapper_around_what_lies_elsewhere(tmp_path):
    bare, model = tiny.llava(seed=3), on_disk(tmp_path, f"{LAYERS}.1")
    path = PLACES[0]
    holder, _, name = path.rpartition(".")
    setattr(model.get_submodule(holder), name, nn.Sequential(model.get_submodule(path), nn.Linear(50, 7, bias=False)))
    last = model.get_submodule(path)[1].weight
    expected = last @ bare.get_submodule(path).weight
    size = last.abs() @ bare.get_submodule(path).weight.abs()
    bounds.close(linear_map(model, path).weight, expected, bounds.sums(50), size=size)


def test_which_models_are_described_only(tmp_path):
    away, described = on_disk(tmp_path, "model.language_model.embed_tokens", LAYERS), tiny.llava().to("meta")
    assert [is_described_only(m) for m in (tiny.llava(), away, on_the_cpu(), described)] == [False, False, False, True]
    assert [device_of(m).type for m in (tiny.llava(), away, on_the_cpu())] == ["cpu"] * 3
    with pytest.raises(InputError, match="the model is described without them: load it with its weights"):
        with_weights(described, "lm_head")


FIRST_ON_DISK = {
    "model.vision_tower": "disk", "model.multi_modal_projector": "cpu", "model.language_model.embed_tokens": "disk",
    "model.language_model.norm": "cpu", "model.language_model.rotary_emb": "cpu", "lm_head": "disk",
    **{f"{LAYERS}.{i}": ("cpu", "disk")[i % 2] for i in range(6)},
}  # fmt: skip


@pytest.fixture(scope="module", params=["from the first part on", "all of it"])
def brought(request, tmp_path_factory):
    """The bundled model with parts on the disk, self-tested at load."""
    places = {"": "disk"} if request.param == "all of it" else FIRST_ON_DISK
    model = la.load("tiny-llava", device_map=places, offload_folder=tmp_path_factory.mktemp("away"))
    assert model.hf.hf_device_map == places and str(model.cfg.device) == "cpu"
    return model


def test_a_loaded_model_gives_what_the_whole_one_gives(brought, tiny_llava, shapes_questions):
    """Bit for bit: the same weights, in the same operations."""
    question, edits = shapes_questions[0], (la.KnockOut("last", "image"), la.NoiseWeights("mlp", layers=1, seed=2))
    assert brought.hook_names == tiny_llava.hook_names
    logits, cache = brought.run_with_cache(brought.prompt(question))
    expected, whole = tiny_llava.run_with_cache(tiny_llava.prompt(question))
    assert torch.equal(logits, expected)
    for name in whole:
        assert torch.equal(cache[name], whole[name]), name
    for edit in edits:
        found, known = (one.run_with_hooks(one.prompt(question), interventions=edit) for one in (brought, tiny_llava))
        assert torch.equal(found, known) and not torch.equal(found, logits)
    for of in (
        lambda cache: cache.W_U,
        lambda cache: cache.get_full_resid_decomposition(),
        lambda cache: cache.logit_lens().logits,
        lambda cache: la.lenses.image_attribution(cache, 17, 31).values,
    ):
        assert torch.equal(of(cache), of(whole))
    slopes = [
        one.run_with_cache(one.prompt(question), POINT, backward=lambda logits: logits[:, -1, 17].sum())[1].grad(POINT)
        for one in (brought, tiny_llava)
    ]
    assert torch.equal(*slopes) and slopes[0].any()
    assert is_away(brought.hf, f"{LAYERS}.1.self_attn.o_proj")


def test_a_generation_from_the_disk(brought, tiny_llava, shapes_questions):
    found, known = (one.generate(one.prompt(shapes_questions[1]), max_new_tokens=3) for one in (brought, tiny_llava))
    assert torch.equal(found.tokens, known.tokens)
    lens, whole = (la.lenses.vision_lens(one, one.prompt(shapes_questions[1])) for one in (brought, tiny_llava))
    assert torch.equal(lens.logits, whole.logits)


def to_the_cpu(module, folder):
    return accelerate.cpu_offload(module, execution_device=torch.device("cpu"))


def to_the_disk(module, folder):
    return accelerate.disk_offload(module, str(folder), execution_device=torch.device("cpu"))


@pytest.mark.parametrize("keep", [to_the_cpu, to_the_disk])
def test_a_model_that_accelerate_was_asked_to_keep_elsewhere_has_no_map_of_devices(keep, tmp_path):
    module = keep(tiny.llava(seed=3), tmp_path)
    model, whole = la.load(module, selftest=False), la.load(tiny.llava(seed=3), selftest=False)
    assert not hasattr(module, "hf_device_map") and is_away(module, "lm_head")
    prompt = model.prompt(inputs=tiny.llava_inputs())
    assert model.selftest(prompt).passed
    logits, cache = model.run_with_cache(prompt)
    expected, known = whole.run_with_cache(whole.prompt(inputs=tiny.llava_inputs()))
    assert torch.equal(logits, expected) and torch.equal(cache["result", 1], known["result", 1])
    assert torch.equal(cache.W_U, known.W_U)
