"""A model that is no longer the one that was proved is named at the next call; threads wait for each other."""

from __future__ import annotations

import asyncio
import copy
import pickle
import threading

import pytest
import torch

import lostattn as la
from lostattn.errors import ChangedModel, InputError

EDIT = la.KnockOut("last", "image", layers=[1]) + la.Ablate("mlp", layers=[3])
POINT = "blocks.2.hook_resid_post"


@pytest.fixture
def model():
    """A model of one's own, to be spoiled."""
    return la.load("tiny-llava", selftest=False)


@pytest.fixture
def prompt(model):
    return model.prompt(la.data.load("shapes", split="test", n=1, seed=7)[0])


def layer_of(model, i: int):
    return model.hf.model.language_model.layers[i]


class Doubled(torch.nn.Module):
    """A layer around another one."""

    def __init__(self, inner):
        super().__init__()
        self.inner = inner

    def forward(self, *arguments, **keywords):
        return self.inner(*arguments, **keywords)


def replace_layer(model):
    model.hf.model.language_model.layers[2] = Doubled(layer_of(model, 2))


def drop_layer(model):
    del model.hf.model.language_model.layers[5]


def wrap_map(model):
    layer_of(model, 1).self_attn.o_proj = Doubled(layer_of(model, 1).self_attn.o_proj)


def parametrise(model):
    torch.nn.utils.parametrize.register_parametrization(layer_of(model, 0).mlp.down_proj, "weight", torch.nn.Identity())


def patch_forward(model):
    layer_of(model, 4).mlp.forward = lambda x: x


def compile_layer(model):
    layer_of(model, 3)._compiled_call_impl = lambda *given, **named: given


def swap_class(model):
    mlp = layer_of(model, 4).mlp
    mlp.__class__ = type("Other", (type(mlp),), {})


def train(model):
    layer_of(model, 0).self_attn.attention_dropout = 0.125
    model.record = type(model.record)(model.hf)
    model.hf.train()


CHANGES = {
    "replaced": (replace_layer, r"layers\.2' is Doubled and was LlamaDecoderLayer"),
    "gone": (drop_layer, r"layers\.5' is nothing and was LlamaDecoderLayer"),
    "wrapped": (wrap_map, r"o_proj' is Doubled and was Linear"),
    "parametrised": (parametrise, r"down_proj\.parametrizations' is ModuleDict and was nothing"),
    "class": (swap_class, r"layers\.4\.mlp' is Other and no longer LlamaMLP"),
    "forward": (patch_forward, r"forward of 'model\.language_model\.layers\.4\.mlp'"),
    "compiled": (compile_layer, r"layers\.3' in 'tiny-llava' was compiled"),
    "training": (train, r"layers\.0\.self_attn' drops values at random"),
}


@pytest.mark.parametrize("how", CHANGES)
def test_a_change_of_the_modules_is_named_at_the_next_call(model, prompt, how):
    change, says = CHANGES[how]
    model.run_with_cache(prompt, [POINT])
    change(model)
    for call in (
        lambda: model.run_with_cache(prompt, [POINT], EDIT),
        lambda: model.run_with_hooks(prompt),
        lambda: model.generate(prompt, EDIT, max_new_tokens=2),
        lambda: model.generate(prompt, max_new_tokens=2),
        lambda: la.gradients.gradients(model, prompt, lambda logits: logits[:, -1, 5], [POINT]),
        lambda: model.trace(prompt),
    ):
        with pytest.raises(ChangedModel, match=says):
            call()


def test_a_class_that_was_patched_is_named(model, prompt, monkeypatch):
    monkeypatch.setattr(type(layer_of(model, 0).mlp), "forward", lambda self, x: 0 * x)
    with pytest.raises(ChangedModel, match="forward of the class LlamaMLP is another one"):
        model.run_with_cache(prompt, [POINT])


def test_training_without_anything_that_drops_is_let_pass(model, prompt):
    before, _ = model.run_with_cache(prompt, [POINT])
    model.hf.train()
    after, _ = model.run_with_cache(prompt, [POINT])
    assert torch.equal(after, before)


def test_loaded_again_a_changed_model_is_proved_as_it_is(model, prompt):
    drop_layer(model)
    again = la.load(model.hf, processor=model.processor)
    assert again.cfg.n_layers == 5
    with torch.no_grad():
        bare = model.hf(**again._inputs(prompt), use_cache=False).logits
    assert torch.equal(again(prompt), bare)


def test_a_hook_of_ones_own_may_look(model, prompt):
    seen = []
    before, _ = model.run_with_cache(prompt, [POINT], EDIT)
    handle = layer_of(model, 2).register_forward_hook(lambda module, given, out: seen.append(out))
    after, cache = model.run_with_cache(prompt, [POINT], EDIT)
    assert torch.equal(after, before) and len(seen) == 1
    looked = seen[0] if isinstance(seen[0], torch.Tensor) else seen[0][0]
    assert torch.equal(looked, cache[POINT])
    handle.remove()
    assert torch.equal(model.run_with_cache(prompt, [POINT], EDIT)[0], before)


@pytest.mark.parametrize("in_place", [False, True], ids=("returned", "in place"))
def test_a_hook_that_changes_what_a_module_gives_is_named(model, prompt, in_place):
    def silenced(module, given, out):
        return torch.zeros_like(out if isinstance(out, torch.Tensor) else out[0])

    def zeroed(module, given, out):
        (out if isinstance(out, torch.Tensor) else out[0]).zero_()

    before = model(prompt)
    handle = layer_of(model, 2).register_forward_hook(zeroed if in_place else silenced)
    with pytest.raises(Exception, match="a torch hook of your own .* changes what .*layers.2"):
        model.run_with_cache(prompt, [POINT])
    handle.remove()
    assert torch.equal(model(prompt), before)  # and the model is well afterwards


@pytest.mark.parametrize("writes", [False, True], ids=("looks", "writes"))
def test_in_inference_mode_a_hook_may_look_and_not_write(model, prompt, writes):
    """Tensors that are made there count no versions."""

    def hook(module, given, out):
        if writes:
            (out if isinstance(out, torch.Tensor) else out[0])[..., -1] += 1.0

    before = model(prompt)
    handle = layer_of(model, 2).register_forward_hook(hook)
    with torch.inference_mode():
        if writes:
            with pytest.raises(Exception, match="a torch hook of your own .* changes what .*layers.2"):
                model.run_with_cache(prompt, [POINT])
        else:
            assert torch.equal(model.run_with_cache(prompt, [POINT])[0], before)
    handle.remove()
    assert torch.equal(model(prompt), before)


@pytest.mark.parametrize("writes", [False, True], ids=("looks", "writes"))
def test_a_hook_on_every_module_at_once_may_look_and_not_write(model, prompt, writes):
    layer, seen = layer_of(model, 2), []

    def hook(module, given, out):
        seen.append(module)
        return out * 0 if writes and module is layer else None

    before = model(prompt)
    handle = torch.nn.modules.module.register_module_forward_hook(hook)
    try:
        if writes:
            with pytest.raises(Exception, match="a torch hook of your own .* changes what 'every module'"):
                model.run_with_cache(prompt, [POINT])
        else:
            assert torch.equal(model.run_with_cache(prompt, [POINT])[0], before)
    finally:
        handle.remove()
    assert layer in seen and torch.equal(model(prompt), before)


def test_what_a_hook_before_a_module_changes_is_in_the_cache(model, prompt):
    shift = torch.linspace(-1, 1, model.cfg.d_model)
    handle = layer_of(model, 2).register_forward_pre_hook(lambda module, given: (given[0] + shift, *given[1:]))
    logits, cache = model.run_with_cache(prompt, ["blocks.1.hook_resid_post", "blocks.2.hook_resid_pre"])
    assert torch.equal(cache["resid_pre", 2], cache["resid_post", 1] + shift)
    with torch.no_grad():
        assert torch.equal(logits, model.hf(**model._inputs(prompt), use_cache=False).logits)
    handle.remove()


def test_copying_and_pickling_name_the_way(model, prompt):
    _, cache = model.run_with_cache(prompt, [POINT])
    with pytest.raises(InputError, match=r"la\.load"):
        copy.deepcopy(model)
    with pytest.raises(InputError, match=r"la\.load.*cache\.save"):
        pickle.dumps(model)
    with pytest.raises(InputError, match=r"cache\.save"):
        pickle.dumps(cache)


def test_a_model_that_was_compiled_is_refused_at_load(model):
    with pytest.raises(InputError, match=r"torch\.compile.*_orig_mod"):
        la.load(torch.compile(model.hf, backend="eager"), processor=model.processor)


def test_noise_does_not_follow_the_default_dtype(model, prompt):
    edits = la.ReplaceAttention(la.Gaussian(seed=3), layers=[1]) + la.NoiseUpdate("mlp", layers=[2], seed=4)
    expected = model.run_with_cache(prompt, [POINT], edits)[0]
    torch.set_default_dtype(torch.float64)
    try:
        found = model.run_with_cache(prompt, [POINT], edits)[0]
    finally:
        torch.set_default_dtype(torch.float32)
    assert torch.equal(found, expected)


def test_a_cache_is_not_taken_for_that_of_other_weights(model, prompt, tmp_path):
    model.run_with_cache(prompt, [POINT])[1].save(tmp_path / "cache.safetensors")
    assert la.ActivationCache.load(tmp_path / "cache.safetensors", model).prompt is not None
    with torch.no_grad():
        layer_of(model, 3).mlp.down_proj.weight[-1, -1] += 1.0  # one value, far from the first
    with pytest.raises(InputError, match="weights"):
        la.ActivationCache.load(tmp_path / "cache.safetensors", model)


def test_threads_and_tasks_wait_for_each_other(model, prompt):
    """Four at once on one model: none is raised, all are those of the serial run to the bit."""
    expected = model.run_with_cache(prompt, [POINT], EDIT)
    said = model.generate(prompt, EDIT, max_new_tokens=3).sequences
    _, untouched = model.run_with_cache(prompt, [POINT])

    def passes(out: list) -> None:
        for _ in range(6):
            logits, cache = model.run_with_cache(prompt, [POINT], EDIT)
            out.append(torch.equal(logits, expected[0]) and torch.equal(cache[POINT], expected[1][POINT]))
            out.append(torch.equal(model.generate(prompt, EDIT, max_new_tokens=3).sequences, said))
            with model.trace(prompt):  # a context of one's own waits too
                traced = model.point(POINT).value.save()
            out.append(torch.equal(traced, untouched[POINT]))

    found: list[bool] = []
    threads = [threading.Thread(target=passes, args=(found,)) for _ in range(2)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()

    async def tasks() -> None:
        await asyncio.gather(asyncio.to_thread(passes, found), asyncio.to_thread(passes, found))

    asyncio.run(tasks())
    assert len(found) == 72 and all(found)
