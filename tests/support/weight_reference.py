"""What multiplies by weights in a quantised or adapted model, beside sums over the weights that its library writes out.

What people see (sums of heads, attributions of a logit and of patches, noise in weights) is held to sums written out
here over plain weights. Where a layer rounds its inputs, too, no dequantised model has the same activations; there
those of the quantised one are multiplied by the dequantised weights.
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Iterator
from typing import Any

import peft
import torch
from torch import Tensor

import lostattn as la

RIGHT, WRONG, LAYER = 17, 31, 1
_PARTS = r".*language_model.*\.({})"

Pair = tuple[str, Tensor, Tensor]  # what it is, as it was found, as it should be


def lora(parts: str | None = None, **options: Any) -> Any:
    return peft.LoraConfig(r=3, **({"target_modules": _PARTS.format(parts)} if parts else {}), **options)


ADAPTERS: dict[str, Callable[[], Any]] = {
    "q and v": lambda: lora("q_proj|v_proj"),
    "o": lambda: lora("o_proj"),
    "down": lambda: lora("down_proj"),
    "all": lambda: lora(target_modules="all-linear"),
    "head": lambda: lora(target_modules=["lm_head"]),
    "head and embedding": lambda: lora(target_modules=["lm_head", "embed_tokens"]),
    "DoRA": lambda: lora("q_proj|o_proj|down_proj", use_dora=True),
    "IA3": lambda: peft.IA3Config(
        target_modules=_PARTS.format("k_proj|v_proj|down_proj"), feedforward_modules=_PARTS.format("down_proj")
    ),
    "copies of norms, projector and head": lambda: lora(
        "o_proj", modules_to_save=["input_layernorm", "norm", "multi_modal_projector", "merger", "lm_head"]
    ),
    "copies of FFN and output map": lambda: lora("q_proj", modules_to_save=["mlp", "o_proj"]),
    "norms": lambda: peft.LNTuningConfig(target_modules=["input_layernorm", "post_attention_layernorm", "norm"]),
}


@functools.cache
def question() -> Any:
    return la.data.load("shapes", split="test", n=1, seed=3)[0]


@functools.cache
def plain(name: str) -> Any:
    return la.load(name)


def wrapped(name: str, module: Any, proved: bool = True) -> Any:
    return la.load(module, processor=plain(name).processor, selftest=proved)


def gap(found: Tensor, expected: Tensor) -> float:
    """How far off, relative to the size of what is expected."""
    return float((found.double() - expected.double()).norm() / expected.double().norm())


def heads_by_hand(cache: Any, weights: Any) -> list[Tensor]:
    """What each head writes, ``[layer][batch, pos, head, d_model]``: by its columns of the plain output map alone."""
    found = []
    for i, layer in enumerate(weights.model.language_model.layers):
        z, o = cache["z", i], layer.self_attn.o_proj.weight.detach()
        width = z.shape[-1]
        written = [z[..., h, :] @ o[:, h * width : (h + 1) * width].T for h in range(z.shape[-2])]
        found.append(torch.stack(written, -2))
    return found


def towards_by_hand(cache: Any, weights: Any) -> Tensor:
    """The direction of the last stream along which one token's logit rises against another's, through the norm."""
    norm, rows = weights.model.language_model.norm, weights.lm_head.weight.detach()
    stream = cache["resid_post", -1][0, -1]
    scale = (stream.pow(2).mean() + norm.variance_epsilon).sqrt()
    return norm.weight.detach() * (rows[RIGHT] - rows[WRONG]) / scale


def by_key(cache: Any, weights: Any, towards: Tensor) -> Tensor:
    """``[head, key]``: each key's value, through its head, along a direction."""
    pattern, value = cache["pattern", LAYER][0, :, -1], cache["v", LAYER][0]
    o, width = weights.model.language_model.layers[LAYER].self_attn.o_proj.weight.detach(), value.shape[-1]
    n, grouped = len(pattern), len(pattern) // value.shape[-2]
    rows = [value[:, h // grouped] @ o[:, h * width : (h + 1) * width].T @ towards * pattern[h] for h in range(n)]
    return torch.stack(rows)


def pairs(model: Any, weights: Any) -> Iterator[Pair]:
    """Everything that multiplies by weights, against sums over a plain model's weights."""
    logits, cache = model.run_with_cache(model.prompt(question()))
    heads, towards = heads_by_hand(cache, weights), towards_by_hand(cache, weights)
    for i, expected in enumerate(heads):
        yield "heads", cache["result", i], expected
        yield "sums of heads", cache["result", i].sum(-2), expected.sum(-2)
    yield "unembedding", cache.W_U, weights.lm_head.weight.detach()
    stacked = cache.stack_head_results(pos_slice="last")[:, 0, 0]
    yield "heads", stacked, torch.cat([written[0, -1] for written in heads])
    expected = torch.stack([written[0, -1] @ towards for written in heads])
    attributed = cache.logit_attrs(stacked[:, None, None], RIGHT, WRONG, pos_slice="last")
    yield "logit_attrs", attributed.flatten(), expected.flatten()
    image = la.lenses.image_attribution(cache, RIGHT, WRONG)
    yield "image_attribution", image.values.sum(-1), expected
    yield "image_attribution", image.values[LAYER], by_key(cache, weights, towards)
    # The parts of a difference of logits add up to it, up to what a head of codes rounds.
    parts = cache.logit_attrs(cache.decompose_resid(pos_slice="last"), RIGHT, WRONG, pos_slice="last").sum(0).flatten()
    difference, size = logits[:, -1, RIGHT] - logits[:, -1, WRONG], logits[:, -1].abs().max()
    yield "logit_attrs", torch.cat([parts, size[None]]), torch.cat([difference, size[None]])


def noise_pairs(model: Any, other: Any, rounds: bool = False) -> Iterator[Pair]:
    """Noise in weights is the other model's: of the same moments, in the place of the same map.

    A model whose layers round what they are given (``rounds``) brings another stream to the layer, so there the other
    model is handed its stream: what noise makes of that is not rounded.
    """
    for what, stream, points in (
        ("qkv", "resid_pre", ("q", "k", "v")),
        ("mlp", "resid_mid", ("pre", "pre_linear", "mlp_out")),
    ):
        edit = la.NoiseWeights(what, layers=LAYER, seed=2)
        _, found = model.run_with_cache(model.prompt(question()), interventions=edit)
        handed = la.Patch.of(found, f"blocks.{LAYER}.hook_{stream}") + edit if rounds else edit
        _, expected = other.run_with_cache(other.prompt(question()), interventions=handed)
        for point in points:
            yield "NoiseWeights", found[point, LAYER], expected[point, LAYER]
