"""The paper's controls: noise in place of an update, and noise in place of weights."""

from __future__ import annotations

import copy
import math

import bounds
import edit_reference as reference
import pytest
import torch

import lostattn as la
from lostattn.plan.setting import stable_seed

UPDATES = ["attn", "mlp"]
WEIGHTS = {
    "qkv": ("self_attn.q_proj", "self_attn.k_proj", "self_attn.v_proj"),
    "mlp": ("mlp.gate_proj", "mlp.up_proj", "mlp.down_proj"),
}
POINTS = {
    "qkv": ("attn.hook_q", "attn.hook_k", "attn.hook_v"),
    "mlp": ("mlp.hook_pre", "mlp.hook_pre_linear", "hook_mlp_out"),
}


@pytest.mark.parametrize("what", UPDATES)
def test_an_update_becomes_noise_of_its_own_moments(pair, what):
    edit = la.NoiseUpdate(what, layers=2, seed=1)
    point = f"blocks.2.hook_{what}_out"
    _, plain = pair.model.run_with_cache(pair.batch, point)
    _, edited = pair.model.run_with_cache(pair.batch, point, edit)
    real = pair.batch.token_map["all"]
    for b in range(len(pair.batch)):
        old, new = plain[point][b, real[b]].double(), edited[point][b, real[b]].double()
        spread = float(old.std(correction=0))
        assert abs(float(new.mean() - old.mean())) < 4.5 * spread / math.sqrt(new.numel())
        assert abs(float(new.std(correction=0)) / spread - 1) < 4.5 / math.sqrt(2 * new.numel())
        correlation = torch.corrcoef(torch.stack([old.flatten(), new.flatten()]))[0, 1]
        assert abs(float(correlation)) < 4.5 / math.sqrt(new.numel())
    assert torch.equal(plain[point][~real], edited[point][~real])


def test_a_deviation_of_ones_own(pair):
    edit = la.NoiseUpdate("attn", layers=2, std=0.5, seed=1)
    _, cache = pair.model.run_with_cache(pair.prompt, interventions=edit)
    delta = cache.delta("attn", 2).double()
    assert abs(float(delta.std()) / 0.5 - 1) < 4.5 / math.sqrt(2 * delta.numel())
    zero = pair.model.run_with_hooks(pair.prompt, interventions=la.NoiseUpdate("attn", layers=2, std=0))
    assert torch.equal(zero, pair.model.run_with_hooks(pair.prompt, interventions=la.Ablate("attn", layers=2)))


def test_noise_at_some_positions_only(pair):
    point = "blocks.2.hook_mlp_out"
    _, plain = pair.model.run_with_cache(pair.batch, point)
    _, edited = pair.model.run_with_cache(pair.batch, point, la.NoiseUpdate("mlp", layers=2, positions="image"))
    image = pair.batch.token_map["image"]
    assert torch.equal(plain[point][~image], edited[point][~image])
    assert (plain[point][image] != edited[point][image]).any(-1).all()


def test_layers_updates_and_seeds_draw_apart(pair):
    points = ["blocks.2.hook_attn_out", "blocks.3.hook_attn_out", "blocks.2.hook_mlp_out"]
    both = la.NoiseUpdate("attn", layers=[2, 3], std=1) + la.NoiseUpdate("mlp", layers=2, std=1)
    _, cache = pair.model.run_with_cache(pair.prompt, points, both)
    _, other = pair.model.run_with_cache(pair.prompt, points, both.with_seed(1))
    drawn = [c[p].flatten() for c in (cache, other) for p in points]
    correlation = torch.corrcoef(torch.stack(drawn).double())
    assert (correlation - torch.eye(6)).abs().max() < 5 / math.sqrt(drawn[0].numel())


def noisy_copy(hf, what: str, layers: list[int], seed: int):
    """A bare model with those weights replaced by hand, by the draw that the intervention documents."""
    noisy = copy.deepcopy(hf)
    for i in layers:
        block = noisy.model.language_model.layers[i]
        for path, point in zip(WEIGHTS[what], POINTS[what], strict=True):
            weight = block.get_submodule(path).weight
            generator = torch.Generator().manual_seed(stable_seed(seed, "weights", point, i))
            noise = torch.randn(weight.shape, generator=generator)
            weight.data = noise * weight.data.std(correction=0) + weight.data.mean()
    return noisy


@pytest.mark.parametrize("what", ["qkv", "mlp"])
@pytest.mark.parametrize("layers", [[3], list(range(6))], ids=["one", "all"])
def test_weights_are_those_of_a_copy_with_noise_in_it(pair, what, layers):
    before = {name: p.clone() for name, p in pair.model.hf.named_parameters()}
    edit = la.NoiseWeights(what, layers=layers, seed=4)
    noisy = noisy_copy(pair.hf, what, layers, 4)
    got = pair.model.run_with_hooks(pair.batch, interventions=edit)
    real = pair.batch.token_map["all"]
    share = bounds.passes(noisy, pair.batch.inputs)  # its own weights: noise is harder on the last bits
    bounds.close(got[real], reference.logits(noisy, pair.batch)[real], share)
    assert bounds.moved(got[real], pair.model(pair.batch)[real], share, times=100)
    tokens, want = reference.loop(noisy, pair.prompt, 3)
    bounds.close(reference.generated(pair.model, pair.prompt, edit, tokens), want, share)
    after = dict(pair.model.hf.named_parameters())
    assert before.keys() == after.keys()
    assert all(torch.equal(before[name], after[name]) for name in before)


def test_biases_stay(qwen):
    block = qwen.hf.model.language_model.layers[1].self_attn
    assert block.q_proj.bias is not None
    _, cache = qwen.model.run_with_cache(qwen.prompt, interventions=la.NoiseWeights("qkv", layers=1, seed=2))
    noisy = noisy_copy(qwen.hf, "qkv", [1], 2).model.language_model.layers[1].self_attn.q_proj
    normed = cache["blocks.1.ln1.hook_out"]
    size = normed.abs() @ noisy.weight.detach().abs().T + noisy.bias.detach().abs()
    with torch.no_grad():
        bounds.close(cache["q", 1].flatten(-2), noisy(normed), bounds.sums(normed.shape[-1]), size=size)
        without = torch.nn.functional.linear(normed, noisy.weight)
    assert (cache["q", 1].flatten(-2) - without).abs().max() > block.q_proj.bias.abs().max() / 2
    assert block.q_proj.bias.abs().max() > 10 * bounds.sums(normed.shape[-1]) * size.max()
