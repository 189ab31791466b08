"""Bad input: refused where it is given, with a message that says what was received, what was expected, what to do."""

from __future__ import annotations

import dataclasses
from types import SimpleNamespace

import pytest
import torch
from PIL import Image

import lostattn as la
from lostattn.errors import InputError, UnknownName
from lostattn.plan.setting import Setting
from lostattn.points.sites import Sites

pytestmark = pytest.mark.usefixtures("untyped")
PICTURE = Image.new("RGB", (48, 48), "red")
NAN = torch.tensor([0.5, float("nan"), 0.5])

AT_ONCE = [
    (lambda: la.ReplaceAttention("gaussian"), r"source is 'gaussian'; expected a source such as Gaussian\(seed=0\)"),
    (lambda: la.ReplaceAttention(la.Gaussian), r"source is <class .*Gaussian'>; expected a source such as"),
    (lambda: la.ReplaceAttention(la.Uniform(), mix=1.5), r"mix is 1\.5; expected a number from 0 \(learned\) to 1"),
    (lambda: la.ReplaceAttention(la.Uniform(), mix="half"), "mix is 'half'; expected a number from 0"),
    (lambda: la.ReplaceAttention(la.Uniform(), mix=float("nan")), "mix is nan; expected a number from 0"),
    (lambda: la.Released(mix=-0.1), r"mix is -0\.1; expected a number from 0"),
    (
        lambda: la.ReplaceAttention(la.Uniform(), space="logits"),
        "space is 'logits'; expected one of 'weights', 'scores'",
    ),
    (lambda: la.ReplaceAttention(la.Uniform(), keep_mass="no"), "keep_mass is 'no'; expected True or False"),
    (
        lambda: la.ReplaceAttention(la.Uniform(), layers="all"),
        "layers is 'all'; expected an int, or one or more of them",
    ),
    (lambda: la.ReplaceAttention(la.Uniform(), layers=[]), r"layers is \[\]; expected an int, or one or more"),
    (lambda: la.ReplaceAttention(la.Uniform(), heads=[1.5]), r"heads is \[1\.5\]; expected an int, or one or more"),
    (lambda: la.KnockOut("last", "image", layers=2.5), r"layers is 2\.5; expected an int, or one or more"),
    (lambda: la.KnockOut("last", "image", steps="later"), "steps is 'later'; expected 'all', 'prefill', 'decode', or"),
    (lambda: la.KnockOut("last", "image", steps=(2, 2)), r"steps is \(2, 2\); .* with 0 <= first < end"),
    (lambda: la.KnockOut("last", "image", steps=(-1, 2)), r"steps is \(-1, 2\); expected"),
    (lambda: la.KnockOut("last", "image", steps=slice(0, 4, 2)), r"steps is slice\(0, 4, 2\); expected 'all'"),
    (lambda: la.KnockOut("last", "image", steps=slice(-1, 2)), r"steps is slice\(-1, 2, None\); expected 'all'"),
    (lambda: la.KnockOut("last", "image", steps=3), "steps is 3; expected 'all'"),
    (lambda: la.KnockOut("last", "image", steps=(1, 2, 3)), r"steps is \(1, 2, 3\); expected 'all'"),
    (lambda: la.KnockOut("last", "image", steps=None), "steps is None; expected 'all'"),
    (lambda: la.ScaleAttention("twice"), "factor is 'twice'; expected a finite number"),
    (lambda: la.ScaleAttention(float("nan")), "factor is nan; expected a finite number"),
    (lambda: la.ScaleAttention(float("inf")), "factor is inf; expected a finite number"),
    (lambda: la.Ablate("nose"), "what is 'nose'; expected one of 'attn', 'mlp', 'head', 'resid'"),
    (lambda: la.Ablate(["attn"]), r"what is \['attn'\]; expected one of 'attn'"),
    (lambda: la.Ablate("mlp", to="one"), "to is 'one'; expected one of 'zero', 'mean', 'resample'"),
    (lambda: la.Ablate("mlp", heads=1), r"heads= goes with Ablate\('head', …\), not with 'mlp'"),
    (lambda: la.Ablate("mlp", reference=torch.ones(2, 3)), "reference= goes with to='mean' or to='resample'"),
    (
        lambda: la.Ablate("mlp", to="mean", reference=NAN[None]),
        r"Ablate\(reference\) holds 1 values that are NaN or inf",
    ),
    (lambda: la.Ablate("mlp", to="mean", reference="x"), r"Ablate\(reference\) is str; expected a tensor of numbers"),
    (lambda: la.Ablate("mlp", seed=0.5), r"seed is 0\.5; expected an int"),
    (lambda: la.Gaussian(seed="a"), "seed is 'a'; expected an int"),
    (lambda: la.Dirichlet(seed=None), "seed is None; expected an int"),
    (lambda: la.Dirichlet(shared=2), "shared is 2; expected True or False"),
    (lambda: la.VisionPrior("last"), r"VisionPrior\(layer\) is 'last'; expected one vision layer as an int"),
    (lambda: la.Fixed(NAN), r"Fixed\(values\) holds 1 values that are NaN or infinite, of 3; expected numbers"),
    (lambda: la.Fixed(torch.tensor([float("inf")])), r"Fixed\(values\) holds 1 values that are NaN or infinite, of 1"),
    (lambda: la.Fixed("abc"), r"Fixed\(values\) is str; expected a tensor of numbers"),
    (lambda: la.Fixed(torch.ones(0)), r"Fixed\(values\) is of torch.float32 and shape \(0,\); expected some real"),
    (
        lambda: la.Fixed(1.0),
        r"Fixed\(values\) has shape \(\); expected \[key\], \[batch, key\] or \[batch, head, key\]",
    ),
    (lambda: la.Fixed(torch.ones(1, 1, 1, 2)), r"Fixed\(values\) has shape \(1, 1, 1, 2\); expected \[key\]"),
    (
        lambda: la.ReplaceAttention(la.Fixed([0.5, -1.0])),
        r"Fixed\(values\) holds -1, and an attention weight cannot be negative; expected numbers >= 0, or space='sc",
    ),
    (
        lambda: la.ReplaceAttention(la.Fixed([[0.5, 1.0], [0.0, 0.0]])),
        "holds a row of zeros, which cannot share out the mass of a row; keep_mass=False puts zeros in",
    ),
    (lambda: la.FromCache({}), r"FromCache is made from {}; expected {layer: pattern}, or FromCache.of\(cache\)"),
    (
        lambda: la.FromCache({0: torch.ones(2, 3)}),
        r"FromCache holds torch.Size\(\[2, 3\]\) for layer 0; expected an int",
    ),
    (lambda: la.FromCache({0: NAN[None, None, None]}), "FromCache, layer 0, holds 1 values that are NaN or infinite"),
    (
        lambda: la.ReplaceAttention(la.FromCache({0: torch.ones(1, 1, 2, 2)}), steps="decode"),
        r"steps is \(1, None\), but FromCache acts at the prefill only; expected 'all' or 'prefill'",
    ),
    (lambda: la.Released("noise"), "prior is 'noise'; expected one of 'gaussian_noise', 'vision_encoder', 'image_"),
    (
        lambda: la.Released(percentiles=(0.9, 0.3)),
        r"percentiles is \(0.9, 0.3\); expected \(low, high\) with 0 <= low",
    ),
    (lambda: la.Released(percentiles=0.3), r"percentiles is 0.3; expected \(low, high\)"),
    (lambda: la.Released(percentiles=(30, 90)), "percentiles is 30; expected two numbers from 0 to 1"),
    (lambda: la.NoiseUpdate("resid"), "what is 'resid'; expected one of 'attn', 'mlp'"),
    (lambda: la.NoiseUpdate(std=-1), "std is -1; expected a number >= 0, or None to match what is replaced"),
    (lambda: la.NoiseUpdate(std=float("inf")), "std is inf; expected a number >= 0, or None"),
    (lambda: la.NoiseWeights("attn"), "what is 'attn'; expected one of 'qkv', 'mlp'"),
]


@pytest.mark.parametrize(("make", "message"), AT_ONCE, ids=[message[:48] for _, message in AT_ONCE])
def test_refused_when_it_is_made(make, message):
    with pytest.raises(InputError, match=message):
        make()


def pattern(*shape: int) -> la.FromCache:
    return la.FromCache({2: torch.ones(*shape)})


WITH_MODEL = [
    (la.Ablate("mlp", layers=6), r"layer 6 is out of range: the model has 6 layers \(0 to 5, or negative\)"),
    (la.ReplaceAttention(la.Uniform(), layers=[0, -7]), "layer -7 is out of range: the model has 6 layers"),
    (la.NoiseWeights(layers=9), "layer 9 is out of range: the model has 6 layers"),
    (la.RemoveRotary(layers=9), "layer 9 is out of range: the model has 6 layers"),
    (
        la.ReplaceAttention(la.Uniform(), heads=8),
        r"head 8 is out of range: the model has 8 heads \(0 to 7, or negative\)",
    ),
    (la.Ablate("head", heads=[0, -9]), "head -9 is out of range: the model has 8 heads"),
    (
        la.ReplaceAttention(la.Fixed([0.5, 0.5])),
        r"gives 2 values for 1 items, but the chosen keys number \[\d+\]; give one",
    ),
    (la.ReplaceAttention(la.Fixed(torch.ones(1, 3, 5)), keys=slice(0, 5)), r"\(1, 3, 5\) .*; expected 8 heads"),
    (
        la.ReplaceAttention(pattern(1, 8, 3, 3), layers=2),
        r"a pattern of shape \(1, 8, 3, 3\); this prompt needs \(1, 8, \d+, \d+\)",
    ),
    (
        la.ReplaceAttention(pattern(1, 8, 3, 3), layers=1),
        r"FromCache holds layers \[2\], not 1; pass layers= to match",
    ),
    (
        la.KnockOut(torch.ones(3, dtype=torch.bool), "image"),
        r"mask of shape \(3,\) does not fit a prompt of shape \(1, \d+\)",
    ),
    (la.KnockOut("last", torch.ones(2, 3)), "A mask of positions is boolean; got torch.float32"),
    (la.KnockOut("last", "image:3"), "'image:3' asks for an image that is not there"),
    (la.KnockOut(500, "image"), "Position 500 is out of range"),
    (la.KnockOut("last", 2.5), "Positions cannot be chosen by 2.5; give a name"),
    (la.Ablate("mlp", positions="padding"), "'padding' names no position of this prompt"),
    (
        la.Ablate("mlp", to="mean", reference=torch.ones(4, 5)),
        r"has shape \(4, 5\); 'blocks\.0\.hook_mlp_out' needs \[row, 128\]",
    ),
    (la.Ablate("head", to="mean", reference=torch.ones(4, 128)), r"needs \[row, 8, 16\]"),
]


@pytest.mark.parametrize(("edit", "message"), WITH_MODEL, ids=[message[:48] for _, message in WITH_MODEL])
def test_refused_before_the_pass(pair, edit, message):
    for call in (pair.model.run_with_hooks, pair.model.run_with_cache, pair.model.generate):
        with pytest.raises(InputError, match=message):
            call(pair.prompt, interventions=edit)


def test_an_unknown_name_of_positions(pair):
    with pytest.raises(UnknownName, match="No positions are called 'imgae'.*Did you mean 'image'"):
        pair.model.run_with_hooks(pair.prompt, interventions=la.KnockOut("last", "imgae"))


@pytest.mark.parametrize(
    "edit",
    [
        la.ReplaceAttention(la.Gaussian()),
        la.ReplaceAttention(la.VisionPrior()),
        la.Released(),
        la.KnockOut("last", "image"),
        la.ScaleAttention(2.0),
        la.Ablate("mlp", positions="image"),
    ],
    ids=lambda edit: repr(edit)[:40],
)
def test_a_prompt_without_an_image(pair, edit):
    prompt = pair.model.prompt("How many squares are there?")
    with pytest.raises(InputError, match="'image' asks for image tokens, but the prompt holds no image; give one"):
        pair.model.run_with_hooks(prompt, interventions=edit)


@pytest.mark.parametrize("given", [3, [la.Ablate("mlp")], la.Gaussian(), la.Ablate, {"gaussian": la.Ablate("mlp")}])
def test_no_intervention(pair, given):
    received = {int: "3", type: "the class Ablate"}.get(type(given), f"a {type(given).__name__}")
    message = (
        rf"interventions is {received}; expected an intervention such as la.KnockOut\('last', 'image'\), or several"
    )
    with pytest.raises(InputError, match=message):
        pair.model.run_with_hooks(pair.prompt, interventions=given)


def changed(model, blocks=None, **parts) -> Setting:
    """A setting on another architecture: some of its parts, or what becomes of each of its blocks."""
    architecture = model.architecture
    if blocks is not None:
        stack = architecture.stack
        parts["stack"] = dataclasses.replace(stack, blocks=tuple(map(blocks, stack.blocks)))
    return Setting(
        Sites(dataclasses.replace(architecture, **parts)), model.hf, model.prompt("Is it?", images=[PICTURE])
    )


def fused(block):
    path = block.attn.q.replace("q_proj", "qkv")
    own = dataclasses.replace(block.attn, q=None, k=None, v=None, qkv=path, order=(path,))
    return dataclasses.replace(block, attn=own)


def without_attention(block):
    return dataclasses.replace(block, attn=None) if block.path.endswith(("0", "2", "3")) else block


def test_a_vision_prior_without_a_tower(llava):
    setting = changed(llava.model, vision=None, no_vision="Its patches go to the decoder as they are.")
    with pytest.raises(
        InputError,
        match="VisionPrior needs the attention of a vision tower, and in this model there is none to look at. Its",
    ):
        la.ReplaceAttention(la.VisionPrior()).compile(setting)


def test_noise_in_fused_weights(llava):
    setting = changed(llava.model, fused)
    with pytest.raises(InputError, match=r"self_attn makes q, k and v with one fused map; NoiseWeights needs three"):
        la.NoiseWeights("qkv", layers=2).compile(setting)
    assert len(la.NoiseWeights("mlp", layers=2).compile(setting)) == 3


def test_noise_in_what_is_no_linear_map(llava):
    setting = changed(llava.model, lambda block: dataclasses.replace(block, mlp_out=block.mlp))
    with pytest.raises(InputError, match=r"layers\.1\.mlp is a LlamaMLP; NoiseWeights needs a linear map there"):
        la.NoiseWeights("mlp", layers=1).compile(setting)


@pytest.mark.parametrize(
    "edit",
    [
        la.ReplaceAttention(la.Uniform()),
        la.Released(),
        la.KnockOut("last", "image"),
        la.ScaleAttention(2.0),
        la.Ablate("head"),
        la.NoiseWeights("qkv"),
        la.RemoveRotary(),
    ],
    ids=lambda edit: repr(edit)[:30],
)
def test_all_layers_are_those_that_have_attention(llava, edit):
    found = {e.name.split(".")[1] for e in edit.compile(changed(llava.model, without_attention))}
    assert found == {"1", "4", "5"}
    nowhere = changed(llava.model, lambda block: dataclasses.replace(block, attn=None))
    with pytest.raises(InputError, match=r"no layer of this model has 'attn\.hook_\w+', so there is nothing to act on"):
        edit.compile(nowhere)


def test_a_tower_whose_tokens_cannot_be_matched(llava):
    inputs = {**llava.prompt.inputs, "pixel_values": llava.prompt.inputs["pixel_values"][:, :, :32, :32]}
    prompt = SimpleNamespace(inputs=inputs, token_map=llava.prompt.token_map)
    setting = Setting(llava.model.sites, llava.model.hf, prompt)
    message = r"VisionPrior cannot match the tower's patches with the decoder's image tokens: how pixel values of shape"
    with pytest.raises(InputError, match=message):
        la.ReplaceAttention(la.VisionPrior()).compile(setting)


def test_a_cache_without_patterns(pair):
    _, cache = pair.model.run_with_cache(pair.prompt, "blocks.0.hook_resid_pre")
    with pytest.raises(
        InputError, match="the cache kept no patterns; run it with names_filter=lambda name: 'pattern' in"
    ):
        la.FromCache.of(cache)
    with pytest.raises(UnknownName, match="'blocks.2.attn.hook_pattern' was not kept by this pass"):
        la.FromCache.of(cache, layers=2)
