"""What cannot act is refused when it is asked for; what did not act is named in the result, part by part."""

from __future__ import annotations

import dataclasses
import functools
import logging

import bounds
import pytest
import torch
from tiny import FAMILIES, batched, rounding, unequal, wrapped

import lostattn as la
from lostattn.errors import InputError
from lostattn.interventions import EarlyProjection
from lostattn.plan.touch_record import Touched
from lostattn.remote.session import Session

HIDDEN = {"llava": 50, "qwen": 60}


@functools.cache
def prompt_of(family):
    """A batch of made-up ids, of which it is taken as known that they hold no answer."""
    made = wrapped(family).prompt(inputs=batched(family, unequal(family)))
    told = dataclasses.replace(made.token_map, located=(True,) * len(made))
    return dataclasses.replace(made, token_map=told)


def acted(family, edit, **keywords):
    return wrapped(family).run_with_cache(prompt_of(family), "hook_unembed", edit, **keywords)[1].touched


NEVER = {
    "keys that are not there": la.KnockOut("last", "answer"),
    "queries that are not there": la.ScaleAttention(0.5, queries="answer", keys="image"),
    "positions that are not there": la.Ablate("mlp", positions="answer"),
    "a vector where nothing is": la.Steer(torch.ones(1), layers=0, positions="answer"),
    "noise where nothing is": la.NoiseUpdate("attn", positions="answer"),
    "one key that keeps its mass": la.ReplaceAttention(la.Gaussian(seed=0), keys=6),
    "one key that keeps its mean": la.ReplaceAttention(la.Dirichlet(seed=0), keys=[9], space="scores", mix=0.5),
    "decoding": la.Ablate("attn", steps="decode"),
    "a later step": la.KnockOut("last", "image", steps=(3, 5)),
    "queries before their keys": la.KnockOut(8, -1),
}


@pytest.mark.parametrize("case", NEVER)
@pytest.mark.parametrize("beside", [None, la.ScaleAttention(0.5)])
def test_what_no_single_pass_can_do_is_refused_alone_and_in_a_sum(case, beside):
    model, edit = wrapped("qwen"), NEVER[case]
    if isinstance(edit, la.Steer):
        edit = la.Steer(torch.ones(HIDDEN["qwen"]), layers=0, positions="answer")
    for sum_of in (edit,) if beside is None else (edit + beside, beside + edit):
        for run in (model.run_with_cache, model.run_with_hooks):
            with pytest.raises(InputError, match="nothing would (be )?change|would change nothing"):
                run(prompt_of("qwen"), interventions=sum_of)


@pytest.mark.parametrize(
    ("edit", "new", "message"),
    [
        (la.Ablate("mlp", steps="decode"), 1, "acts from step 1 on, and a generation of 1 new tokens"),
        (la.KnockOut("last", "image", steps=(4, 9)), 4, "acts from step 4 on, and a generation of 4 new tokens"),
        (la.KnockOut("image", "image", steps="decode"), 4, "nowhere in this prompt together"),
        (la.Ablate("attn", positions="image", steps=(1, 3)), 4, "nowhere in this prompt together"),
        (la.ScaleAttention(2.0, queries="answer", keys="image", steps="prefill"), 4, "nowhere in this prompt together"),
        (la.NoiseUpdate("mlp", positions=[4, 5], steps=(2, None)), 4, "nowhere in this prompt together"),
        (la.Steer(torch.ones(60), layers=1, positions="answer"), 1, "nowhere in this prompt together"),
    ],
)
def test_what_no_step_of_a_generation_can_do_is_refused(edit, new, message):
    for sum_of in (edit, la.ScaleAttention(0.5) + edit):
        with pytest.raises(InputError, match=f"would change nothing: .*{message}"):
            wrapped("qwen").generate(prompt_of("qwen"), sum_of, max_new_tokens=new)


def test_what_may_act_at_a_step_is_let_through():
    model, prompt = wrapped("qwen"), prompt_of("qwen")
    for edit in (la.KnockOut("last", "answer"), la.Ablate("mlp", positions="answer"), la.Ablate("mlp", steps=(1, 9))):
        found = model.generate(prompt, edit, max_new_tokens=3, eos_token_id=None)
        assert not found.touched.nowhere
        assert set(found.touched.table().step) == {1, 2}


def idle(family):
    """Parts that change nothing, each for another reason, though all of them may act."""
    model, prompt = wrapped(family), prompt_of(family)
    _, own = model.run_with_cache(prompt)
    size = HIDDEN[family]
    return {
        "no vector": la.Steer(torch.zeros(size), layers=1),
        "no scale": la.Steer(torch.ones(size), layers=[0, 2], scale=0.0),
        "a factor of one": la.ScaleAttention(1.0, queries="all", keys="all"),
        "no mix": la.ReplaceAttention(la.Gaussian(seed=0), mix=0.0),
        "no mix of scores": la.ReplaceAttention(la.Uniform(), mix=0.0, space="scores"),
        "no head between": la.Released("gaussian_noise", percentiles=(0.3, 0.39), layers=0),
        "its own stream": la.Patch.of(own, "resid_pre", layers=1),
        "its own pattern": la.Patch.of(own, "pattern", layers=2, positions="last"),
        "its own weights": la.ReplaceAttention(la.FromCache.of(own, 0), layers=0, keep_mass=False, queries="all"),
        "one key in sight": la.ReplaceAttention(la.Gaussian(seed=3), queries=0, keys=[0, 1]),
    }


@pytest.mark.parametrize("family", FAMILIES)
def test_what_changed_nothing_is_named(family):
    """Each alone and beside one that acts; the logits prove that it did nothing."""
    model, prompt = wrapped(family), prompt_of(family)
    plain = model.forward(prompt)
    cut = la.KnockOut("last", "image", layers=[0])
    edited = model.run_with_hooks(prompt, interventions=cut)
    for case, edit in idle(family).items():
        logits, cache = model.run_with_cache(prompt, "hook_unembed", edit)
        bounds.close(logits, plain, rounding(family), of=case)
        assert cache.touched.nowhere == (repr(edit),), case
        assert repr(edit) in repr(cache) and "acted nowhere" in repr(cache)
        if case.startswith("its own"):
            continue  # beside another edit it is no longer its own
        logits, cache = model.run_with_cache(prompt, "hook_unembed", edit + cut)
        bounds.close(logits, edited, rounding(family), of=case)
        assert cache.touched.nowhere == (repr(edit),), case
        assert cache.touched.cells[repr(cut)] > 0


@pytest.mark.parametrize("family", FAMILIES)
def test_counts_are_those_of_the_cells(family):
    prompt, n_heads = prompt_of(family), wrapped(family).cfg.n_heads
    images = prompt.token_map["image"].sum(-1)
    text = prompt.token_map["text"].sum(-1)
    edit = la.KnockOut("last", "image", layers=[0, 2], heads=[1, 3]) + la.Ablate("head", layers=1, heads=[0, 2, 3])
    edit += la.Ablate("mlp", layers=[1], positions="text")
    found = acted(family, edit)
    knocked, heads, mlp = found.cells
    by_item = found.by_item(3)
    assert by_item[knocked] == (images * 2 * 2).tolist()
    assert by_item[heads] == (prompt.token_map.real.sum(-1) * 3).tolist()
    assert by_item[mlp] == text.tolist()
    assert found.cells[knocked] == int(images.sum()) * 4 and n_heads > 3
    table = found.table()
    assert table.groupby("edit").cells.sum().to_dict() == found.cells
    assert sorted(set(table[table.edit == knocked].layer)) == [0, 2]
    assert acted(family, None) is None


def test_an_edit_that_acts_in_some_items_alone_says_in_which():
    """Queries that stand before their keys in one item, and behind them in another."""
    model, prompt = wrapped("llava"), prompt_of("llava")
    queries = torch.zeros(3, prompt.n_pos, dtype=torch.bool)
    keys = torch.zeros_like(queries)
    queries[:, 20], keys[0, 22:25], keys[1:, 15:18] = True, True, True
    edit = la.KnockOut(queries, keys, layers=1)
    logits, cache = model.run_with_cache(prompt, interventions=edit)
    counts = cache.touched.by_item(3)[repr(edit)]
    assert counts[0] == 0 and counts[1] == counts[2] == 3 * model.cfg.n_heads
    moved = (logits != model.forward(prompt)).flatten(1).any(1)
    assert moved.tolist() == [False, True, True]
    assert cache.apply_slice_to_batch_dim([0]).touched.nowhere == (repr(edit),)
    assert not cache.apply_slice_to_batch_dim([1, 0]).touched.nowhere


def test_equal_parts_are_told_apart_and_the_second_may_have_nothing_left():
    cut = la.KnockOut("last", "image", layers=[1])
    found = acted("qwen", cut + cut)
    assert found.nowhere == (f"{cut!r} (2)",) and found.cells[repr(cut)] > 0


def test_the_tower_is_counted_whole():
    edit = EarlyProjection(0) + la.ScaleAttention(0.5)
    found = acted("llava", edit)
    assert found.cells[repr(EarlyProjection(0))] > 0
    assert list(found.by_item(3)) == [repr(la.ScaleAttention(0.5))]
    assert (found.table().query("layer == -1").item == -1).all()


@pytest.mark.parametrize("remote", [False, "local"])
def test_it_comes_along_from_everywhere(remote, tmp_path):
    model, prompt = wrapped("qwen"), prompt_of("qwen")
    edit = la.KnockOut("last", "image", layers=[1]) + la.ScaleAttention(1.0)
    _, cache = model.run_with_cache(prompt, "hook_embed", edit, remote=remote)
    again = la.ActivationCache.load(cache.save(tmp_path / "kept"), model)
    assert again.touched == cache.touched and again.meta.get("touched") is None
    assert cache.touched.nowhere == (repr(la.ScaleAttention(1.0)),)
    assert Touched.from_dict(cache.touched.to_dict()) == cache.touched
    said = model.generate(prompt, edit, max_new_tokens=3, remote=remote, names_filter="hook_embed", eos_token_id=None)
    assert said.touched == said.cache.touched and said.touched.nowhere == cache.touched.nowhere
    assert said.touched.table().query("cells > 0").step.nunique() == 3
    assert "acted nowhere: ScaleAttention(factor=1.0)" in repr(said)
    with Session(model, remote) as session:
        later = session.run_with_hooks(prompt, interventions=edit)
    assert later.touched == cache.touched
    _, back = model.run_with_cache(prompt, "hook_embed", edit, backward=lambda logits: logits[:, -1, 5], remote=remote)
    assert back.touched == cache.touched
    with pytest.raises(InputError, match="where edits acted"):
        Touched.from_dict({"edits": 3})


def test_logits_and_numbers_tell_it_in_the_log(caplog, tiny_llava, shapes_questions):
    prompt = tiny_llava.prompt(shapes_questions[0])
    with caplog.at_level(logging.WARNING, "lostattn"):
        tiny_llava.run_with_hooks(prompt, interventions=la.KnockOut("last", "image"))
        assert not caplog.records
        tiny_llava.run_with_hooks(prompt, interventions=la.ScaleAttention(1.0) + la.KnockOut("last", "image"))
        assert [one.getMessage() for one in caplog.records] == ["acted nowhere: ScaleAttention(factor=1.0)"]


def test_tables_name_what_acted_nowhere(caplog, tiny_llava, shapes_questions):
    questions = [shapes_questions[i] for i in range(5)]
    idle_one, cut = la.ScaleAttention(1.0), la.KnockOut("last", "image")
    with caplog.at_level(logging.WARNING, "lostattn"):
        table = tiny_llava.measure(questions, "correct", idle_one + cut, batch_size=2)
        assert table.attrs["acted_nowhere"] == [repr(idle_one)]
        assert table.attrs["touched"][repr(cut)] > 0 and table.attrs["touched"][repr(idle_one)] == 0
        assert [one.getMessage() for one in caplog.records] == [f"acted nowhere: {idle_one!r}"]
    probed = la.experiments.probe(
        tiny_llava, questions, {"cut": cut, "idle": idle_one, "both": cut + idle_one}, batch_size=3, progress=False
    )
    assert probed.attrs["acted_nowhere"] == {"idle": [repr(idle_one)], "both": [repr(idle_one)]}
    assert probed.attrs["touched"]["cut"][repr(cut)]["questions"] == 5
    flowed = la.experiments.flow(
        tiny_llava, questions, {"image -> last": ("last", "image")}, windows=[[1]], batch_size=3, progress=False
    )
    assert flowed.attrs["acted_nowhere"] == {}
    counts = flowed.attrs["touched"]["image -> last, layers 1"]
    assert [one["questions"] for one in counts.values()] == [5]
