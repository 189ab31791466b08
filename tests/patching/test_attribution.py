"""Attribution patching: true to first order, complete where it integrates, and like the sweep on trained models."""

from __future__ import annotations

import functools

import bounds
import numpy as np
import pytest
import torch
from tiny import FAMILIES, INPUTS, MAKERS, batched, rounding, unequal

from lostattn import patching
from lostattn.answers import answer_tokens, logit_difference
from lostattn.errors import InputError
from lostattn.model.load import load

pytestmark = pytest.mark.slow

POINTS = ["resid_pre", "attn_out", "mlp_out", "z", "q", "v", "pattern", "attn_scores"]


@functools.cache
def double(family: str):
    return load(MAKERS[family](dtype=torch.float64), selftest=False)


def metric(logits: torch.Tensor) -> torch.Tensor:
    return logits[:, -1, 17] - logits[:, -1, 40]


def nearby(family: str, distance: float):
    """Two prompts whose pictures differ by a little noise."""
    model, clean = double(family), INPUTS[family]()
    noise = torch.randn(clean["pixel_values"].shape, generator=torch.Generator().manual_seed(7))
    other = {**clean, "pixel_values": clean["pixel_values"] + distance * noise}
    return model, model.prompt(inputs=clean), model.prompt(inputs=other)


@pytest.mark.parametrize("family", FAMILIES)
def test_it_is_the_sweep_to_first_order(family: str) -> None:
    """Close by, the estimate is the effect; the error falls with the square of the distance."""
    args = {"metric": metric, "points": POINTS, "layers": [1], "positions": ["image", "last"]}
    errors = []
    for distance in (5e-2, 5e-3):
        true, estimate = patching.sweep(*nearby(family, distance), **args), patching.attribute(
            *nearby(family, distance), **args
        )  # fmt: skip
        keys = ["point", "layer", "head", "positions", "item", "clean", "corrupted"]
        assert (true[keys] == estimate[keys]).all(axis=None)
        errors.append((true.effect - estimate.effect).abs().max() / true.effect.abs().max())
        bounds.close(estimate.value, estimate.corrupted + estimate.effect, bounds.sums(2, torch.float64))
    assert errors[0] < 0.2 and errors[1] < 0.3 * errors[0], errors


@pytest.mark.parametrize("family", FAMILIES)
def test_heads_and_positions_share_out_the_whole(family: str) -> None:
    model, clean, corrupted = nearby(family, 0.5)
    whole = patching.attribute(model, clean, corrupted, metric, "z", [1], {"everything": "all"})
    parts = patching.attribute(model, clean, corrupted, metric, "z", [1], "each", "each")
    assert len(parts) == clean.n_pos * model.cfg.n_heads
    share, size = bounds.sums(len(parts) * model.cfg.d_head, torch.float64), parts.effect.abs().sum()
    bounds.close(parts.effect.sum(), whole.effect.item(), share, size=size)
    assert (parts.effect.abs() > 1e3 * share * size).sum() > 20


def noise(family: str) -> float:
    """How far off a logit may be, besides an integral whose error goes with the square of its steps.

    Of two sums, one over twice as many steps, the finer is off by a third of what they differ by; as much as they
    differ by is allowed.
    """
    model, clean, _ = nearby(family, 2.0)
    return rounding(family) * float(model(clean)[:, -1].abs().max())


@pytest.mark.parametrize("family", FAMILIES)
def test_integrated_along_the_input_it_is_complete(family: str) -> None:
    """What the first stream is given adds up to the difference of the two runs."""
    model, clean, corrupted = nearby(family, 2.0)
    args = (model, clean, corrupted, metric, "resid_pre", [0], {"everything": "all"})
    plain, integrated = patching.attribute(*args), patching.attribute(*args, steps=24)
    span = integrated.clean - integrated.corrupted
    off = abs(integrated.effect.item() - patching.attribute(*args, steps=12).effect.item()) + noise(family)
    assert abs(span.item()) > 20 * off
    assert integrated.effect.item() == pytest.approx(span.item(), rel=0, abs=off)
    assert abs(plain.effect.item() - span.item()) > abs(integrated.effect.item() - span.item())


@pytest.mark.parametrize("family", FAMILIES)
@pytest.mark.parametrize("point", ["z", "pattern", "attn_scores", "resid_mid"])
def test_integrated_along_a_node_its_cells_add_up_to_the_patch_of_the_whole(family: str, point: str) -> None:
    model, clean, corrupted = nearby(family, 2.0)
    args = (model, clean, corrupted, metric, point, [1])
    true = patching.sweep(*args, {"everything": "all"}).effect.item()
    heads = None if point == "resid_mid" else "each"
    cells = patching.attribute(*args, ["image", "text"], heads, steps=12, along="node")
    plain = patching.attribute(*args, ["image", "text"], heads)
    assert bounds.moved(true, 0.0, rounding(family), size=model(clean)[:, -1])
    fewer = patching.attribute(*args, ["image", "text"], heads, steps=6, along="node")
    off = abs(cells.effect.sum() - fewer.effect.sum()) + noise(family)
    assert abs(true) > 20 * off
    assert cells.effect.sum() == pytest.approx(true, rel=0, abs=off)
    assert abs(plain.effect.sum() - true) > 2 * abs(cells.effect.sum() - true)


@pytest.fixture
def linear(monkeypatch: pytest.MonkeyPatch):
    """A decoder that is a linear map of its input: norms that only weigh, gates held open, even attention."""
    from transformers.models.llama.modeling_llama import LlamaRMSNorm

    module = MAKERS["llava"](dtype=torch.float64)
    monkeypatch.setattr(LlamaRMSNorm, "forward", lambda self, x: 0.3 * self.weight * x)
    for block in module.model.language_model.layers:
        block.mlp.act_fn = Open()
        torch.nn.init.zeros_(block.self_attn.q_proj.weight)
    return load(module, selftest=False)


class Open(torch.nn.Module):
    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return torch.ones_like(x)


def test_on_a_linear_model_it_is_the_sweep_itself(linear) -> None:
    clean, other = INPUTS["llava"](seed=0), INPUTS["llava"](seed=1)  # far apart
    prompts = linear.prompt(inputs=clean), linear.prompt(inputs={**clean, "pixel_values": other["pixel_values"]})
    points = ["resid_pre", "resid_mid", "resid_post", "attn_out", "mlp_out", "z", "v", "q", "k"]
    args = (linear, *prompts, metric, points, [1, 2], ["image", "text", "last"], "each")
    true, estimate = patching.sweep(*args), patching.attribute(*args)
    # Nothing is left in single precision here: what a pass makes of one rounding, in the roundings of double precision.
    share = rounding("llava") * bounds.unit(torch.float64) / bounds.unit(torch.float32)
    size = linear(prompts[0])[:, -1]
    felt = true[true.positions == "image"].groupby("point").effect.apply(lambda e: e.abs().max()).drop(["q", "k"])
    assert (felt > 1e6 * share * float(size.abs().max())).all()
    bounds.close(estimate.effect, true.effect, share, size=size)
    for along in ("input", "node"):
        steps = patching.attribute(*args, steps=2, along=along)
        bounds.close(steps.effect, true.effect, share, size=size)


@pytest.mark.parametrize("family", FAMILIES)
def test_nothing_differs_nothing_is_attributed(family: str) -> None:
    model, clean, _ = nearby(family, 0.1)
    table = patching.attribute(model, clean, clean, metric, POINTS, [1], ["image", "last"])
    assert (table.effect == 0).all() and np.isfinite(table.value).all()


def test_pairs_side_by_side_and_a_mean_over_them() -> None:
    model, singles = double("qwen"), unequal("qwen")
    spoilt = [{**one, "pixel_values": one["pixel_values"] + 0.3} for one in singles]
    clean, corrupted = (model.prompt(inputs=batched("qwen", some)) for some in (singles, spoilt))
    args = {"points": "z", "layers": [1], "positions": ["image", "last"]}
    together = patching.attribute(model, clean, corrupted, metric, **args)
    size = model(clean)[:, -1]
    for i, (a, b) in enumerate(zip(singles, spoilt, strict=True)):
        alone = patching.attribute(model, model.prompt(inputs=a), model.prompt(inputs=b), metric, **args)
        bounds.close(together[together["item"] == i].effect, alone.effect, rounding("qwen"), size=size)
    mean = patching.attribute(model, clean, corrupted, lambda logits: metric(logits).mean(), **args)
    bounds.close(mean.effect, together.groupby("positions", sort=False).effect.mean(), rounding("qwen"), size=size)
    assert (mean["item"] == -1).all()


def test_bad_steps_and_layouts_are_refused() -> None:
    model, clean, corrupted = nearby("llava", 0.1)
    with pytest.raises(InputError, match="steps is -1; expected 0, or the number of runs"):
        patching.attribute(model, clean, corrupted, metric, steps=-1)
    with pytest.raises(InputError, match="along is 'path'; expected 'input' or 'node'"):
        patching.attribute(model, clean, corrupted, metric, steps=2, along="path")
    a, b = (model.prompt(inputs=one) for one in unequal("llava")[:2])
    with pytest.raises(InputError, match="unequal layout.*Patch by token group instead"):
        patching.attribute(model, a, b, metric, "resid_pre", [1], ["last"], steps=2)
    with pytest.raises(InputError, match="clean holds 1 items, corrupted 2"):
        patching.attribute(model, clean, corrupted[[0, 0]], metric)


def test_it_follows_the_sweep_on_the_trained_models(tiny_model, shapes_questions) -> None:
    question = next(q for q in shapes_questions if q.kind == "colour")
    right = answer_tokens(tiny_model, question)
    wrong = answer_tokens(tiny_model, question, next(c for c in question.choices if c != question.answer))
    clean = tiny_model.prompt(question)
    corrupted = tiny_model.prompt(patching.corrupt(question, "noise", strength=20, seed=0))
    args = {
        "metric": lambda logits: logit_difference(logits, right.expand(len(logits)), wrong.expand(len(logits))),
        "points": ["attn_out", "mlp_out"],
        "positions": ["image", "question", "last"],
    }
    true = patching.sweep(tiny_model, clean, corrupted, **args)
    estimate = patching.attribute(tiny_model, clean, corrupted, **args, steps=5)
    assert np.corrcoef(true.effect, estimate.effect)[0, 1] > 0.8
