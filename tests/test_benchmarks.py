"""The benchmarks: every contender runs, the peers do what the toolkit does, and the page says what the results say."""

from __future__ import annotations

import json
import math
from types import SimpleNamespace

import bounds
import pytest
import torch

import lostattn as la
from benchmarks import lines, memory, page, peers, subjects, timing, workloads

pytestmark = pytest.mark.slow

MICRO = subjects.Size("micro", 2, 48, 80, 3, (2, 32, 40, 2))
SIDE = 3
SIZES = SimpleNamespace(d_model=48, d_mlp=80, d_vision=40, n_layers=2, n_vision_layers=2)  # the same


@pytest.fixture(scope="module")
def subject():
    return workloads.Subject(SIDE, MICRO)


def test_the_edit_by_hand_in_every_way_is_the_toolkits(subject):
    edit = la.ReplaceAttention(la.Uniform())
    ours = subject.lvlm.run_with_hooks(subject.prompt, (), edit)[:, -1]
    with peers.hand_edit(subject.columns):
        by_hand = peers.bare(subject.plain, subject.given)[:, -1]
    with peers.eager_edit(subject.columns):
        eager = peers.bare(subject.eager, subject.given)[:, -1]
    traced = peers.nnsight_edit(subject.nnsight, subject.given, subject.columns)[:, -1]
    share = bounds.depth(subject.lvlm.cfg)
    for theirs in (by_hand, eager, traced):
        bounds.close(ours, theirs, share)
    assert bounds.moved(ours, peers.bare(subject.plain, subject.given)[:, -1], share, times=1)


def test_generation_by_hand_is_the_toolkits(monkeypatch):
    def sharp(*arguments):
        """Weights so large that an edit of attention changes the tokens."""
        model = llava(*arguments)
        for parameter in model.parameters():
            parameter.mul_(12 if parameter.dim() > 1 else 1)
        return model

    llava = subjects.llava
    monkeypatch.setattr(subjects, "llava", sharp)
    runs = {name: make() for name, make in workloads.generating(SIDE, MICRO, 6).items()}
    tokens = {name: run() for name, run in runs.items()}
    ids = {name: getattr(found, "sequences", found) for name, found in tokens.items()}
    assert torch.equal(ids["lostattn, uniform"], ids["by hand around sdpa"])
    for name in ("lostattn, untouched", "lostattn, an edit that never acts"):
        assert torch.equal(ids[name], ids["bare generate"])
    assert not torch.equal(ids["lostattn, uniform"], ids["bare generate"])


def test_what_is_cached_is_the_same_in_every_way():
    runs = {name: make() for name, make in workloads.caching(SIDE, MICRO).items()}
    _, ours = runs["lostattn"]()
    hooked, traced = runs["hand-written hooks"](), runs["plain nnsight"]()
    _, theirs = runs["TransformerBridge"]()
    for i in range(MICRO.n_layers):
        points = [ours[f"blocks.{i}.hook_resid_{at}"] for at in ("pre", "mid", "post")]
        for n, (at, other) in enumerate(
            zip(("pre", "mid", "post"), ("hook_in", "ln2.hook_in", "hook_out"), strict=True)
        ):
            assert torch.equal(points[n], hooked[f"{at}{i}"]) and torch.equal(points[n], traced[3 * i + n])
            bounds.close(points[n], theirs[f"blocks.{i}.{other}"], bounds.depth(SIZES))


def test_patterns_and_textbook_metrics_run_and_agree():
    runs = {name: make() for name, make in workloads.patterns(SIDE, MICRO, True).items()}
    rows = runs["lostattn, last row"]()
    _, theirs = runs["TransformerBridge"]()
    for i, row in enumerate(rows):
        bounds.close(row[:, :, 0], theirs[f"blocks.{i}.attn.hook_pattern"][:, :, -1], bounds.depth(SIZES))
    assert runs["lostattn, every row, one layer at a time"]() > 0
    numbers = {name: make()() for name, make in workloads.metrics(20, 33, 2, MICRO).items()}
    # In single precision: singular values of twenty rows, of which those within a factor of ten matter; and differences
    # of entropies of up to the logarithm of twenty, of cosines of 33 numbers.
    single = bounds.spectra(20, 10) * bounds.unit() / bounds.unit(torch.float64)
    for name, share, size in (("rid", single, None), ("mixig", bounds.sums(33), math.log(20))):
        ours, theirs = (numbers[way][name].double() for way in ("lostattn, float64", "textbook SVDs, float32"))
        bounds.close(ours, theirs, share, size=size)


def test_a_race_is_judged_round_by_round():
    took = {"a": [1.0, 2.0, 4.0], "b": [1.5, 2.0, 8.0]}
    assert timing.ratio(took, "b", "a") == (1.5, 1.0, 2.0)
    calls: list[str] = []
    took = timing.race({name: lambda name=name: calls.append(name) for name in "xyz"}, rounds=2, warm_up=1)
    assert calls == ["x", "y", "z", "y", "z", "x", "z", "x", "y"]
    assert {name: len(seconds) for name, seconds in took.items()} == {"x": 2, "y": 2, "z": 2}


def test_peak_memory_is_seen_after_it_is_given_back():
    def run() -> None:
        torch.ones(32 << 20)  # 128 MiB, touched and freed

    assert 120 << 20 < memory.peak_of(run) < 160 << 20


def test_a_line_is_judged_by_its_bound():
    seconds = {"import nnsight": [2.0, 2.0], "import lostattn": [2.2, 2.2]}
    found = {"workloads": {"import": {"what": "importing", "seconds": seconds}}, "errors": {"rid": 2e-7, "mixig": 1e-9}}
    exact, imported = lines.judged(found)
    assert (exact["found"], exact["at_most"], exact["met"]) == (2e-7, 1e-6, True)
    assert (imported["found"], imported["at_most"], imported["met"]) == (1.1, 1.05, False)
    used = {"bare sdpa forward": 100, "lostattn, uniform": 90, "eager softmax edited": 300}
    assert [line["found"] for line in lines.judged({"workloads": {}, "memory": {"replace_2500": used}})] == [0.0]


def test_a_dtype_of_its_own_is_run_where_the_size_has_another():
    workload = workloads.WORKLOADS["replace_2500_bfloat16"]
    half = workload.of(MICRO)
    assert (half.dtype, MICRO.dtype) == (torch.bfloat16, torch.float32)
    assert not workload.repeats(MICRO) and workload.repeats(half)
    assert workloads.WORKLOADS["caching"].of(MICRO) is MICRO
    runs = {name: make() for name, make in workloads.replacing(SIDE, half, False).items()}
    assert {run().dtype for run in runs.values()} == {torch.bfloat16}
    workload.compare(runs, half)
    with pytest.raises(AssertionError):
        workload.compare({**runs, "eager softmax edited": lambda: runs["bare sdpa forward"]() + 1}, half)


def test_the_page_says_what_the_results_say():
    text = page.PAGE.read_text()
    made = text.split(page.START)[1].split(page.END)[0].strip()
    assert made == page.tables(json.loads(page.RESULTS.read_text()))
