"""Every public call that takes ``remote=``, as tables: the default tests rehearse them, the NDIF run carries them out.

``TABLE`` holds the calls of a model, ``STUDIES`` what is made of several, ``GRADIENTS`` what a sandbox cannot do.
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Mapping
from types import SimpleNamespace
from typing import Any

import bounds
import pandas as pd
import torch
from PIL import ImageOps
from torch import Tensor

import lostattn as la
from lostattn.reductions import between, update_metrics

Entry = Callable[[Any, Any, Any], Any]


def halved(value: Tensor, hook: Any) -> Tensor:
    """A hook that returns a new value."""
    return value / 2


def first_key_dropped(pattern: Tensor, hook: Any) -> None:
    """A hook that changes what it is given."""
    pattern[..., 0] = 0.0


EDITS: dict[str, la.Intervention] = {
    "gaussian": la.ReplaceAttention(la.Gaussian(seed=1)),
    "dirichlet scores": la.ReplaceAttention(la.Dirichlet(seed=2), layers=[0, 2], heads=[1], space="scores", mix=0.5),
    "uniform": la.ReplaceAttention(la.Uniform(), layers=[1], queries="question", keep_mass=False),
    "vision": la.ReplaceAttention(la.VisionPrior(), layers=[2]),
    "complexity": la.ReplaceAttention(la.Complexity(), layers=[-1]),
    "released": la.Released("gaussian_noise", seed=3),
    "knock out": la.KnockOut("last", "image", layers=[0, -1]),
    "scale": la.ScaleAttention(0.3, layers=[0], keys="image"),
    "noise update": la.NoiseUpdate("attn", layers=[2], seed=4),
    "noise weights": la.NoiseWeights("qkv", layers=[1], seed=5) + la.NoiseWeights("mlp", layers=[2], seed=5),
    "ablations": la.Ablate("head", layers=[1], heads=[0]) + la.Ablate("mlp", layers=[2], to="mean"),
    "resampled": la.Ablate("resid", layers=[0], to="resample", seed=6),
    "no rotary": la.RemoveRotary(layers=[1]),
}
KEPT_AT_STEPS = ["blocks.0.attn.hook_pattern", "blocks.2.attn.hook_pattern", "blocks.1.hook_resid_mid", "hook_unembed"]
MANY = EDITS["gaussian"] + EDITS["vision"] + EDITS["noise weights"] + EDITS["ablations"]


@functools.cache
def questions() -> list[Any]:
    """Four questions about two pictures."""
    return list(la.data.load("shapes", split="test", n=4, seed=1))


def _edited(edit: la.Intervention) -> Entry:
    names = ["blocks.2.hook_resid_post", "blocks.1.attn.hook_pattern"]
    return lambda model, prompt, remote: model.run_with_cache(prompt, names, edit, remote=remote)


def _update(model: la.LVLM, prompt: la.Prompt, remote: Any) -> Any:
    reduction = between(prompt, "one", "blocks.1.hook_resid_pre", "blocks.1.hook_resid_mid")
    return model.measure(prompt, [reduction], EDITS["noise update"], remote=remote)


TABLE: dict[str, Entry] = {
    "forward": lambda m, p, r: m.forward(p, remote=r),
    "cache of everything": lambda m, p, r: m.run_with_cache(p, remote=r),
    "cache of one head's parts": lambda m, p, r: m.run_with_cache(
        p, lambda n: n.endswith(("hook_q", "hook_z")), remote=r
    ),
    "cache under many edits": lambda m, p, r: m.run_with_cache(p, interventions=MANY, remote=r),
    "cache in float64": lambda m, p, r: m.run_with_cache(p, "blocks.0.hook_resid_mid", dtype=torch.float64, remote=r),
    **{f"edit: {name}": _edited(edit) for name, edit in EDITS.items()},
    "hook on a tensor": lambda m, p, r: m.run_with_hooks(p, [("blocks.1.hook_mlp_out", halved)], remote=r),
    "hook on a pattern": lambda m, p, r: m.run_with_hooks(
        p, [("blocks.1.attn.hook_pattern", first_key_dropped)], remote=r
    ),
    "hook that is a lambda": lambda m, p, r: m.run_with_hooks(
        p, [("blocks.0.hook_resid_post", lambda x, hook: x * (1 + hook.layer()))], remote=r
    ),
    "generation": lambda m, p, r: m.generate(p, max_new_tokens=3, remote=r),
    "generation under edits": lambda m, p, r: m.generate(p, MANY, max_new_tokens=3, remote=r),
    "generation with a cache": lambda m, p, r: m.generate(
        p, MANY, max_new_tokens=3, names_filter=KEPT_AT_STEPS, remote=r
    ),
    "metrics": lambda m, p, r: m.measure(p, update_metrics(m, p), remote=r),
    "metrics, as released": lambda m, p, r: m.measure(p, update_metrics(m, p, [1, 2], "released"), remote=r),
    "metrics of one update": _update,
}


def _pair(model: la.LVLM) -> tuple[Any, Any, Any]:
    """A prompt, the same with its picture in other colours, and a metric of its answer."""
    one = questions()[0]
    clean = model.prompt(one.text, images=list(one.images))
    corrupted = model.prompt(one.text, images=[ImageOps.invert(image) for image in one.images])
    yes, no = (la.answers.answer_tokens(model, one.text, word) for word in ("yes", "no"))
    return clean, corrupted, lambda logits: la.answers.logit_difference(logits, yes, no)


def _sweep(model: la.LVLM, prompt: la.Prompt, remote: Any) -> Any:
    return la.patching.sweep(
        model, *_pair(model), ["resid_pre", "pattern"], layers=[1, 3], positions=["image"], remote=remote
    )


def _paths(model: la.LVLM, prompt: la.Prompt, remote: Any) -> Any:
    return la.patching.path_patch(model, *_pair(model), [("z", 1, 3)], [("q", 3, 1)], remote=remote)


def _flow(model: la.LVLM, prompt: la.Prompt, remote: Any) -> Any:
    edges = {"image -> last": ("last", "image")}
    return la.experiments.flow(model, questions(), edges, [[0, 1]], batch_size=2, progress=False, remote=remote)


def _direction(model: la.LVLM, prompt: la.Prompt, remote: Any) -> Any:
    return la.means.difference_of_means(model, questions()[:2], questions()[2:], layers=[1], remote=remote)


STUDIES: dict[str, Entry] = {
    "score_answers": lambda m, p, r: m.score_answers(questions(), interventions=MANY, remote=r).table(),
    "sweep": _sweep,
    "path_patch": _paths,
    "flow": _flow,
    "vision_lens": lambda m, p, r: la.lenses.vision_lens(m, p, layers=[0], remote=r),
    "collect_pool": lambda m, p, r: la.pools.collect_pool(m, questions(), "z", [1], size=8, remote=r).rows,
    "collect_means": lambda m, p, r: la.means.collect_means(m, questions(), ["z", "resid_post"], [1, 2], remote=r),
    "difference_of_means": _direction,
}

GRADIENTS: dict[str, Entry] = {
    "gradients": lambda m, p, r: la.gradients.gradients(m, p, summed, POINTS, EDITS["knock out"], remote=r),
    "run_with_cache": lambda m, p, r: m.run_with_cache(p, [*POINTS, "pattern1"], remote=r, backward=summed),
    "attribute": lambda m, p, r: la.patching.attribute(m, *_pair(m), "z", [1], ["image"], steps=2, remote=r),
    "input_attribution": lambda m, p, r: la.lenses.input_attribution(m, p, summed, remote=r),
}
POINTS = ["blocks.1.attn.hook_z", "blocks.2.attn.hook_pattern", "blocks.3.hook_resid_mid", "vision_projector.hook_out"]


def summed(logits: Tensor) -> Tensor:
    """A metric: something of every logit."""
    return logits.float().logsumexp(-1).sum(-1)


def flat(value: Any, at: str = "") -> dict[str, Tensor]:
    """Every tensor of a result, by where it stands."""
    if isinstance(value, Tensor):
        return {at: value}
    if isinstance(value, la.ActivationCache):
        slopes = {name: tensor for name, tensor in value._kept.items() if name.endswith("_grad")}
        return {f"{at}[{name}]": value[name] for name in value} | slopes
    if isinstance(value, pd.DataFrame):
        numbers = value.select_dtypes("number")
        return {f"{at}.{name}": torch.tensor(numbers[name].to_numpy()) for name in numbers}
    if isinstance(value, la.means.Means):
        return flat({**value.mean, **{f"{name} (variance)": spread for name, spread in value.variance.items()}}, at)
    if isinstance(value, la.means.Directions):
        return flat(value.vectors, at)
    if isinstance(value, la.lenses.Readout):
        return {f"{at}.logits": value.logits}
    if hasattr(value, "sequences"):
        kept = {} if value.cache is None else flat(value.cache, f"{at}.cache")
        return {f"{at}.sequences": value.sequences, f"{at}.tokens": value.tokens, **kept}
    parts = value.items() if isinstance(value, Mapping) else enumerate(value)
    return {where: tensor for key, part in parts for where, tensor in flat(part, f"{at}.{key}").items()}


# The bundled models are no wider and no deeper; another process may add up in another order, by other threads.
SHARE = bounds.depth(SimpleNamespace(d_model=128, d_mlp=352, d_vision=96, n_layers=6, n_vision_layers=4))


def assert_equal(here: Any, there: Any) -> None:
    """Equal in names, shapes and dtypes, and in every number as two passes are (infinities where they are)."""
    mine, theirs = flat(here), flat(there)
    assert list(mine) == list(theirs)
    assert mine, "nothing was compared"
    for name, tensor in mine.items():
        other = theirs[name]
        assert tensor.dtype == other.dtype and tensor.shape == other.shape, name
        bounds.close(other, tensor, SHARE, size=mine.get(bounds.sized_by(name)), of=name)
