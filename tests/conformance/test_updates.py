"""What is added to the stream, in families that add it in different ways, against plain hooks on the bare model."""

from __future__ import annotations

import functools
from typing import Any

import bounds
import pytest
import torch

import lostattn as la
from lostattn.conformance.inputs import picture_inputs, prompt_of
from lostattn.conformance.models import build
from lostattn.errors import InputError, UnknownName
from lostattn.gradients import gradients

pytestmark = pytest.mark.slow

BOTH = ["0_attn_out", "0_mlp_out"]
LABELS = {
    "qwen3_vl": [*BOTH, "0_between", "1_attn_out", "1_mlp_out"],  # deepstack, after a layer
    "granite4_vision": [*BOTH, "0_between", "1_attn_out", "1_mlp_out"],  # deepstack, before a layer
    "idefics": [*BOTH, "0_between", "1_attn_out", "1_mlp_out"],  # cross-attention layers in a list of their own
    "cohere_compass": [*BOTH, "0_between", "1_attn_out", "1_mlp_out"],  # parallel blocks, and deepstack
    "aya_vision": [*BOTH, "1_attn_out", "1_mlp_out"],  # parallel blocks
    "blip-2": [*BOTH, "1_attn_out", "1_mlp_out"],  # the stream is flattened between the updates
    "gemma3": [*BOTH, "1_attn_out", "1_mlp_out"],  # norms after the modules
    "nemotron_h_omni": ["0_layer_out", "1_layer_out", "2_attn_out", "3_layer_out"],  # one module a layer
    "inkling2": ["0_layer_out", "1_layer_out", "1_between"],  # something is added after the last layer
    "glm5_next": ["0_layer_out", "1_layer_out", "2_layer_out"],  # four lanes
}


SINGLE = (
    "nemotron_h_omni",
    "inkling2",
    "glm5_next",
    "muse_spark",
)  # parts of them compute in float32 whatever they are given


def made(family: str):
    """The same bare model whenever it is asked for."""
    return build(family) if family in SINGLE else build(family).double()


@functools.cache
def run(family: str):
    """``(model, prompt, cache)``, in float64 where the family computes in it."""
    module = made(family)
    inputs, _ = picture_inputs(build(family), family)
    model = la.load(module, selftest=False)
    prompt = prompt_of(model, inputs)
    model.selftest(prompt)
    return model, prompt, model.run_with_cache(prompt)[1]


@functools.cache
def bare(family: str):
    """By module path, what it is given first and what it gives first, as plain hooks on a bare model see it."""
    model, prompt, _ = run(family)
    alone = made(family)
    given, left = {}, {}

    def first(values):
        """The first tensor of what a module is given or gives."""
        if isinstance(values, torch.Tensor):
            return values.clone()
        parts = values.values() if isinstance(values, dict) else values if isinstance(values, tuple | list) else ()
        return next((found for part in parts if (found := first(part)) is not None), None)

    def hook(path):
        def before(module, args, kwargs):
            given[path] = first((args, kwargs))

        def after(module, args, out):
            left[path] = first(out)

        return before, after

    for path, module in alone.named_modules():
        before, after = hook(path)
        module.register_forward_pre_hook(before, with_kwargs=True)
        module.register_forward_hook(after)
    with torch.no_grad():
        alone(**model._inputs(prompt), use_cache=False)
    return given, left


def blocks(family: str):
    return run(family)[0].architecture.stack.blocks


def share(family: str) -> float:
    """How far two passes may lie apart: in double precision too, since norms compute in single precision."""
    return bounds.depth(run(family)[0].cfg)


def sums(parts: torch.Tensor) -> dict[str, Any]:
    """For the sum of these parts along their first axis: how far another order of adding them up may lead."""
    return {"share": bounds.sums(len(parts), parts.dtype), "size": parts.abs().sum(0)}


def end_of(family: str):
    """The final stream of the bare model."""
    given, left = bare(family)
    last, norm = left[blocks(family)[-1].path], run(family)[0].architecture.final_norm
    return given[norm] if given[norm].shape == last.shape else last


@pytest.mark.parametrize("family", LABELS)
def test_the_beginning_and_all_updates_are_the_final_stream(family: str) -> None:
    _, _, cache = run(family)
    updates = cache.updates()
    assert list(updates) == LABELS[family]
    assert torch.equal(cache["resid_pre", 0], bare(family)[0][blocks(family)[0].path])
    parts = torch.stack([cache["resid_pre", 0], *updates.values()])
    bounds.close(parts.sum(0), end_of(family), **sums(parts))
    assert torch.equal(cache.final_stream, end_of(family))
    # Leaving any out would show.
    assert all(bounds.moved(update, 0 * update, times=1e3, **sums(parts)) for update in updates.values())


@pytest.mark.parametrize("family", LABELS)
def test_decompose_resid_is_made_of_the_same_updates(family: str) -> None:
    _, _, cache = run(family)
    stack, labels = cache.decompose_resid(return_labels=True)
    assert labels == ["embed", *LABELS[family]]
    bounds.close(stack.sum(0), end_of(family), **sums(stack))
    last = cache.accumulated_resid(incl_mid=True)[-1]
    assert torch.equal(last, end_of(family))


@pytest.mark.parametrize("family", ["aya_vision", "cohere_compass", "blip-2"])
def test_parallel_updates_are_what_the_modules_give(family: str) -> None:
    model, _, cache = run(family)
    _, left = bare(family)
    for i, block in enumerate(model.architecture.stack.blocks):
        for kind, update in (("attn", block.attn_update), ("mlp", block.mlp_update)):
            own = left[update.path].reshape(cache["resid_pre", i].shape)
            parts = torch.stack([cache["resid_pre", i], cache["resid_post", i], own])
            bounds.close(cache.delta(kind, i), own, **sums(parts))
    with pytest.raises(UnknownName, match="'blocks.0.hook_resid_mid' does not exist here: .* No layer of this model"):
        cache["resid_mid", 0]
    pre, mid = cache["resid_pre", 1], cache["resid_pre", 1] + cache["attn_out", 1]
    both = cache.map(lambda before, after, mask: torch.stack([before, after]), update="attn")[1]
    bounds.close(both, torch.stack([pre, mid]), bounds.sums(2, pre.dtype))


@pytest.mark.parametrize("family", ["qwen3_vl", "granite4_vision", "idefics", "cohere_compass"])
def test_what_is_added_between_layers(family: str) -> None:
    model, _, cache = run(family)
    given, left = bare(family)
    after, before = given[blocks(family)[1].path], left[blocks(family)[0].path]
    assert torch.equal(cache["deepstack", 0], after - before)
    assert torch.equal(cache.delta("between", 0), after - before)
    assert torch.equal(cache.stack_activation("between"), torch.stack([after - before, torch.zeros_like(after)]))
    assert (cache.delta("between", 1) == 0).all()
    names = list(model.hook_names)
    assert names.index("blocks.0.hook_between") == names.index("blocks.1.hook_resid_pre") - 1
    with pytest.raises(UnknownName, match=r"nothing is added between layer 1 and .* Layers that have it: \[0\]"):
        cache["deepstack", 1]
    labels = cache.accumulated_resid(incl_mid=True, return_labels=True)[1]
    assert labels.index("0_post") == labels.index("1_pre") - 1


def test_deepstack_stands_at_the_image_alone() -> None:
    _, prompt, cache = run("qwen3_vl")
    image = prompt.token_map["image"]
    assert (cache["deepstack", 0][~image] == 0).all() and (cache["deepstack", 0][image] != 0).any(-1).all()


@pytest.mark.parametrize("family", ["qwen3_vl", "cohere_compass", "idefics"])
def test_edits_between_layers_equal_plain_hooks(family: str) -> None:
    """Doubled, taken away and patched: by hand, the input of the next layer is what is written."""
    model, prompt, cache = run(family)
    path = blocks(family)[1].path
    given, left = bare(family)
    before, added = left[blocks(family)[0].path], cache["between", 0]

    def by_hand(stream):
        alone = made(family)
        alone.get_submodule(path).register_forward_pre_hook(
            lambda _, args, kwargs: (
                ((stream, *args[1:]), kwargs) if args else (args, {**kwargs, "hidden_states": stream})
            ),
            with_kwargs=True,
        )
        with torch.no_grad():
            return alone(**model._inputs(prompt), use_cache=False).logits

    untouched = model(prompt)
    doubled = model.run_with_hooks(prompt, [("blocks.0.hook_deepstack", lambda x, hook: 2 * x)])
    bounds.close(doubled, by_hand(before + 2 * added), share(family))
    logits, ablated = model.run_with_cache(prompt, interventions=la.Ablate("between"))
    bounds.close(logits, by_hand(before), share(family))
    assert (ablated["between", 0] == 0).all() and bounds.moved(logits, untouched, share(family))
    vector = torch.randn(added.shape[-1], generator=torch.Generator().manual_seed(0)).double()
    steered = model.run_with_hooks(prompt, interventions=la.Steer(vector, None, point="between"))
    bounds.close(steered, by_hand(before + added + vector), share(family))
    patch = la.Patch.of(cache, "between", layers=0)
    bounds.close(model.run_with_hooks(prompt, interventions=la.Ablate("between") + patch), untouched, share(family))


def test_the_sum_holds_under_edits_of_every_part() -> None:
    for family in ("cohere_compass", "qwen3_vl"):
        model, prompt, _ = run(family)
        edits = la.Ablate("between") + la.Ablate("attn", layers=[0]) + la.Ablate("mlp", layers=[1], to="mean")
        vector = torch.linspace(-1, 1, model.cfg.d_model).double()
        _, cache = model.run_with_cache(prompt, interventions=edits + la.Steer(vector, 0))
        parts = torch.stack([cache["resid_pre", 0], *cache.updates().values()])
        bounds.close(parts.sum(0), cache["ln_final.hook_in"], **sums(parts))
        assert (cache.delta("attn", 0) == 0).all()


def test_updates_that_cannot_be_told_apart_are_refused() -> None:
    _, _, cache = run("nemotron_h_omni")
    with pytest.raises(InputError, match=r"layer 0 \(no attention\) has no 'attn' update .* its updates are 'layer'"):
        cache.delta("attn", 0)
    assert torch.equal(cache.delta("layer", 1), cache["resid_post", 1] - cache["resid_pre", 1])
    with pytest.raises(InputError, match="layer is 4; the model has layers 0 to 3"):
        cache.delta("layer", 4)


@pytest.mark.parametrize("family", ["gemma3", "granite_docling", "cohere_compass", "qwen3_vl"])
def test_heads_and_neurons_add_up_behind_norms_and_factors(family: str) -> None:
    """Gemma 3 norms what a module gives, Granite multiplies it; Cohere's norm takes the mean away."""
    model, _, cache = run(family)
    n = model.cfg.n_layers
    heads, labels = cache.stack_head_results(1, return_labels=True)
    assert labels == [f"L0H{h}" for h in range(model.cfg.n_heads)]
    bias = cache._model.get_submodule(blocks(family)[0].attn.o).bias
    assert bias is None
    # A norm after the module is undone in single precision, so heads are shares of what it rounds.
    bounds.close(heads.sum(0), cache.delta("attn", 0), share(family), size=heads.abs().sum(0))
    for neurons in (True, False):
        parts, labels = cache.get_full_resid_decomposition(expand_neurons=neurons, return_labels=True)
        bounds.close(parts.sum(0), end_of(family), share(family), size=parts.abs().sum(0))
        assert len(labels) == len(parts) and labels[-2:] == ["embed", "bias"]
        assert ("0_between" in labels) == (family in ("cohere_compass", "qwen3_vl", "granite_docling"))
    onto = torch.randn(model.cfg.d_model, 3, generator=torch.Generator().manual_seed(1)).double()
    for apply_ln in (False, True):
        whole = cache.get_full_resid_decomposition(apply_ln=apply_ln, pos_slice="last")
        projected = cache.get_full_resid_decomposition(apply_ln=apply_ln, pos_slice="last", project_output_onto=onto)
        bounds.close(projected, whole @ onto, share(family))
    remainder = cache.stack_head_results(incl_remainder=True)
    assert len(remainder) == n * model.cfg.n_heads + 1
    bounds.close(remainder.sum(0), end_of(family), share(family), size=remainder.abs().sum(0))


def test_heads_behind_a_gate_are_refused_or_left_to_the_remainder() -> None:
    model, _, cache = run("mllama")
    with pytest.raises(InputError, match=r"the heads of layer 1 \(scaled\) cannot be told apart .* behind a gate"):
        cache.stack_head_results()
    parts, labels = cache.stack_head_results(incl_remainder=True, return_labels=True)
    gated = [i for i, block in enumerate(blocks("mllama")) if block.kind == "scaled"]
    assert gated and not [label for label in labels if any(label.startswith(f"L{i}H") for i in gated)]
    bounds.close(parts.sum(0), cache.final_stream, share("mllama"), size=parts.abs().sum(0))
    whole, labels = cache.get_full_resid_decomposition(expand_neurons=False, return_labels=True)
    assert {f"{i}_attn_out" for i in gated} <= set(labels)
    bounds.close(whole.sum(0), cache.final_stream, share("mllama"), size=whole.abs().sum(0))


def test_image_attribution_goes_through_the_norm_after_attention() -> None:
    """Summed over keys, what the positions wrote through a head is the head's own attribution."""
    model, _, cache = run("gemma3")
    found = la.lenses.image_attribution(cache, 7)
    heads = cache.stack_head_results(pos_slice="last")
    direct = cache.logit_attrs(heads, 7, pos_slice="last").flatten()
    size = found.values.abs().sum(-1)
    bounds.close(found.values.sum(-1).flatten(), direct.to(found.values), share("gemma3"), size=size)


@pytest.mark.parametrize("family", ["mllama", "muse_spark"])
def test_the_stream_behind_a_gate_is_edited(family: str) -> None:
    """Llama 3.2's gate is a number, so its attention can be moved by hand; Muse's is a module that gives the stream."""
    model, prompt, cache = run(family)
    layer = 1
    vector = torch.linspace(-1, 1, model.cfg.d_model).to(cache["resid_mid", layer])
    alone = made(family)
    block = alone.get_submodule(blocks(family)[layer].path)
    if family == "mllama":
        gate = block.cross_attn_attn_gate.tanh()
        block.cross_attn.register_forward_hook(lambda _, args, out: (out[0] + vector / gate, *out[1:]))
    else:
        block.post_attention_residual_gate.register_forward_hook(lambda _, args, out: out + vector)
    with torch.no_grad():
        expected = alone(**model._inputs(prompt), use_cache=False).logits
    edit = la.Steer(vector, layer, 0.25, point="resid_mid") + la.Steer(vector, layer, 0.75, point="resid_mid")
    logits, edited = model.run_with_cache(prompt, interventions=edit)
    bounds.close(logits, expected, share(family))
    assert bounds.moved(logits, model(prompt), share(family))
    bounds.close(edited["resid_mid", layer], cache["resid_mid", layer] + vector, share(family))
    parts = torch.stack([edited["resid_pre", 0], *edited.updates().values()])
    bounds.close(parts.sum(0), edited.final_stream, **sums(parts))


def test_the_gradient_of_what_is_added_is_that_of_the_stream_it_is_added_to() -> None:
    model, prompt, _ = run("qwen3_vl")
    names = ["blocks.0.hook_between", "blocks.1.hook_resid_pre"]
    found = gradients(model, prompt, lambda logits: logits[:, -1, 5], names)
    assert torch.equal(found["between", 0], found["resid_pre", 1])  # one number's way back is both
    assert found["between", 0].abs().max() > 0


def test_positions_of_lanes() -> None:
    model, prompt, cache = run("glm5_next")
    assert torch.equal(cache.decompose_resid(pos_slice="last")[-1], cache.delta("layer", 2)[:, -1:])
    kept = {name: value.movedim(2, 0) for name, value in cache.items() if name[:7] == "blocks." and "resid" in name}
    lanes_first = la.ActivationCache(kept, tuple(kept), model.sites, model.hf, prompt)
    with pytest.raises(InputError, match=r"holds its lanes first, \[4, 1, 24, 64\], so positions cannot be chosen"):
        lanes_first.decompose_resid(pos_slice="last")
