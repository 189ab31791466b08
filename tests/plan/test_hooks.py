"""run_with_hooks in TransformerLens' manner, and what taps see of edits."""

from __future__ import annotations

import functools
import re

import bounds
import pytest
import torch
from reference import EAGER, logits_of, tensors_of
from tiny import FAMILIES, INPUTS, batched, positioned, rounding, text_inputs, unequal, wrapped
from tiny import bare as bare_model

import lostattn as la
from lostattn.errors import InputError, UnknownName
from lostattn.plan import Edit
from lostattn.plan.hooks import HookPoint
from lostattn.run.local import run_edits


@functools.cache
def prompt_of(family):
    inputs = batched(family, unequal(family))
    return wrapped(family).prompt(inputs=inputs), positioned(family, inputs), inputs["attention_mask"].bool()


def test_returning_and_changing_in_place_are_the_same():
    model = wrapped("qwen")
    prompt, *_ = prompt_of("qwen")

    def returning(value, hook):
        return value * torch.linspace(0.5, 1.5, value.shape[-1])

    def in_place(value, hook):
        value *= torch.linspace(0.5, 1.5, value.shape[-1])

    for name in ("blocks.1.hook_resid_pre", "blocks.1.attn.hook_pattern", "blocks.0.attn.hook_k"):
        one, other = (model.run_with_hooks(prompt, [(name, f)]) for f in (returning, in_place))
        assert torch.equal(one, other)
        assert not torch.equal(one, model.forward(prompt))


def test_changing_in_place_leaves_what_came_before_alone():
    """A hook sees a copy: what it writes to is neither the model's own tensor nor what an earlier tap kept."""
    model = wrapped("llava")
    prompt, *_ = prompt_of("llava")
    kept = {}

    def keep(value, hook):
        kept["value"] = value

    def wipe(value, hook):
        value.zero_()

    model.run_with_hooks(prompt, [("blocks.1.hook_resid_pre", keep), ("blocks.1.hook_resid_pre", wipe)])
    _, cache = model.run_with_cache(prompt, "blocks.1.hook_resid_pre")
    assert torch.equal(kept["value"], cache["resid_pre", 1])


@pytest.mark.parametrize(
    ("family", "name", "path", "port"),
    [
        ("llava", "blocks.2.hook_resid_pre", "model.language_model.layers.2", "input"),
        ("llava", "blocks.2.hook_mlp_out", "model.language_model.layers.2.mlp", "output"),
        ("llava", "blocks.1.attn.hook_z", "model.language_model.layers.1.self_attn.o_proj", "input"),
        ("llava", "vision_encoder.encoder_layers.1.hook_out", "model.vision_tower.encoder.layers.1", "output"),
        ("llava", "vision_projector.hook_out", "model.multi_modal_projector", "output"),
        ("llava", "ln_final.hook_out", "model.language_model.norm", "output"),
        ("qwen", "blocks.0.mlp.hook_pre_linear", "model.language_model.layers.0.mlp.up_proj", "output"),
        ("qwen", "blocks.1.attn.v.hook_out", "model.language_model.layers.1.self_attn.v_proj", "output"),
        ("qwen", "vision_encoder.blocks.2.hook_attn_out", "model.visual.blocks.2.attn", "output"),
        ("qwen", "vision_projector.hook_vision_proj_in", "model.visual.merger", "input"),
        ("qwen", "embed.hook_out", "model.language_model.embed_tokens", "output"),
    ],
)
def test_edits_equal_torch_hooks_on_the_bare_model(family, name, path, port):
    """Bit for bit: the same function of the same tensor at the same place."""
    prompt, inputs, _ = prompt_of(family)

    def change(value):
        return value * 0.5 + 0.25

    module = bare_model(family).get_submodule(path)
    if port == "input":
        handle = module.register_forward_pre_hook(lambda _, args: (change(args[0]), *args[1:]))
    else:
        handle = module.register_forward_hook(
            lambda _, args, out: change(out) if isinstance(out, torch.Tensor) else (change(out[0]), *out[1:]),
            prepend=True,  # before transformers' own hook collects the hidden states that LLaVA reads
        )
    try:
        theirs = tensors_of(bare_model(family), {}, inputs)["logits"]
    finally:
        handle.remove()
    mine = wrapped(family).run_with_hooks(prompt, [(name, lambda value, hook: change(value))])
    assert torch.equal(mine, theirs)
    assert not torch.equal(mine, wrapped(family).forward(prompt))


@pytest.mark.parametrize("family", FAMILIES)
def test_edits_of_the_middle_stream_change_the_stream_itself(family):
    """Both what the FFN reads and what it is added to; by torch hooks, attention's output is changed to that end."""
    prompt, inputs, _ = prompt_of(family)

    def change(stream):
        return 0.5 * stream - 1.0

    layer = bare_model(family).model.language_model.layers[1]
    kept = {}
    handles = [
        layer.register_forward_pre_hook(lambda _, args: kept.update(pre=args[0])),
        layer.self_attn.register_forward_hook(
            lambda _, args, out: (change(kept["pre"] + out[0]) - kept["pre"], *out[1:])
        ),
    ]
    points = {"mid": ("model.language_model.layers.1.post_attention_layernorm", "input")}
    try:
        theirs = tensors_of(bare_model(family), points, inputs)
    finally:
        for handle in handles:
            handle.remove()
    hooks = [("blocks.1.hook_resid_mid", lambda value, hook: change(value))]
    mine = wrapped(family).run_with_hooks(prompt, hooks)
    bounds.close(mine, theirs["logits"], rounding(family))
    untouched = wrapped(family).run_with_cache(prompt, "blocks.1.hook_resid_mid")[1]["resid_mid", 1]
    bounds.close(theirs["mid"], change(untouched), rounding(family))


def test_a_hook_of_the_middle_stream_is_handed_the_stream():
    model, (prompt, *_) = wrapped("qwen"), prompt_of("qwen")
    seen = {}
    model.run_with_hooks(prompt, [("blocks.2.hook_resid_mid", seen_in(seen))])
    _, cache = model.run_with_cache(prompt, "blocks.2.hook_resid_mid")
    assert torch.equal(seen["blocks.2.hook_resid_mid"], cache["resid_mid", 2])


def seen_in(store):
    def hook_function(value, hook):
        store[hook.name] = value

    return hook_function


@pytest.mark.parametrize("family", FAMILIES)
def test_hooks_see_what_the_cache_keeps(family):
    """Every editable point's value as a hook is given it, all in one pass, patterns and scores among them."""
    model, (prompt, _, real) = wrapped(family), prompt_of(family)
    seen = {}
    logits = model.run_with_hooks(prompt, [(lambda name: True, seen_in(seen))])
    untouched, cache = model.run_with_cache(prompt)
    bounds.close(logits[real], untouched[real], rounding(family))
    assert len(seen) > 110
    for name, value in seen.items():
        assert value.shape == cache[name].shape, name
        assert torch.equal(value, cache[name]), name


def test_names_aliases_shorthand_and_filters_mean_the_same():
    model, (prompt, *_) = wrapped("qwen"), prompt_of("qwen")

    def halve(value, hook):
        return value / 2

    chosen = ("blocks.2.hook_mlp_out", "blocks.-1.mlp.hook_out", lambda name: name == "blocks.2.hook_mlp_out")
    first, *others = (model.run_with_hooks(prompt, [(name, halve)]) for name in chosen)
    assert all(torch.equal(first, other) for other in others)
    both = model.run_with_hooks(prompt, [("pattern1", halve), ("blocks.2.hook_mlp_out", halve)])
    filtered = model.run_with_hooks(
        prompt, [(lambda name: name in ("blocks.1.attn.hook_pattern", "blocks.2.hook_mlp_out"), halve)]
    )
    assert torch.equal(both, filtered)


def test_hooks_of_one_point_run_in_the_order_given():
    model, (prompt, *_) = wrapped("llava"), prompt_of("llava")
    add = ("blocks.1.hook_resid_post", lambda value, hook: value + 1.0)
    double = ("blocks.1.hook_resid_post", lambda value, hook: value * 2.0)
    post = {}
    watch = ("blocks.1.hook_resid_post", seen_in(post))
    before = model.run_with_cache(prompt, "blocks.1.hook_resid_post")[1]["resid_post", 1]
    model.run_with_hooks(prompt, [add, double, watch])
    assert torch.equal(post["blocks.1.hook_resid_post"], (before + 1) * 2)
    model.run_with_hooks(prompt, [double, add, watch])
    assert torch.equal(post["blocks.1.hook_resid_post"], before * 2 + 1)


def test_a_hook_point_knows_where_it_is():
    model, (prompt, *_) = wrapped("qwen"), prompt_of("qwen")
    points = []
    model.run_with_hooks(
        prompt, [(lambda name: name.endswith("hook_attn_out"), lambda value, hook: points.append(hook))]
    )
    assert [hook.name for hook in points] == [
        *(f"vision_encoder.blocks.{i}.hook_attn_out" for i in range(4)),
        *(f"blocks.{i}.hook_attn_out" for i in range(3)),
    ]
    assert [hook.layer() for hook in points] == [0, 1, 2, 3, 0, 1, 2]
    assert repr(points[-1]) == "HookPoint('blocks.2.hook_attn_out')" and points[0].ctx == {}
    with pytest.raises(InputError, match="'hook_embed' lies in no layer"):
        HookPoint("hook_embed").layer()


@pytest.mark.parametrize(
    ("hooks", "error", "message"),
    [
        ([("blocks.0.hook_resid_pre",)], InputError, "expected pairs (name or filter, function)"),
        ([(3, print)], InputError, "expected pairs (name or filter, function)"),
        ([("blocks.0.hook_resid_pre", "not a function")], InputError, "expected pairs (name or filter, function)"),
        (["hook_embed"], InputError, "fwd_hooks holds 'hook_embed'; expected pairs"),
        ([("blocks.0.hook_resid_prey", print)], UnknownName, "Did you mean 'blocks.0.hook_resid_pre'"),
        ([("blocks.9.hook_resid_pre", print)], UnknownName, "layer 9 is out of range"),
        ([("blocks.0.ln1.hook_scale", print)], InputError, "can be read but not edited"),
        ([(lambda name: name.endswith("hook_scale"), print)], InputError, "accepts 15 points, of which none can be ed"),
        ([(lambda name: False, print)], InputError, "accepts 0 points, of which none can be edited"),
    ],
)
def test_bad_hooks_are_refused_before_anything_runs(hooks, error, message):
    model, (prompt, *_) = wrapped("llava"), prompt_of("llava")
    with pytest.raises(error, match=re.escape(message)):
        model.run_with_hooks(prompt, hooks)


@pytest.mark.parametrize(
    ("name", "function", "message"),
    [
        (
            "hook_resid_pre",
            lambda value, hook: value[..., 1:],
            "returned shape (3, 35, 49) of torch.float32 on cpu; expected the new value, a tensor of s",
        ),
        (
            "attn.hook_pattern",
            lambda value, hook: value[:, :1],
            "returned shape (3, 1, 35, 35) of torch.float32 on cpu; expected the new value",
        ),
        (
            "hook_mlp_out",
            lambda value, hook: 0.0,
            "returned float; expected the new value, a tensor of shape (3, 35, 50) on cpu, or None",
        ),
    ],
)
def test_a_hook_that_returns_something_else_is_told_where(name, function, message):
    model, (prompt, *_) = wrapped("llava"), prompt_of("llava")
    with pytest.raises(ValueError, match=re.escape(f"the hook at 'blocks.1.{name}' {message}")):
        model.run_with_hooks(prompt, [(f"blocks.1.{name}", function)])


@pytest.mark.parametrize("family", FAMILIES)
def test_a_cache_shows_edited_patterns_not_recomputed_ones(family):
    """A tap sees the value after all edits: pattern, scores and what is read through them."""
    model, (prompt, _, real) = wrapped(family), prompt_of(family)
    edit = la.ReplaceAttention(la.Uniform(), layers=[1]) + la.ScaleAttention(0.5, layers=[1])
    _, cache = model.run_with_cache(prompt, interventions=edit)
    _, before = model.run_with_cache(prompt, "pattern1")
    image = prompt.token_map["image"][:, None]
    pattern, learned = cache["pattern", 1][:, :, -1], before["pattern", 1][:, :, -1]
    mass = (learned * image).sum(-1, keepdim=True)
    uniform = torch.where(image, 0.5 * mass / image.sum(-1, keepdim=True), learned)
    bounds.close(pattern, uniform, bounds.sums(pattern.shape[-1]))  # sums over the keys, of weights that add up to one
    assert torch.equal(cache["pattern", 1][:, :, :-1], before["pattern", 1][:, :, :-1])
    # What attention then read, and what the layers after it made of it, are the edited values too.
    values = cache["v", 1].repeat_interleave(model.cfg.n_heads // model.cfg.n_key_value_heads, dim=2)
    z = torch.einsum("bhqk,bkhd->bqhd", cache["pattern", 1], values)
    bounds.close(cache["z", 1][real], z[real], rounding(family))


def test_a_cache_shows_edited_scores():
    model, (prompt, *_) = wrapped("qwen"), prompt_of("qwen")
    _, cache = model.run_with_cache(
        prompt, ["blocks.0.attn.hook_attn_scores", "pattern0"], la.KnockOut("last", "image")
    )
    image = prompt.token_map["image"][:, None].expand(-1, 6, -1)
    assert (cache["attn_scores", 0][:, :, -1][image] == float("-inf")).all()
    assert (cache["pattern", 0][:, :, -1][image] == 0).all()
    bounds.close(cache["pattern", 0][:, :, -1].sum(-1), torch.ones(3, 6), bounds.sums(prompt.n_pos))


def test_edited_rotated_queries_and_keys_are_what_patterns_are_made_of():
    model, (prompt, _, real) = wrapped("qwen"), prompt_of("qwen")
    edits = [Edit("blocks.1.attn.hook_rot_q", lambda x, here: 3.0 * x)]
    logits, kept = run_edits(model, prompt, model.sites.match(["blocks.1.attn.hook_rot_q", "pattern1"]), edits)
    cache = la.ActivationCache(kept, model.sites.match(["pattern1"]), model.sites, model.hf, prompt)
    tripled = logits_of(
        bare_model("qwen", EAGER),
        prompt.inputs,
        {"model.language_model.layers.1.self_attn": (lambda scores, _: 3.0 * scores, None)},
    )
    bounds.close(logits[real], tripled[real], rounding("qwen"))
    _, before = model.run_with_cache(prompt, "blocks.1.attn.hook_attn_scores")
    scores = 3.0 * before["attn_scores", 1]
    expected = torch.softmax(scores, dim=-1).transpose(1, 2)[real]
    bounds.close(cache["pattern", 1].transpose(1, 2)[real], expected, rounding("qwen"), size=scores)


def test_interventions_come_before_hooks():
    model, (prompt, *_) = wrapped("llava"), prompt_of("llava")
    seen = {}
    edit = la.Ablate("mlp", layers=[1])
    logits = model.run_with_hooks(prompt, [("blocks.1.hook_mlp_out", seen_in(seen))], interventions=edit)
    real = prompt.token_map["all"]
    assert (seen["blocks.1.hook_mlp_out"][real] == 0).all()
    assert torch.equal(logits, model.run_with_cache(prompt, "hook_unembed", edit)[0])


def test_scores_and_pattern_edits_of_one_layer_run_scores_first():
    """Whatever order they are written in: the pattern is made of the edited scores."""
    model, (prompt, _, real) = wrapped("llava"), prompt_of("llava")
    path = "model.language_model.layers.2.self_attn"
    theirs = logits_of(
        bare_model("llava", EAGER),
        prompt_of("llava")[1],
        {path: (lambda scores, _: scores * 0.5, lambda pattern, _: pattern**2)},
    )
    mine = model.run_with_hooks(
        prompt, [("pattern2", lambda x, hook: x**2), ("blocks.2.attn.hook_attn_scores", lambda x, hook: x * 0.5)]
    )
    bounds.close(mine[real], theirs[real], rounding("llava"))


def test_points_inside_a_trace():
    model = wrapped("qwen")
    prompt = model.prompt(inputs=INPUTS["qwen"]())
    _, cache = model.run_with_cache(prompt)
    with model.trace(prompt):
        q = model.point("vision_encoder.blocks.1.attn.hook_q").value.save()
        middle = model.point("resid_mid", 1).value.save()
        model.point("mlp_out", 1).value = 0 * middle
        logits = model.nn.output.logits.save()
    assert torch.equal(q, cache["vision_encoder.blocks.1.attn.hook_q"])
    assert torch.equal(middle, cache["resid_mid", 1])
    assert torch.equal(logits, model.run_with_hooks(prompt, [("blocks.1.hook_mlp_out", lambda x, hook: 0 * x)]))
    with pytest.raises(InputError, match="'blocks.1.attn.hook_pattern' is no module's input or output"):
        model.point("pattern", 1)
    with pytest.raises(UnknownName, match="Did you mean"):
        model.point("blocks.1.hook_resid_mids")


@pytest.mark.parametrize("family", FAMILIES)
def test_a_prompt_without_a_picture_reaches_the_decoder_alone(family):
    model, inputs = wrapped(family), text_inputs(family)
    prompt = model.prompt(inputs=inputs)
    logits, cache = model.run_with_cache(prompt)
    with torch.no_grad():
        assert torch.equal(logits, bare_model(family)(**inputs).logits)
    assert "blocks.1.hook_resid_mid" in cache and not any(name.startswith("vision") for name in cache)
    assert torch.equal(model.run_with_hooks(prompt, [(lambda name: "resid" in name, lambda x, hook: x)]), logits)
    (tower,) = (name for name in model.hook_names if name.endswith("hook_vision_embed"))
    message = re.escape(f"{tower!r} lies where pictures are seen, but the prompt holds none, so it is not reached.")
    with pytest.raises(InputError, match=message):
        model.run_with_cache(prompt, ["hook_embed", tower])
    with pytest.raises(InputError, match=message):
        model.run_with_hooks(prompt, [(tower, lambda x, hook: x)])
