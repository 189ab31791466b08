"""Cached values against plain torch hooks on bare Hugging Face models, and the cache as an object."""

from __future__ import annotations

import functools

import bounds
import pytest
import torch
from reference import SPY, tensors_of, watched
from tiny import FAMILIES, batched, positioned, rounding, unequal, wrapped
from tiny import bare as bare_model

import lostattn as la
from lostattn.errors import InputError, UnknownName

DECODER = {
    "hook_resid_pre": ("", "input"),
    "ln1.hook_out": (".input_layernorm", "output"),
    "attn.hook_q": (".self_attn.q_proj", "output"),
    "attn.hook_k": (".self_attn.k_proj", "output"),
    "attn.hook_v": (".self_attn.v_proj", "output"),
    "attn.hook_z": (".self_attn.o_proj", "input"),
    "hook_attn_out": (".self_attn", "output"),
    "hook_resid_mid": (".post_attention_layernorm", "input"),
    "ln2.hook_out": (".post_attention_layernorm", "output"),
    "mlp.hook_pre": (".mlp.gate_proj", "output"),
    "mlp.hook_pre_linear": (".mlp.up_proj", "output"),
    "mlp.hook_post": (".mlp.down_proj", "input"),
    "hook_mlp_out": (".mlp", "output"),
    "hook_resid_post": ("", "output"),
}
CLIP = {
    "hook_resid_pre": ("", "input"),
    "ln1.hook_out": (".layer_norm1", "output"),
    "attn.hook_q": (".self_attn.q_proj", "output"),
    "attn.hook_k": (".self_attn.k_proj", "output"),
    "attn.hook_v": (".self_attn.v_proj", "output"),
    "attn.hook_z": (".self_attn.out_proj", "input"),
    "hook_attn_out": (".self_attn", "output"),
    "hook_resid_mid": (".layer_norm2", "input"),
    "ln2.hook_out": (".layer_norm2", "output"),
    "mlp.hook_pre": (".mlp.fc1", "output"),
    "mlp.hook_post": (".mlp.fc2", "input"),
    "hook_mlp_out": (".mlp", "output"),
    "hook_resid_post": ("", "output"),
}
QWEN_VISION = {
    "hook_resid_pre": ("", "input"),
    "ln1.hook_out": (".norm1", "output"),
    "attn.hook_qkv": (".attn.qkv", "output"),
    "attn.hook_z": (".attn.proj", "input"),
    "hook_attn_out": (".attn", "output"),
    "hook_resid_mid": (".norm2", "input"),
    "ln2.hook_out": (".norm2", "output"),
    "mlp.hook_pre": (".mlp.gate_proj", "output"),
    "mlp.hook_pre_linear": (".mlp.up_proj", "output"),
    "mlp.hook_post": (".mlp.down_proj", "input"),
    "hook_mlp_out": (".mlp", "output"),
    "hook_resid_post": ("", "output"),
}
OUTER = {
    "hook_embed": ("model.language_model.embed_tokens", "output"),
    "ln_final.hook_in": ("model.language_model.norm", "input"),
    "ln_final.hook_out": ("model.language_model.norm", "output"),
    "hook_unembed": ("lm_head", "output"),
}
LLAVA_OUTER = {
    "vision_encoder.hook_vision_embed": ("model.vision_tower.embeddings", "output"),
    "vision_encoder.hook_vision_out": ("model.vision_tower", "output"),
    "vision_projector.hook_in": ("model.multi_modal_projector", "input"),
    "vision_projector.hook_out": ("model.multi_modal_projector", "output"),
}
QWEN_OUTER = {
    "vision_encoder.hook_vision_embed": ("model.visual.patch_embed", "output"),
    "vision_encoder.hook_vision_out": ("model.visual", "output"),
    "vision_projector.hook_in": ("model.visual.merger", "input"),
    "vision_projector.hook_out": ("model.visual.merger", "output"),
}
# prefix of the hook names, path of the layers, their points, layers, heads, key/value heads, norms, output map
STACKS = {
    "llava": [
        ("blocks", "model.language_model.layers", DECODER, 4, 5, 5, (".input_layernorm", ".post_attention_layernorm")),
        ("vision_encoder.encoder_layers", "model.vision_tower.encoder.layers", CLIP, 3, 3, 3, ("", "")),
    ],
    "qwen": [
        ("blocks", "model.language_model.layers", DECODER, 3, 6, 2, (".input_layernorm", ".post_attention_layernorm")),
        ("vision_encoder.blocks", "model.visual.blocks", QWEN_VISION, 4, 3, 3, (".norm1", ".norm2")),
    ],
}
ATTENTION = {DECODER["attn.hook_z"]: ".self_attn", CLIP["attn.hook_z"]: ".self_attn", (".attn.proj", "input"): ".attn"}
DERIVED = ("hook_scale", "hook_normalized", "hook_attn_scores", "hook_pattern", "hook_result")


@functools.cache
def inputs_of(family):
    return batched(family, unequal(family))


@functools.cache
def cached(family):
    model = wrapped(family)
    prompt = model.prompt(inputs=inputs_of(family))
    return model.run_with_cache(prompt)


@functools.cache
def expected(family):
    """Every hook point's value, from torch hooks on the bare model and from definitions, by canonical name."""
    model = bare_model(family, SPY)
    points = {**OUTER, **(LLAVA_OUTER if family == "llava" else QWEN_OUTER)}
    for prefix, path, inside, n, *_ in STACKS[family]:
        points |= {
            f"{prefix}.{i}.{name}": (f"{path}.{i}{at}", port) for i in range(n) for name, (at, port) in inside.items()
        }
    with watched(model) as seen:
        values = tensors_of(model, points, positioned(family, inputs_of(family)))
    for prefix, path, inside, n, heads, kv_heads, _ in STACKS[family]:
        for i in range(n):
            at = f"{prefix}.{i}"
            attention = f"{path}.{i}{ATTENTION[inside['attn.hook_z']]}"
            if f"{at}.attn.hook_qkv" in values:
                fused = values.pop(f"{at}.attn.hook_qkv").unflatten(-1, (3, heads, -1))
                values |= {f"{at}.attn.hook_{letter}": fused[:, k] for k, letter in enumerate("qkv")}
            else:
                for letter, number in (("q", heads), ("k", kv_heads), ("v", kv_heads)):
                    name = f"{at}.attn.hook_{letter}"
                    values[name] = values[name].unflatten(-1, (number, -1))
            values[f"{at}.attn.hook_z"] = values[f"{at}.attn.hook_z"].unflatten(-1, (heads, -1))
            values[f"{at}.attn.hook_rot_q"] = seen.joined(attention, "query").transpose(1, 2)
            values[f"{at}.attn.hook_rot_k"] = seen.joined(attention, "key").transpose(1, 2)
            _derive(values, model, at, f"{path}.{i}", inside, seen.calls[attention])
    _norms(values, "ln_final", values["ln_final.hook_in"], model.model.language_model.norm)
    return values


def _derive(values, model, at, path, inside, calls):
    """The points that no module holds, in float64."""
    norms = [inside[f"ln{k}.hook_out"][0] for k in (1, 2)]
    _norms(values, f"{at}.ln1", values[f"{at}.hook_resid_pre"], model.get_submodule(path + norms[0]))
    _norms(values, f"{at}.ln2", values[f"{at}.hook_resid_mid"], model.get_submodule(path + norms[1]))
    z = values[f"{at}.attn.hook_z"].double()
    out = model.get_submodule(path + inside["attn.hook_z"][0]).weight.detach().double()
    d = z.shape[-1]
    heads = [z[..., h, :] @ out[:, h * d : (h + 1) * d].T for h in range(z.shape[-2])]
    values[f"{at}.attn.hook_result"] = torch.stack(heads, dim=-2)
    scores = []
    for call in calls:
        keys = call["key"].repeat_interleave(call["query"].shape[1] // call["key"].shape[1], dim=1)
        part = call["query"].double() @ keys.double().transpose(-1, -2) * call["scaling"]
        if call["mask"] is not None:
            assert call["mask"].dtype == torch.bool
            part = part.masked_fill(~call["mask"], float("-inf"))
        scores.append(part)
    whole = scores[0]
    if len(scores) > 1:  # windows: nothing is seen across them
        per_head = [torch.block_diag(*(part[0, h].exp() for part in scores)).log() for h in range(scores[0].shape[1])]
        whole = torch.stack(per_head)[None]
    values[f"{at}.attn.hook_attn_scores"] = whole
    values[f"{at}.attn.hook_pattern"] = torch.softmax(whole, dim=-1).nan_to_num(0.0)


def _norms(values, at, stream, norm):
    x = stream.double()
    if isinstance(norm, torch.nn.LayerNorm):
        x = x - x.mean(-1, keepdim=True)
        eps = norm.eps
    else:
        eps = norm.variance_epsilon
    values[f"{at}.hook_scale"] = ((x * x).mean(-1, keepdim=True) + eps).sqrt()
    values[f"{at}.hook_normalized"] = x / values[f"{at}.hook_scale"]


@pytest.mark.parametrize("family", FAMILIES)
def test_the_logits_are_the_bare_models(family):
    assert torch.equal(cached(family)[0], expected(family)["logits"])
    assert torch.equal(cached(family)[0], cached(family)[1]["hook_unembed"])


@pytest.mark.parametrize("family", FAMILIES)
def test_every_held_value_is_the_bare_models_bit_for_bit(family):
    _, cache = cached(family)
    held = [name for name in cache if not name.endswith(DERIVED)]
    assert set(expected(family)) - {"logits"} == set(cache)
    assert len(held) > 100
    for name in held:
        mine, theirs = cache[name], expected(family)[name]
        assert mine.shape == theirs.shape and torch.equal(mine, theirs), name


@pytest.mark.parametrize("family", FAMILIES)
def test_every_derived_value_is_its_definition(family):
    _, cache = cached(family)
    derived = [name for name in cache if name.endswith(DERIVED)]
    assert len(derived) > 45
    for name in derived:
        mine, theirs = cache[name], expected(family)[name]
        assert mine.shape == theirs.shape and mine.dtype == torch.float32 and not mine.requires_grad, name
        # From the same values as the definition is, which is in double precision.
        longest = max(theirs.shape[-1], wrapped(family).cfg.d_model)
        size = expected(family)[bounds.sized_by(name)]
        bounds.close(mine.double(), theirs, bounds.sums(longest), size=size, of=name)


@pytest.mark.parametrize("family", FAMILIES)
def test_shapes(family):
    model, (_, cache) = wrapped(family), cached(family)
    batch, pos = inputs_of(family)["input_ids"].shape
    c = model.cfg
    assert cache["resid_post", -1].shape == (batch, pos, c.d_model)
    assert cache["q", 1].shape == cache["z", 1].shape == (batch, pos, c.n_heads, c.d_head)
    assert cache["k", 1].shape == cache["rot_k", 1].shape == (batch, pos, c.n_key_value_heads, c.d_head)
    assert cache["pattern", 0].shape == (batch, c.n_heads, pos, pos)
    assert cache["result", 0].shape == (batch, pos, c.n_heads, c.d_model)
    assert cache["post", 2].shape == (batch, pos, c.d_mlp)
    patches = inputs_of(family)["pixel_values"].shape[0]
    if family == "llava":
        assert cache["vision_encoder.encoder_layers.0.hook_in"].shape == (3, 26, 33)
        assert cache["vision_encoder.encoder_layers.0.attn.hook_pattern"].shape == (3, 3, 26, 26)
    else:
        assert patches == 24 + 80 + 24
        assert cache["vision_encoder.blocks.0.hook_in"].shape == (patches, 36)
        assert cache["vision_encoder.blocks.0.attn.hook_pattern"].shape == (1, 3, patches, patches)


@pytest.mark.parametrize("family", FAMILIES)
def test_deltas_are_what_was_added_to_the_stream(family):
    _, cache = cached(family)
    for i in range(wrapped(family).cfg.n_layers):
        total = cache["resid_pre", i] + cache.delta("attn", i) + cache.delta("mlp", i)
        size = torch.stack([total, cache["resid_mid", i], cache["resid_pre", i]])
        few = bounds.sums(3)  # a stream and two updates
        bounds.close(total, cache["resid_post", i], few, size=size)
        bounds.close(cache.delta("attn", i), cache["attn_out", i], few, size=size)
        bounds.close(cache.delta("mlp", i), cache["mlp_out", i], few, size=size)
    with pytest.raises(InputError, match="it must be 'attn', 'cross_attn', 'mlp', 'between' or 'layer'"):
        cache.delta("ffn", 0)


def test_the_sum_of_results_and_bias_is_what_attention_writes():
    _, cache = cached("llava")
    name = "vision_encoder.encoder_layers.1"
    bias = wrapped("llava").hf.model.vision_tower.encoder.layers[1].self_attn.out_proj.bias
    results = cache[f"{name}.attn.hook_result"]
    size = results.abs().sum(-2) + bias.abs()
    bounds.close(results.sum(-2) + bias, cache[f"{name}.hook_attn_out"], bounds.sums(33), size=size)


def test_one_value_under_all_its_spellings():
    _, cache = cached("qwen")
    pattern = cache["blocks.2.attn.hook_pattern"]
    for key in ("pattern2", ("pattern", 2), ("pattern", -1), ("attn", 2), "blocks.-1.attn.hook_pattern"):
        assert torch.equal(cache[key], pattern), key
    assert cache["blocks.1.attn.o.hook_in"] is cache["z", 1]
    assert torch.equal(cache["normalized", 1, "ln2"], cache["blocks.1.ln2.hook_normalized"])
    assert ("pattern", 2) in cache and "hook_nonsense" not in cache and ("pattern", 7) not in cache


def test_only_what_was_asked_for_is_kept():
    model = wrapped("qwen")
    prompt = model.prompt(inputs=inputs_of("qwen"))
    _, cache = model.run_with_cache(prompt, ["pattern1", "blocks.2.hook_mlp_out"])
    assert list(cache) == ["blocks.1.attn.hook_pattern", "blocks.2.hook_mlp_out"]
    assert torch.equal(cache["pattern", 1], cached("qwen")[1]["pattern", 1])
    with pytest.raises(UnknownName, match="'blocks.0.attn.hook_pattern' was not kept by this pass. Did you mean"):
        cache["pattern", 0]
    with pytest.raises(UnknownName, match="no hook point is called 'blocks.0.hook_nonsense'"):
        cache["blocks.0.hook_nonsense"]


def test_size_and_summary():
    model = wrapped("qwen")
    prompt = model.prompt(inputs=inputs_of("qwen"))
    batch, pos = inputs_of("qwen")["input_ids"].shape
    _, cache = model.run_with_cache(prompt, ["blocks.1.hook_in", "hook_embed"])
    assert cache.nbytes == 2 * batch * pos * 60 * 4
    assert repr(cache) == "ActivationCache of 2 points, 36.56 KiB: hook_embed, blocks.1.hook_resid_pre"


def test_another_dtype_and_device():
    model = wrapped("llava")
    prompt = model.prompt(inputs=inputs_of("llava"))
    _, cache = model.run_with_cache(prompt, ["blocks.1.hook_in", "pattern1"], dtype=torch.float64, device="cpu")
    assert cache["blocks.1.hook_in"].dtype == cache["pattern", 1].dtype == torch.float64
    single = cached("llava")[1]
    share = bounds.sums(prompt.n_pos)  # a softmax over the positions, made in another precision
    bounds.close(cache["pattern", 1].float(), single["pattern", 1], share, size=single["attn_scores", 1])


def test_a_cache_in_half_precision_gives_patterns_in_single():
    model = wrapped("llava")
    prompt = model.prompt(inputs=inputs_of("llava"))
    _, cache = model.run_with_cache(prompt, ["blocks.1.hook_in", "pattern1"], dtype=torch.bfloat16)
    assert cache["blocks.1.hook_in"].dtype == torch.bfloat16 and cache["pattern", 1].dtype == torch.float32
    # q and k are rounded to 8 bits each; a score is a sum of products of them, and a weight hangs on its scores.
    single = cached("llava")[1]
    q, k = (single[f"rot_{letter}", 1].transpose(1, 2).abs() for letter in "qk")
    size = q @ k.transpose(2, 3) / q.shape[-1] ** 0.5
    bounds.close(cache["pattern", 1], single["pattern", 1], 2 * bounds.unit(torch.bfloat16), size=size)


def test_a_metric_over_the_layers():
    _, cache = cached("qwen")
    means = cache.map(lambda state, mask: (state * mask[..., None]).sum(), point="resid_mid")
    real = inputs_of("qwen")["attention_mask"].bool()
    assert list(means) == [0, 1, 2]
    for i, mean in means.items():
        rows = cache["resid_mid", i][real]
        bounds.close(mean, rows.sum(), bounds.sums(rows.numel()), size=rows.abs().sum())
    gaps = cache.map(lambda before, after, mask: (after - before).norm(), update="mlp")
    bounds.close(gaps[1], cache.delta("mlp", 1).norm(), bounds.sums(cache.delta("mlp", 1).numel()))
    with pytest.raises(InputError, match="update is 'ffn'"):
        cache.map(lambda before, after, mask: 0, update="ffn")


def test_as_a_transformer_lens_cache():
    _, cache = cached("llava")
    theirs = cache.to_transformer_lens()
    assert type(theirs).__module__.startswith("transformer_lens")
    assert set(theirs.keys()) == set(cache)
    assert torch.equal(theirs["pattern", 3], cache["pattern", 3])
    assert torch.equal(theirs["blocks.0.hook_resid_mid"], cache["resid_mid", 0])


@pytest.mark.parametrize("family", FAMILIES)
def test_transformer_lens_takes_such_a_cache_apart(family):
    """Their decompositions, on our cache and a bridge over the same weights, are ours."""
    model = wrapped(family)
    _, cache = cached(family)
    theirs = cache.to_transformer_lens(model.to_transformer_bridge())
    for mine, other in (
        (cache.accumulated_resid(2, incl_mid=True, return_labels=True),
         theirs.accumulated_resid(2, incl_mid=True, return_labels=True)),
        (cache.decompose_resid(incl_embeds=False, return_labels=True),
         theirs.decompose_resid(incl_embeds=False, return_labels=True)),
        (cache.stack_head_results(2, return_labels=True), theirs.stack_head_results(2, return_labels=True)),
    ):  # fmt: skip
        assert mine[1] == other[1]
        bounds.close(mine[0], other[0], rounding(family))
    assert torch.equal(theirs.stack_activation("resid_post"), cache.stack_activation("resid_post"))
    prompt = model.prompt(inputs=inputs_of(family))[0]
    alone = model.run_with_cache(prompt)[1].remove_batch_dim().to_transformer_lens()
    assert not alone.has_batch_dim and alone["z", 1].dim() == 3


def test_a_cache_moves_to_another_dtype_with_all_that_is_made_of_it():
    _, cache = cached("qwen")
    moved = cache.to("cpu", torch.float64)
    assert moved["z", 1].dtype == moved["pattern", 1].dtype == moved["result", 1].dtype == torch.float64
    share = bounds.sums(cache["pattern", 1].shape[-1])  # made of the same queries and keys, in another precision
    bounds.close(moved["pattern", 1], cache["pattern", 1].double(), share, size=cache["attn_scores", 1])
    assert cache["z", 1].dtype == torch.float32 and moved.prompt is cache.prompt
    half = cache.to(dtype=torch.bfloat16)
    assert half["resid_post", 2].dtype == torch.bfloat16 and half["pattern", 2].dtype == torch.float32


def test_the_pattern_of_some_rows_is_those_rows_of_the_pattern(tiny_model, shapes_questions):
    prompt = tiny_model.prompt(shapes_questions[:3])
    _, cache = tiny_model.run_with_cache(prompt)
    whole = cache["pattern", 2]
    share, scores = bounds.sums(prompt.n_pos), cache["attn_scores", 2]  # fewer rows in one product, so another kernel
    bounds.close(cache.pattern(2, "last"), whole[:, :, -1:], share, size=scores)
    rows = prompt.token_map["question"].any(0).nonzero()[:, 0]
    bounds.close(cache.pattern(2, "question"), whole[:, :, rows], share, size=scores)
    edit = la.KnockOut("last", "image", layers=[2])
    _, edited = tiny_model.run_with_cache(prompt, interventions=edit)
    assert torch.equal(edited.pattern(2, "last"), edited["pattern", 2][:, :, -1:])
    assert not edited.pattern(2, "last")[:, 0, 0][prompt.token_map["image"]].any()


def test_metrics_map_over_the_layers_of_a_cache(tiny_model, shapes_questions):
    prompt = tiny_model.prompt(shapes_questions[:3])
    _, cache = tiny_model.run_with_cache(prompt)
    real = prompt.token_map["all"]
    rid = cache.map(la.metrics.rid, update="attn")
    rank = cache.map(la.metrics.effective_rank)
    assert set(rid) == set(rank) == set(range(tiny_model.cfg.n_layers))
    for item in range(3):
        before, after = (cache[point, 3][item][real[item]] for point in ("resid_pre", "resid_mid"))
        bounds.close(rid[3][item], la.metrics.rid(before, after), bounds.SPECTRAL)
        alone = la.metrics.effective_rank(cache["resid_post", 2][item][real[item]])
        bounds.close(rank[2][item], alone, bounds.SPECTRAL)
