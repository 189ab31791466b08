"""Gradients at hook points against bare autograd and central differences, in double precision."""

from __future__ import annotations

import functools
from pathlib import Path

import bounds
import pytest
import torch
from tiny import FAMILIES, INPUTS, MAKERS, batched, rounding, unequal

from lostattn import Ablate, ActivationCache, KnockOut, load
from lostattn.errors import InputError, UnknownName
from lostattn.gradients import gradients

POINTS = (
    "blocks.0.hook_resid_pre",
    "blocks.1.hook_resid_mid",
    "blocks.1.hook_mlp_out",
    "blocks.1.attn.hook_q",
    "blocks.1.attn.hook_v",
    "blocks.1.attn.hook_z",
    "blocks.1.attn.hook_rot_k",
    "blocks.1.attn.hook_pattern",
    "blocks.2.attn.hook_attn_scores",
    "vision_projector.hook_out",
)


STEP = 2e-2  # the models' own norms work in single precision, which drowns a much smaller one


@functools.cache
def double(family: str):
    return load(MAKERS[family](dtype=torch.float64), selftest=False)


def run(family: str):
    model = double(family)
    return model, model.prompt(inputs=INPUTS[family]())


def metric(logits: torch.Tensor) -> torch.Tensor:
    return logits[:, -1, 17] - 0.5 * logits[:, -2, 40] ** 2


def noise(family: str) -> float:
    """How far off the metric may be: the models' own norms work in single precision."""
    model, prompt = run(family)
    return rounding(family) / bounds.EDITED * float(model(prompt).abs().max())


@pytest.mark.parametrize("family", FAMILIES)
def test_gradients_are_slopes(family: str) -> None:
    model, prompt = run(family)
    found = gradients(model, prompt, metric, POINTS)
    share, logits = rounding(family), model(prompt)
    bounds.close(found.value, metric(logits).item(), share, size=logits)
    generator = torch.Generator().manual_seed(0)
    for name in POINTS:
        value, slope = found.cache[name], found[name]
        assert slope.shape == value.shape
        random = torch.randn(value.shape, generator=generator, dtype=torch.float64)
        way = slope / slope.norm() + random / random.norm()

        def moved(step, name=name, way=way):
            return float(metric(model.run_with_hooks(prompt, [(name, lambda x, hook: x + step * way)])))

        expected, off = bounds.slope(moved, STEP, noise(family))
        assert abs(expected) > 100 * off, name
        assert float((slope * way).sum()) == pytest.approx(expected, rel=0, abs=off), name


@pytest.mark.parametrize("family", FAMILIES)
def test_gradients_under_an_intervention_are_those_of_the_edited_pass(family: str) -> None:
    model, prompt = run(family)
    edit = Ablate("mlp", layers=[1])
    found = gradients(model, prompt, metric, "blocks.1.hook_mlp_out", edit)
    assert (found.cache["mlp_out", 1] == 0).all()
    logits = model.run_with_hooks(prompt, interventions=edit)
    bounds.close(found.value, metric(logits).item(), rounding(family), size=logits)
    slope = found["mlp_out", 1]
    way = slope / slope.norm()

    def moved(step):
        hook = [("blocks.1.hook_mlp_out", lambda x, hook: x + step * way)]
        return float(metric(model.run_with_hooks(prompt, hook, edit)))

    expected, off = bounds.slope(moved, STEP, noise(family))
    assert abs(expected) > 100 * off
    assert float(slope.norm()) == pytest.approx(expected, rel=0, abs=off)


def autograd(family: str, inputs: dict[str, torch.Tensor]) -> tuple[dict[str, torch.Tensor], torch.Tensor]:
    """Gradients at modules of the bare Hugging Face model, by hooks that retain them; and the metric."""
    hf = MAKERS[family](dtype=torch.float64)
    decoder, seen = hf.model.language_model.layers, {}

    def keep(name):
        def hook(module, args, kwargs, output=None):
            value = output if output is not None else args[0] if args else kwargs["hidden_states"]
            seen[name] = value[0] if isinstance(value, tuple) else value
            seen[name].retain_grad()

        return hook

    for i in (0, 2):
        block = decoder[i]
        block.register_forward_pre_hook(keep(f"blocks.{i}.hook_resid_pre"), with_kwargs=True)
        block.self_attn.register_forward_hook(keep(f"blocks.{i}.hook_attn_out"), with_kwargs=True)
        for part in "qkv":
            linear = getattr(block.self_attn, f"{part}_proj")
            linear.register_forward_hook(keep(f"blocks.{i}.attn.hook_{part}"), with_kwargs=True)
        block.self_attn.o_proj.register_forward_pre_hook(keep(f"blocks.{i}.attn.hook_z"), with_kwargs=True)
        block.post_attention_layernorm.register_forward_pre_hook(keep(f"blocks.{i}.hook_resid_mid"), with_kwargs=True)
        block.mlp.down_proj.register_forward_pre_hook(keep(f"blocks.{i}.mlp.hook_post"), with_kwargs=True)
        block.mlp.register_forward_hook(keep(f"blocks.{i}.hook_mlp_out"), with_kwargs=True)
        block.register_forward_hook(keep(f"blocks.{i}.hook_resid_post"), with_kwargs=True)
    projector = hf.model.multi_modal_projector if family == "llava" else hf.model.visual.merger
    projector.register_forward_hook(keep("vision_projector.hook_out"), with_kwargs=True)
    moved = {n: v.double() if v.is_floating_point() else v for n, v in inputs.items()}
    number = metric(hf(**moved, use_cache=False).logits)
    number.sum().backward()
    return {name: value.grad for name, value in seen.items()}, number.detach()


@pytest.mark.parametrize("family", FAMILIES)
def test_gradients_in_the_call_that_keeps_values_are_those_of_bare_autograd(family: str) -> None:
    model, prompt = run(family)
    expected, number = autograd(family, INPUTS[family]())
    squares = [f"blocks.{i}.attn.hook_{what}" for i in (0, 2) for what in ("pattern", "attn_scores")]
    _, all_of_it = model.run_with_cache(prompt, backward=metric)
    logits, cache = model.run_with_cache(prompt, [*expected, *squares], backward=metric)
    share = 2 * rounding(family)  # there and back again
    bounds.close(cache.meta["backward"], number.item(), share, size=logits)
    assert torch.equal(logits, model(prompt))
    assert len(expected) == 21
    for name, slope in expected.items():
        found = cache[f"{name}_grad"]
        assert found.shape == cache[name].shape and found.abs().max() > 0, name
        bounds.close(found.reshape(slope.shape), slope, share, of=name)
        bounds.close(all_of_it.grad(name), found, share, of=name)
    for i in (0, 2):
        # Patterns by hand: what z is worth, times what the keys hold; scores by the softmax's own derivative.
        v = cache["v", i].repeat_interleave(model.cfg.n_heads // model.cfg.n_key_value_heads, 2)
        slope = torch.einsum("bqhd,bkhd->bhqk", cache.grad("z", i), v)
        causal = torch.ones(slope.shape[2:], dtype=torch.bool).tril()
        # Here nothing is in single precision: sums over a head's values, then over the keys.
        double = bounds.sums(max(model.cfg.d_head, prompt.n_pos), torch.float64)
        size = torch.einsum("bqhd,bkhd->bhqk", cache.grad("z", i).abs(), v.abs())
        bounds.close(cache["pattern_grad", i][..., causal], slope[..., causal], double, size=size)
        pattern = cache["pattern", i]
        of_scores = pattern * (slope - (pattern * slope).sum(-1, keepdim=True))
        bounds.close(cache["attn_scores_grad", i][..., causal], of_scores[..., causal], 3 * double, size=size)
    assert all(weight.grad is None for weight in model.hf.parameters())


@pytest.mark.parametrize("family", FAMILIES)
def test_patterns_of_the_tower_have_gradients_too(family: str) -> None:
    """What z is worth, times what the keys hold; also where a tower's attention is called window by window."""
    model, prompt = run(family)
    at = f"{model.architecture.vision.stack.prefix}.0.attn.hook_"
    _, cache = model.run_with_cache(prompt, [f"{at}pattern", f"{at}z", f"{at}v"], backward=metric)
    z, v = (x if x.dim() == 4 else x[None] for x in (cache.grad(f"{at}z"), cache[f"{at}v"]))
    seen = cache[f"{at}pattern"] > 0
    expected = torch.einsum("bqhd,bkhd->bhqk", z, v)
    assert expected[seen].abs().max() > 0 and seen.all() == (family == "llava")
    size = torch.einsum("bqhd,bkhd->bhqk", z.abs(), v.abs())
    share = bounds.sums(v.shape[-1], torch.float64)
    bounds.close(cache.grad(f"{at}pattern")[seen], expected[seen], share, size=size)


@pytest.mark.parametrize("family", FAMILIES)
def test_a_cache_knows_which_gradients_it_has(family: str, tmp_path: Path) -> None:
    model = double(family)
    prompt = model.prompt(inputs=batched(family, unequal(family)))
    cut = KnockOut("last", "image", layers=1)
    _, cache = model.run_with_cache(prompt, interventions=cut, backward=lambda x: x[:, -1, 17])
    # Everything that can be edited but patterns and scores, unless they are asked for.
    assert {"blocks.1.attn.hook_rot_q", "vision_projector.hook_in", "hook_unembed"} <= set(cache.grad_names)
    assert not any(name.endswith(("pattern", "attn_scores", "scale", "result")) for name in cache.grad_names)
    assert ("z_grad", 1) in cache and ("pattern_grad", 1) not in cache and "z1" in cache
    unembed = torch.zeros_like(cache["hook_unembed"])
    unembed[:, -1, 17] = 1
    assert torch.equal(cache.grad("unembed"), unembed)
    for item in range(3):  # items do not depend on each other; their padding goes with their mates
        alone, part = prompt[item], cache.apply_slice_to_batch_dim(item)
        _, own = model.run_with_cache(alone, "z1", cut, backward=lambda x: x[:, -1, 17])
        bounds.close(part.grad("z", 1), own.remove_batch_dim()["z_grad", 1], 2 * rounding(family))
    assert cache.to(dtype=torch.float32).grad("z", 1).dtype == torch.float32
    back = ActivationCache.load(cache.save(tmp_path / "run"), model)
    assert list(back) == list(cache) and back.grad_names == cache.grad_names
    assert torch.equal(back["q_grad", 0], cache["q_grad", 0])
    theirs = cache.to_transformer_lens()
    assert torch.equal(theirs["blocks.1.attn.hook_z_grad"], cache.grad("z", 1))
    with pytest.raises(UnknownName, match="the gradient of 'blocks.1.attn.hook_pattern' was not asked for"):
        cache["pattern_grad", 1]
    with pytest.raises(UnknownName, match="'blocks.1.attn.hook_result' has no gradient: .*can be read but not edited"):
        cache.grad("result", 1)
    with pytest.raises(UnknownName, match="the pass ran forward alone. Run it with backward=metric"):
        model.run_with_cache(prompt, "z1")[1].grad("z", 1)


def test_a_prompt_without_a_picture_and_a_filter() -> None:
    from tiny import text_inputs

    model = double("llava")
    prompt = model.prompt(inputs=text_inputs("llava"))
    _, cache = model.run_with_cache(prompt, lambda name: "hook_pattern" in name or "hook_z" in name, backward=metric)
    assert len(cache.grad_names) == 2 * model.cfg.n_layers and cache.grad("pattern", 2).abs().max() > 0


def test_nothing_is_left_on_the_weights() -> None:
    model, prompt = run("llava")
    found = gradients(model, prompt, metric, "blocks.1.hook_resid_pre")
    assert all(weight.grad is None for weight in model.hf.parameters())
    assert not found.logits.requires_grad and not found["resid_pre", 1].requires_grad
    assert torch.equal(found.logits, model(prompt))


def test_what_has_no_gradient_is_refused() -> None:
    model, prompt = run("llava")
    with pytest.raises(InputError, match="does not depend on the logits by anything that has a gradient"):
        gradients(model, prompt, lambda logits: logits.argmax(-1).double(), "blocks.1.hook_resid_pre")
    with pytest.raises(InputError, match="can be read but not edited"):
        gradients(model, prompt, metric, "blocks.1.ln1.hook_scale")
    with pytest.raises(InputError, match="no gradient of 'blocks.2.attn.hook_z' was asked for"):
        gradients(model, prompt, metric, "blocks.1.attn.hook_z")["z", 2]
    with pytest.raises(InputError, match="the metric gave float; expected a tensor"):
        model.run_with_cache(prompt, "blocks.1.attn.hook_z", backward=lambda logits: 1.0)
    with pytest.raises(InputError, match="'blocks.1.ln1.hook_scale' can be read but not edited"):
        model.run_with_cache(prompt, ["result1", "blocks.1.ln1.hook_scale"], backward=metric)
