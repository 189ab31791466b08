"""Cross-attention beside self-attention against plain torch hooks on bare eager models."""

from __future__ import annotations

import functools
from dataclasses import dataclass

import bounds
import pytest
import torch

import lostattn as la
from lostattn.conformance.batch import SHORTER, two_items
from lostattn.conformance.inputs import picture_inputs, prompt_of
from lostattn.conformance.models import build
from lostattn.errors import InputError, UnknownName
from lostattn.plan import Edit
from lostattn.plan.compiling import compile_edits
from lostattn.view.reading import pattern as drawn_pattern

pytestmark = pytest.mark.slow

# family -> the modules of layer 1: attention, output map, what gives the stream with it in it, the next norm
PARTS = {
    "florence2": ("model.language_model.decoder.layers.1.encoder_attn", "out_proj", "encoder_attn_layer_norm"),
    "pp_formulanet": ("model.decoder.layers.1.encoder_attn", "out_proj", "final_layer_norm"),
    "udop": ("decoder.block.1.layer.1.EncDecAttention", "o", "layer.2.layer_norm"),
    "pix2struct": ("decoder.layer.1.encoder_decoder_attention.attention", "output", "mlp.layer_norm"),
    "vision-encoder-decoder": (
        "decoder.bert.encoder.layer.1.crossattention.self", "^.output.dense", "crossattention.output.LayerNorm"
    ),
    "idefics": ("model.gated_cross_attn_layers.1.cross_attn", "o_proj", ""),
}  # fmt: skip
PRE_NORM = ("pp_formulanet", "udop", "pix2struct")


def share(family: str) -> float:
    """How far two passes may lie apart: eager attention takes each softmax in single precision, whatever comes in."""
    model, prompt, cache = run(family)
    return model.cfg.n_layers * bounds.sums(max(prompt.n_pos, cache["cross_k", 1].shape[1]))


def output_map(family: str) -> str:
    path, o, _ = PARTS[family]
    return f"{path.rpartition('.')[0]}{o[1:]}" if o.startswith("^") else f"{path}.{o}"


@functools.cache
def run(family: str):
    """``(model, prompt, cache)`` in float64 under sdpa."""
    module = build(family, "sdpa").double()
    inputs, _ = picture_inputs(build(family, "sdpa"), family)
    inputs = {name: value.double() if value.is_floating_point() else value for name, value in inputs.items()}
    model = la.load(module, selftest=False)
    prompt = prompt_of(model, inputs)
    model.selftest(prompt)
    return model, prompt, model.run_with_cache(prompt)[1]


def bare_run(family: str, hooks=()):
    """The logits of a bare eager model under plain hooks ``(path, "pre" or "post", function)``."""
    model, prompt, _ = run(family)
    alone = build(family, "eager").double()
    for path, when, hook in hooks:
        module = alone.get_submodule(path)
        if when == "pre":
            module.register_forward_pre_hook(hook, with_kwargs=True)
        else:
            module.register_forward_hook(hook)
    with torch.no_grad():
        return alone(**model._inputs(prompt), use_cache=False).logits


def seen(family: str, wanted: dict[str, str]):
    """What modules were given (``<path>``) or gave (``>path``) first in a bare eager pass."""
    found, hooks = {}, []
    for name, place in wanted.items():
        if place[0] == "<":
            hooks.append((place[1:], "pre", lambda m, args, kwargs, name=name: found.update(
                {name: (args or [*kwargs.values()])[0].clone()})))  # fmt: skip
        else:
            hooks.append((place[1:], "post", lambda m, args, out, name=name: found.update(
                {name: (out if isinstance(out, torch.Tensor) else out[0]).clone()})))  # fmt: skip
    bare_run(family, hooks)
    return found


def layer_of(family: str) -> str:
    return run(family)[0].architecture.stack.blocks[1].path


@pytest.mark.parametrize("family", PARTS)
def test_points_are_what_plain_hooks_see(family: str) -> None:
    model, prompt, cache = run(family)
    attn = model.architecture.stack.blocks[1].cross.attn
    assert attn.path == PARTS[family][0] and attn.o == output_map(family)
    places = {"q": f">{attn.q}", "k": f">{attn.k}", "v": f">{attn.v}", "z": f"<{attn.o}", "out": f">{attn.o}"}
    if PARTS[family][2]:
        places["resid_mid_cross"] = f"<{layer_of(family)}.{PARTS[family][2]}"
    there = seen(family, places)
    for letter in "qkvz":
        bounds.close(cache["cross_" + letter, 1].flatten(-2), there[letter], share(family))
    n_pos, n_keys = there["q"].shape[1], there["k"].shape[1]
    assert n_pos != n_keys  # keys are of another sequence
    bounds.close(cache["cross_attn_out", 1], there["out"], share(family))
    bias = model.hf.get_submodule(attn.o).bias
    result = cache["cross_result", 1].sum(-2) + (0.0 if bias is None else bias)
    bounds.close(result, there["out"], share(family), size=cache["cross_result", 1].abs().sum(-2))
    if "resid_mid_cross" in there:
        bounds.close(cache["resid_mid_cross", 1], there["resid_mid_cross"], share(family))
    q, k, v = (there[letter].unflatten(-1, (attn.n_heads, -1)).transpose(1, 2) for letter in "qkv")
    assert cache["cross_pattern", 1].shape == (len(q), attn.n_heads, n_pos, n_keys)
    if family == "idefics":  # transformers does not give these out, and no key is masked
        expected = torch.softmax(q @ k.transpose(-1, -2) * q.shape[-1] ** -0.5, -1)
    else:
        alone = build(family, "eager").double()
        with torch.no_grad():
            expected = alone(**model._inputs(prompt), use_cache=False, output_attentions=True).cross_attentions[1]
    scores = cache["cross_attn_scores", 1]
    bounds.close(cache["cross_pattern", 1].double(), expected.double(), share(family), size=scores)
    bounds.close((expected.double() @ v).transpose(1, 2).flatten(-2), there["z"], share(family), size=v)


@pytest.mark.parametrize("family", PARTS)
def test_the_beginning_and_all_updates_are_the_final_stream(family: str) -> None:
    model, _, cache = run(family)
    inside = ["attn_out", "mlp_out"] if family == "idefics" else ["attn_out", "cross_attn_out", "mlp_out"]
    labels = [f"{i}_{name}" for i in range(2) for name in inside]
    if family == "idefics":
        labels.insert(2, "0_between")  # its cross-attention layers stand between the others
    updates = cache.updates()
    assert list(updates) == labels
    last = model.architecture.final_norm or model.architecture.stack.blocks[-1].path
    end = seen(family, {"end": f"<{last}" if model.architecture.final_norm else f">{last}"})["end"]
    parts = torch.stack([cache["resid_pre", 0], *updates.values()])
    near = {"share": share(family), "size": parts.abs().sum(0)}
    bounds.close(parts.sum(0), end, **near)
    assert all(bounds.moved(update, 0 * update, **near) for update in updates.values())  # leaving any out would show


@pytest.mark.parametrize("family", PRE_NORM)
def test_an_update_is_what_its_module_gives(family: str) -> None:
    _, _, cache = run(family)
    bounds.close(cache.delta("cross_attn", 1), seen(family, {"out": f">{output_map(family)}"})["out"], share(family))
    bounds.close(cache.delta("attn", 1), cache["attn_out", 1], share(family))
    bounds.close(cache.delta("mlp", 1), cache["mlp_out", 1], share(family))
    stack, labels = cache.decompose_resid(1, mlp_input=True, return_labels=True)
    assert labels[-2:] == ["1_attn_out", "1_cross_attn_out"]
    bounds.close(stack.sum(0), cache["resid_mid_cross", 1], share(family))
    assert cache.accumulated_resid(incl_mid=True, return_labels=True)[1][:4] == [
        "0_pre",
        "0_mid",
        "0_mid_cross",
        "1_pre",
    ]
    mlp_in = cache["blocks.1.mlp.hook_in"]
    if family != "pp_formulanet":  # (its LayerNorm has a bias, which belongs to no part)
        normed = cache.apply_ln_to_stack(stack, 1, True)
        bounds.close(normed.sum(0), mlp_in, share(family), size=normed.abs().sum(0))


def without_heads(n_heads: int, heads):
    def hook(module, args, kwargs):
        z = args[0].unflatten(-1, (n_heads, -1)).clone()
        z[..., heads, :] = 0.0
        return (z.flatten(-2), *args[1:]), kwargs

    return hook


@pytest.mark.parametrize("family", PARTS)
def test_heads_are_ablated_as_by_hand(family: str) -> None:
    model, prompt, _ = run(family)
    hook = (output_map(family), "pre", without_heads(model.cfg.n_heads, [1, 3]))
    found = model.run_with_hooks(prompt, interventions=la.Ablate("cross_head", layers=1, heads=[1, 3]))
    bounds.close(found, bare_run(family, [hook]), share(family))
    assert bounds.moved(found, model(prompt), share(family))


@pytest.mark.parametrize("family", PARTS)
def test_knocking_out_every_key_leaves_the_last_row_nothing(family: str) -> None:
    model, prompt, _ = run(family)

    def last_row_nothing(module, args, kwargs):
        z = args[0].clone()
        z[:, -1] = 0.0
        return (z, *args[1:]), kwargs

    found = model.run_with_hooks(prompt, interventions=la.KnockOut("last", "cross", layers=[1]))
    bounds.close(found, bare_run(family, [(output_map(family), "pre", last_row_nothing)]), share(family))


@pytest.mark.parametrize("family", PARTS)
def test_what_cross_attention_adds_is_steered_and_ablated(family: str) -> None:
    model, prompt, _ = run(family)
    vector = torch.linspace(-1, 1, model.cfg.d_model).double()
    point = "cross_attn_out" if family == "idefics" else "resid_mid_cross"
    moved = (output_map(family), "post", lambda m, args, out: out + vector)
    found = model.run_with_hooks(prompt, interventions=la.Steer(vector, 1, point=point))
    bounds.close(found, bare_run(family, [moved]), share(family))
    nothing = (output_map(family), "post", lambda m, args, out: torch.zeros_like(out))
    found, cache = model.run_with_cache(prompt, interventions=la.Ablate("cross_attn", layers=1))
    bounds.close(found, bare_run(family, [nothing]), share(family))
    whole = cache["resid_pre", 0] + sum(cache.updates().values())
    bounds.close(whole, cache.final_stream, share(family))


@pytest.mark.parametrize("family", ["florence2", "udop", "vision-encoder-decoder", "idefics"])
def test_every_step_of_a_generation_is_edited(family: str) -> None:
    """Keys of cross-attention are made at the prompt's pass alone, or anew at each step (Idefics)."""
    from lostattn.conformance.compare_steps import SETTINGS, _inputs, _ours
    from lostattn.conformance.comparison import Subject

    model, prompt, _ = run(family)
    alone = build(family, "eager").double()
    logits = []
    alone.get_submodule(output_map(family)).register_forward_pre_hook(
        without_heads(model.cfg.n_heads, [0]), with_kwargs=True
    )
    alone.get_submodule(model.architecture.unembed).register_forward_hook(lambda m, a, out: logits.append(out[:, -1]))
    subject = Subject(model, alone, prompt)
    settings = dict(SETTINGS)
    if alone.config.is_encoder_decoder:
        settings["decoder_start_token_id"] = int(prompt.inputs["decoder_input_ids"][0, 0])
    with torch.no_grad():
        alone.generate(**_inputs(subject), **settings)
    edit = compile_edits(model, la.Ablate("cross_head", layers=1, heads=0), prompt)
    found = _ours(subject, settings, edit)
    assert len(found) == len(logits) == SETTINGS["max_new_tokens"]
    for mine, theirs in zip(found, logits, strict=True):
        bounds.close(mine, theirs, share(family))


@pytest.mark.parametrize("family", PRE_NORM)
def test_attribution_is_taken_apart_by_key(family: str) -> None:
    """``pattern[key] · (value[key] W_O) · direction`` of plain hooks; over keys, what the head wrote."""
    model, prompt, cache = run(family)
    attn = model.architecture.stack.blocks[1].cross.attn
    found = la.lenses.image_attribution(cache, 7, layers=1)
    assert found.crossed and found.layers == (1,)
    there = seen(family, {"v": f">{attn.v}", "z": f"<{attn.o}"})
    weight = model.hf.get_submodule(attn.o).weight.detach().unflatten(1, (attn.n_heads, -1))  # [d_model, head, d_head]
    written = torch.einsum("hd,mhd->hm", there["z"][0, -1].unflatten(-1, (attn.n_heads, -1)), weight)
    direct = cache.logit_attrs(written[:, None, None], 7, pos_slice=[-1], batch_slice=[0]).flatten()
    bounds.close(found.values[0].sum(-1), direct, share(family), size=found.values[0].abs().sum(-1))
    value = there["v"][0].unflatten(-1, (attn.n_heads, -1))
    each = torch.einsum("hk,khd,mhd->hkm", cache["cross_pattern", 1][0, :, -1].double(), value, weight)
    for key in (0, 3):
        one = cache.logit_attrs(each[:, key, None, None], 7, pos_slice=[-1], batch_slice=[0]).flatten()
        bounds.close(found.values[0, :, key], one, share(family), size=found.values[0])


def test_attribution_behind_a_gate_is_refused() -> None:
    for family in ("idefics",):
        cache = run(family)[2]
        with pytest.raises(
            InputError, match="the heads of layer 0 .* cannot be told apart .* it is added behind a gate"
        ):
            la.lenses.image_attribution(cache, 7)


def test_what_cannot_be_meant_is_refused() -> None:
    model, prompt, cache = run("udop")
    with pytest.raises(
        InputError, match="'blocks.1.cross_attn.hook_pattern', a point of cross-attention, whose keys do"
    ):
        model.generate(prompt, names_filter=["blocks.1.cross_attn.hook_pattern"])
    with pytest.raises(InputError, match="keys='cross' does not say how many keys there are"):
        model.run_with_cache(prompt, interventions=la.ReplaceAttention(la.Fixed([1.0]), keys="cross"))
    with pytest.raises(InputError, match=r"FromCache holds patterns over positions, and blocks.0.cross_attn looks at"):
        model.run_with_cache(prompt, interventions=la.ReplaceAttention(la.FromCache.of(cache), keys="cross"))
    with pytest.raises(InputError, match="goes by the keys of cross-attention and not by position"):
        la.Patch.of(cache, "cross_k", layers=0)
    with pytest.raises(InputError, match="expected 'attn', .*, 'cross_attn'|it must be 'attn', 'cross_attn', 'mlp'"):
        cache.delta("cross", 0)


def test_a_decoder_without_cross_attention_says_so(tiny_llava) -> None:
    prompt = tiny_llava.prompt("two", images=[la.data.load("shapes", n=1)[0].images[0]])
    with pytest.raises(InputError, match="keys='cross' names no key .* This model has no cross-attention"):
        tiny_llava.run_with_cache(prompt, interventions=la.KnockOut("last", "cross"))
    with pytest.raises(InputError, match="no layer of this model has 'hook_cross_attn_out'"):
        tiny_llava.run_with_cache(prompt, interventions=la.Ablate("cross_attn"))
    with pytest.raises(UnknownName, match="the layer has no cross-attention beside self-attention"):
        tiny_llava.sites.find("blocks.0.cross_attn.hook_pattern")


@dataclass(frozen=True, eq=False, repr=False)
class _WithoutValues(la.interventions.Intervention):
    """What cross-attention reads is taken away at its values."""

    def compile(self, setting):
        return [Edit("blocks.1.cross_attn.hook_v", nothing)]


def nothing(x, here):
    return torch.zeros_like(x)


@pytest.mark.parametrize(("family", "settings"), [("udop", {}), ("udop", {"use_cache": False}), ("pix2struct", {})])
def test_values_are_edited_where_they_are_made(family: str, settings) -> None:
    """With a cache at the prompt's pass, whose values the steps read again; without one at every step."""
    model, prompt, _ = run(family)
    alone = build(family, "eager").double()
    path = model.architecture.stack.blocks[1].cross.attn.v
    alone.get_submodule(path).register_forward_hook(lambda m, args, out: torch.zeros_like(out))
    inputs = {k: v for k, v in model._inputs(prompt).items() if k not in ("input_ids", "attention_mask")}
    inputs = model._inputs(prompt) if family == "udop" else inputs
    theirs = alone.generate(**inputs, do_sample=False, max_new_tokens=5, decoder_start_token_id=1, **settings)
    mine = model.generate(
        prompt, interventions=_WithoutValues(), max_new_tokens=5, decoder_start_token_id=1, **settings
    )
    plain = model.generate(prompt, max_new_tokens=5, decoder_start_token_id=1, **settings)
    n = mine.tokens.shape[1]
    assert mine.tokens.tolist() == theirs[:, -n:].tolist() != plain.tokens.tolist()


def test_keys_are_chosen_and_items_taken_out() -> None:
    """Two items of unequal lengths: an item's own cache has its own rows, and every key."""
    module = build("pp_formulanet", "sdpa")
    inputs = two_items(picture_inputs(module, "pp_formulanet")[0], {"decoder_attention_mask"}, decoder=True)
    model = la.load(module, selftest=False)
    prompt = prompt_of(model, inputs)
    _, cache = model.run_with_cache(prompt)
    pattern, n_keys = cache["cross_pattern", 1], cache["cross_k", 1].shape[1]
    own = cache.apply_slice_to_batch_dim(1)
    assert torch.equal(own["cross_pattern", 1], pattern[1][:, SHORTER:])
    assert own["cross_v", 1].shape[0] == n_keys and own["cross_q", 1].shape[0] == prompt.n_pos - SHORTER
    assert torch.equal(drawn_pattern(cache, prompt, 1, 1), pattern[1][:, SHORTER:])
    keys = torch.arange(n_keys)[None] > 0
    assert torch.equal(own.at(("cross_pattern", 1), keys=keys), own["cross_pattern", 1][..., 1:])
    some = torch.zeros(2, n_keys, dtype=torch.bool)
    some[0, :2] = some[1, 1:3] = True
    chosen = cache.at(("cross_pattern", 1), "last", heads=2, keys=some)
    assert torch.equal(chosen[:, 0], torch.stack([pattern[0, 2, -1, :2], pattern[1, 2, -1, 1:3]]))
    values = cache.at(("cross_v", 1), keys=some)
    assert torch.equal(values[1], cache["cross_v", 1][1, 1:3])
    assert torch.equal(cache.at(("cross_pattern", 1), keys="image"), pattern)  # all of them are
    with pytest.raises(InputError, match="goes by the keys of cross-attention and not by position; choose with keys="):
        cache.at(("cross_v", 1), "last")
