"""Metrics of updates and the decoupling experiment, where updates are parallel or something is added between layers."""

from __future__ import annotations

import functools

import bounds
import pytest
import torch

import lostattn as la
from lostattn.conformance.inputs import picture_inputs, prompt_of
from lostattn.conformance.models import build
from lostattn.errors import InputError
from lostattn.experiments.decoupling import METRICS, _layers_with
from lostattn.reductions import update_metrics, updates


@functools.cache
def run(family: str):
    """``(model, prompt, cache)``."""
    module = build(family)
    model = la.load(module, selftest=False)
    prompt = prompt_of(model, picture_inputs(module, family)[0])
    model.selftest(prompt)
    return model, prompt, model.run_with_cache(prompt)[1]


def near(function, found, *states) -> None:
    """The same metric, of states that were put together in another order: what it makes of their last bits."""
    expected = function(*states)
    off = bounds.felt(function, bounds.sums(3), *states) + bounds.SPECTRAL * float(expected.abs().max())
    torch.testing.assert_close(found, expected, rtol=0, atol=off)


def judged(before, after, metric: str) -> torch.Tensor:
    """A metric of one update, by the public functions."""
    return la.metrics.stream_metrics([before, after])[metric][0]


@pytest.mark.parametrize("metric", METRICS)
def test_what_is_added_between_layers_counts_in_its_own_right(metric: str) -> None:
    model, prompt, cache = run("qwen3_vl")
    found = model.measure(prompt, update_metrics(model, prompt))
    assert set(found) == {"updates.0", "between.0", "updates.1"}
    for i in range(2):
        pre, mid, post = (cache[f"resid_{end}", i] for end in ("pre", "mid", "post"))
        expected = torch.stack([judged(pre, mid, metric), judged(mid, post, metric)])
        bounds.close(found[f"updates.{i}"][metric], expected, bounds.SPECTRAL)
    between = judged(cache["resid_post", 0], cache["resid_pre", 1], metric)
    bounds.close(found["between.0"][metric], between, bounds.SPECTRAL)
    # 24 positions leave no column of the stream out.
    assert between.abs() > 10 * bounds.SPECTRAL or metric == "column_innovation"


@pytest.mark.parametrize("convention", ["paper", "released"])
def test_parallel_updates_are_judged_against_what_they_read(convention: str) -> None:
    model, prompt, cache = run("cohere_compass")
    found = model.measure(prompt, update_metrics(model, prompt, convention=convention))
    assert set(found) == {"updates.0", "between.0", "updates.1"}
    for i in range(2):
        pre = cache["resid_pre", i]
        states = pre + cache["attn_out", i], cache["resid_post", i] - cache["attn_out", i]
        for rid, state in zip(found[f"updates.{i}"]["rid"], states, strict=True):
            near(functools.partial(la.metrics.rid, convention=convention), rid, pre, state)
    near(la.metrics.rid, cache.map(la.metrics.rid, update="mlp")[1], pre, pre + cache["mlp_out", 1])
    table = updates(layers=[0]).read("x", {k: v for k, v in found.items() if k != "updates.1"})
    assert torch.equal(table["rid.between.0"], found["between.0"]["rid"])
    assert torch.equal(table["rid.mlp.0"], found["updates.0"]["rid"][1])


def test_the_experiment_and_its_references_in_parallel_blocks(monkeypatch: pytest.MonkeyPatch) -> None:
    model, prompt, cache = run("cohere_compass")
    monkeypatch.setattr(la.LVLM, "prompt", lambda model, questions: prompt)  # the tiny family has no processor
    asked = list(la.data.load("shapes", split="test", n=1, seed=0)) * len(prompt)
    controls = ("noise_delta", "noise_qkv", "rope")
    table = la.experiments.decouple_questions(model, asked, controls, seed=3, progress=False).table
    rows = {where: {"rid": torch.tensor(part["rid"].to_numpy())} for where, part in table.groupby(["layer", "update"])}
    both = [(i, what) for i in range(2) for what in ("attention", "ffn", *controls)]
    assert set(rows) == {*both, (0, "between")}
    pre = cache["resid_pre", 1]
    edits = {"noise_delta": la.NoiseUpdate("attn", 1, seed=3), "noise_qkv": la.NoiseWeights("qkv", 1, seed=3)}
    for control, edit in edits.items():
        _, noisy = model.run_with_cache(prompt, interventions=edit)
        near(la.metrics.rid, rows[1, control]["rid"], pre, pre + noisy["attn_out", 1])
    _, unturned = model.run_with_cache(prompt, interventions=la.RemoveRotary(layers=[1]))
    near(la.metrics.rid, rows[1, "rope"]["rid"], pre + unturned["attn_out", 1], pre + cache["attn_out", 1])


def test_references_act_where_there_is_attention_and_layers_in_one_are_refused() -> None:
    model, prompt, _ = run("nemotron_h_omni")
    assert [block.attn is None for block in model.architecture.stack.blocks] == [True, True, False, True]
    assert (_layers_with(model, "rope"), _layers_with(model, "noise_delta")) == ([2], [0, 1, 2, 3])
    with pytest.raises(InputError, match=r"layer 0 \(no attention\) has no 'attn' update that can be told apart"):
        update_metrics(model, prompt)
