"""Models whose output maps, down projections and heads are modules of somebody's own, or torch's parametrisations.

What is linear loses nothing and comes to what plain layers of its weights give; what is not loses the points that its
weights would make, by its reason, and nothing else.
"""

from __future__ import annotations

import bounds
import pytest
import tiny
import torch
from torch import nn
from torch.nn.utils import parametrizations, parametrize

import lostattn as la
from lostattn.errors import InputError, UnknownName

LAYER = "model.language_model.layers.1"
PLACES = {"o": f"{LAYER}.self_attn.o_proj", "down": f"{LAYER}.mlp.down_proj", "head": "lm_head"}
TOWER = "model.vision_tower.encoder.layers.0.self_attn.out_proj"
RIGHT, WRONG, RANK = 17, 31, 7
SHARE = 20 * bounds.sums(128)  # of what is summed over a layer's widths and then over its layers


def random(*shape: int, seed: int = 0) -> torch.Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed)) / shape[-1] ** 0.5


class LowRank(nn.Module):
    """Two small matrices, a gain for each number and an offset, without a word on its widths."""

    def __init__(self, n_in: int, n_out: int) -> None:
        super().__init__()
        self.down, self.up = nn.Parameter(random(RANK, n_in)), nn.Parameter(random(n_out, RANK, seed=1))
        self.gain, self.offset = nn.Parameter(random(n_out, seed=2)), nn.Parameter(random(n_out, seed=3))

    def forward(self, x):
        return (x @ self.down.T @ self.up.T) * (1 + self.gain) + self.offset

    def plainly(self):
        return (self.up @ self.down) * (1 + self.gain)[:, None], self.offset


class Added(nn.Module):
    """A layer and a correction beside it, as adapters of one's own are written."""

    def __init__(self, layer: nn.Linear) -> None:
        super().__init__()
        self.layer, self.more = layer, LowRank(layer.in_features, layer.out_features)

    def forward(self, x):
        return self.layer(x) + 0.5 * self.more(x)

    def plainly(self):
        weight, offset = self.more.plainly()
        bias = 0 if self.layer.bias is None else self.layer.bias
        return self.layer.weight + 0.5 * weight, bias + 0.5 * offset


class Doubled(nn.Module):
    def forward(self, weight):
        return 2 * weight


def low_rank(layer):
    made = LowRank(layer.in_features, layer.out_features)
    return made, *made.plainly()


def added(layer):
    made = Added(layer)
    return made, *made.plainly()


def doubled(layer):
    weight = 2 * layer.weight.detach()
    parametrize.register_parametrization(layer, "weight", Doubled())
    return layer, weight, layer.bias


def weight_norm(layer):
    made = parametrizations.weight_norm(layer)
    with torch.no_grad():
        made.parametrizations.weight.original0.mul_(1.5)  # the lengths of the rows
    rows, lengths = made.parametrizations.weight.original1, made.parametrizations.weight.original0
    return made, rows / rows.norm(dim=1, keepdim=True) * lengths, layer.bias


def chained(layer):
    first = nn.Linear(layer.in_features, RANK, bias=False)
    first.weight = nn.Parameter(random(RANK, layer.in_features))
    last = nn.Linear(RANK, layer.out_features)
    last.weight, last.bias = nn.Parameter(random(layer.out_features, RANK)), nn.Parameter(random(layer.out_features))
    return nn.Sequential(first, last), last.weight @ first.weight, last.bias


LINEAR = {"low rank": low_rank, "added": added, "doubled": doubled, "weight_norm": weight_norm, "chained": chained}


def proved(module):
    model = la.load(module, selftest=False)
    prompt = model.prompt(inputs=tiny.llava_inputs())
    return model, prompt, model.selftest(prompt)


@pytest.fixture(scope="module")
def names():
    return proved(tiny.llava(seed=3))[0].hook_names


@pytest.mark.parametrize(
    "kind, place",
    [
        *((kind, "o") for kind in LINEAR),
        *((kind, place) for kind in ("low rank", "weight_norm") for place in ("down", "head")),
    ],
)
def test_what_is_linear_loses_nothing_and_is_its_plain_layer(kind, place, names):
    module, plain = tiny.llava(seed=3), tiny.llava(seed=3)
    path = PLACES[place]
    made, weight, bias = LINEAR[kind](module.get_submodule(path))
    module.set_submodule(path, made)
    twin = nn.Linear(weight.shape[1], weight.shape[0], bias=bias is not None)
    twin.weight = nn.Parameter(weight.detach())
    if bias is not None:
        twin.bias = nn.Parameter(bias.detach())
    plain.set_submodule(path, twin)
    model, prompt, report = proved(module)
    assert model.hook_names == names and report.lacks == ()
    other, same, _ = proved(plain)
    (logits, cache), (expected, known) = model.run_with_cache(prompt), other.run_with_cache(same)
    bounds.close(logits, expected, SHARE)
    bounds.close(cache["result", 1].sum(-2), known["result", 1].sum(-2), SHARE)
    bounds.close(cache["result", 1], known["result", 1], SHARE)
    bounds.close(cache.W_U.detach(), known.W_U.detach(), SHARE)
    bounds.close(*(one.get_full_resid_decomposition().detach() for one in (cache, known)), SHARE)
    found, right = (la.lenses.image_attribution(one, RIGHT, WRONG).values for one in (cache, known))
    bounds.close(found, right, SHARE)
    edit = la.Ablate("head", layers=1, heads=2)
    bounds.close(*(m.run_with_hooks(p, interventions=edit) for m, p in ((model, prompt), (other, same))), SHARE)


class Behind(nn.Module):
    """Something that is done behind a layer, which then is no linear map."""

    def __init__(self, layer: nn.Linear, what) -> None:
        super().__init__()
        self.layer, self.what = layer, what
        self.in_features, self.out_features = layer.in_features, layer.out_features

    def forward(self, x):
        return self.what(self.layer(x))


class ClippedBefore(Behind):
    def forward(self, x):
        return self.layer(x.clamp(-self.what, self.what))


def far(module, path):
    """Beyond what random vectors of order one come to, and within what the layer is given: clipped there."""
    seen = []
    hook = module.get_submodule(path).register_forward_hook(lambda _, args, out: seen.append((args[0], out)))
    with torch.no_grad():
        module(**tiny.llava_inputs())
    hook.remove()
    return seen[0]


SQUASHED = {
    "a tanh": ("a sum does not give|negative|twice", lambda layer: Behind(layer, torch.tanh)),
    "a softplus": ("the negative of what it is given", lambda layer: Behind(layer, nn.functional.softplus)),
    "a mean over positions": ("depends on the positions", lambda layer: Behind(layer, lambda y: y + y.mean(-2, True))),
}


@pytest.mark.parametrize("kind", SQUASHED)
def test_an_output_map_that_is_not_linear_loses_its_heads_results_and_no_more(kind, names):
    reason, make = SQUASHED[kind]
    module, path = tiny.llava(seed=3), PLACES["o"]
    module.set_submodule(path, make(module.get_submodule(path)))
    model, prompt, report = proved(module)
    assert set(names) - set(model.hook_names) == {"blocks.1.attn.hook_result"}
    assert report.passed and len(report.lacks) == 1 and path in report.lacks[0] and path in repr(report)
    logits, cache = model.run_with_cache(prompt)
    assert torch.equal(logits, module(**tiny.llava_inputs()).logits)
    for asked in (lambda: cache["result", 1], lambda: model.run_with_cache(prompt, "blocks.1.attn.hook_result")):
        with pytest.raises(UnknownName, match=rf"hook_result.* is not a linear map: .*({reason})"):
            asked()
    for asked in (cache.stack_head_results, lambda: la.lenses.image_attribution(cache, RIGHT, WRONG)):
        with pytest.raises((InputError, UnknownName), match="is not a linear map: "):
            asked()
    assert cache["result", 0].shape[-2] == model.cfg.n_heads
    parts, labels = cache.get_full_resid_decomposition(return_labels=True)
    assert "L0H0" in labels and "L1H0" not in labels and "1_attn_out" in labels
    bounds.close(parts.sum(0), cache["resid_post", -1], SHARE)
    ablated = model.run_with_hooks(prompt, interventions=la.Ablate("head", layers=1, heads=2))
    assert not torch.equal(ablated, logits)


@pytest.mark.parametrize("side", ["what it is given", "what it gives"])
@pytest.mark.parametrize("place", ["o", "down", "head", "tower"])
def test_a_layer_that_clips_what_a_pass_comes_to(place, side, names):
    """Gemma 4's maps: bounds that random vectors of order one need not reach."""
    module = tiny.llava(seed=3)
    path = TOWER if place == "tower" else PLACES[place]
    layer = module.get_submodule(path)
    given, gave = far(module, path)
    if side == "what it is given":
        made = ClippedBefore(layer, float(given.abs().max()) / 2)
    else:
        bound = float(gave.abs().max()) / 2
        made = Behind(layer, lambda y: y.clamp(-bound, bound))
    module.set_submodule(path, made)
    model, prompt, report = proved(module)
    assert [path in lack for lack in report.lacks] == [True]
    lost = {"o": {"blocks.1.attn.hook_result"}, "tower": {"vision_encoder.encoder_layers.0.attn.hook_result"}}
    assert set(names) - set(model.hook_names) == lost.get(place, set())
    _, cache = model.run_with_cache(prompt)
    if place == "down":
        with pytest.raises(InputError, match=r"neurons of layer 1 .* is not a linear map: "):
            cache.get_full_resid_decomposition()
        parts = cache.get_full_resid_decomposition(expand_neurons=False)
        bounds.close(parts.sum(0), cache["resid_post", -1], SHARE)
    if place == "head":
        for asked in (lambda: cache.W_U, lambda: cache.logit_attrs(cache.decompose_resid(), RIGHT, WRONG)):
            with pytest.raises(InputError, match="'lm_head' is not a linear map: "):
                asked()
        bounds.close(cache.to_logits(cache.final_stream), model.run_with_hooks(prompt), SHARE)


def test_a_layer_that_would_clip_beyond_what_a_pass_comes_to_is_the_map_it_is_there(names):
    module, path = tiny.llava(seed=3), PLACES["o"]
    given, _ = far(module, path)
    module.set_submodule(path, ClippedBefore(module.get_submodule(path), 100 * float(given.abs().max())))
    model, _, report = proved(module)
    assert model.hook_names == names and report.lacks == ()


def test_a_second_proof_gives_back_what_a_first_one_took():
    module, path = tiny.llava(seed=3), PLACES["o"]
    made = Behind(module.get_submodule(path), torch.tanh)
    module.set_submodule(path, made)
    model, prompt, report = proved(module)
    assert report.lacks and "blocks.1.attn.hook_result" not in model.hook_names
    made.what = torch.negative
    assert model.selftest(prompt).lacks == () and "blocks.1.attn.hook_result" in model.hook_names
