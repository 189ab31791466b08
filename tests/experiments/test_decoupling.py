"""The first experiment: who adds what to the stream."""

from __future__ import annotations

import bounds
import pytest
import torch

import lostattn as la
from lostattn.errors import InputError
from lostattn.experiments.decoupling import CONTROLS, METRICS, decouple_questions

N = 5


@pytest.fixture(scope="module")
def run(tiny_model, shapes_questions):
    """Both models on a few questions, in batches that pad."""
    return tiny_model, shapes_questions[:N], decouple_questions(tiny_model, shapes_questions[:N], batch_size=3)


def share(model, data) -> float:
    """How far two passes may lie apart."""
    return bounds.passes(model.hf, model.prompt(data).inputs)


def near(model, question, found: float, metric, *states) -> None:
    """A metric of two states, which are those of a batch in the experiment and of the question alone here."""
    expected = float(metric(*states))
    off = bounds.felt(metric, share(model, question), *states) + bounds.SPECTRAL * abs(expected)
    assert found == pytest.approx(expected, rel=0, abs=off)


def test_there_is_one_row_a_question_layer_and_update(run):
    model, questions, results = run
    table = results.table
    updates = {"attention", "ffn", *CONTROLS}
    assert set(table["update"]) == updates
    assert len(table) == N * model.cfg.n_layers * len(updates)
    assert not table.duplicated(["id", "layer", "update"]).any()
    assert table[list(METRICS)].notna().all().all()
    assert set(table["id"]) == {q.id for q in questions}


def test_the_table_tells_where_each_reference_acted(run):
    model, questions, results = run
    tokens = int(sum(model.prompt(q).token_map["all"].sum() for q in questions))
    told = results.meta["touched"]
    assert list(told) == [f"{control}, layer {i}" for control in CONTROLS for i in range(model.cfg.n_layers)]
    for condition, parts in told.items():
        (acted,) = parts.values()
        assert acted["questions"] == N and acted["cells"] > 0, condition
        if condition.startswith("noise_delta"):
            assert acted["cells"] == tokens  # every row of the update, and none of the padding
    assert results.meta["acted_nowhere"] == {}


def test_a_reference_that_acts_nowhere_is_named(shapes_questions):
    model = la.load("tiny-llava", selftest=False)
    with torch.no_grad():
        model.hf.model.language_model.layers[1].self_attn.o_proj.weight.zero_()  # noise of its moments is nothing too
    table = la.experiments.decouple(model, shapes_questions[:1], controls=["noise_delta"], progress=False)
    assert list(table.attrs["acted_nowhere"]) == ["noise_delta, layer 1"]


def test_own_updates_are_the_metrics_of_the_question_alone(run):
    model, questions, results = run
    for question in questions[:2]:
        _, cache = model.run_with_cache(model.prompt(question))
        for update, (before, after) in {
            "attention": ("resid_pre", "resid_mid"),
            "ffn": ("resid_mid", "resid_post"),
        }.items():
            for layer in (0, 3):
                row = _row(results, question, layer, update)
                x, y = cache[before, layer], cache[after, layer]
                near(model, question, row["rid"], la.metrics.rid, x, y)
                near(model, question, row["mixig"], la.metrics.mixig, x, y)


def test_each_control_acts_in_one_layer_on_the_untouched_stream(run):
    model, questions, results = run
    question, layer = questions[0], 2
    prompt = model.prompt(question)
    _, plain = model.run_with_cache(prompt)
    edits = {
        "noise_delta": la.NoiseUpdate("attn", layers=[layer], seed=0),
        "noise_qkv": la.NoiseWeights("qkv", layers=[layer], seed=0),
    }
    for control, edit in edits.items():
        _, cache = model.run_with_cache(prompt, interventions=edit)
        assert torch.equal(cache["resid_pre", layer], plain["resid_pre", layer])
        states = plain["resid_pre", layer], cache["resid_mid", layer]
        near(model, question, _row(results, question, layer, control)["rid"], la.metrics.rid, *states)


def test_epsilon_rope_judges_the_state_with_positions_against_the_one_without(run):
    model, questions, results = run
    question, layer = questions[1], 1
    prompt = model.prompt(question)
    _, with_rope = model.run_with_cache(prompt)
    _, without = model.run_with_cache(prompt, interventions=la.RemoveRotary(layers=[layer]))
    states = without["resid_mid", layer], with_rope["resid_mid", layer]
    near(model, question, _row(results, question, layer, "rope")["rid"], la.metrics.rid, *states)


def test_tables_by_layer_and_over_the_model(run):
    model, questions, results = run
    by_layer = la.experiments.decouple(model, questions, batch_size=3, progress=False)
    by_model = la.experiments.decouple(model, questions, by="model", controls=[], progress=False)
    assert len(by_layer) == model.cfg.n_layers * 5
    assert {"layer", "update", "n", "rid", "rid_low", "rid_high", "mixig", "delta_s", "delta_d"} <= set(by_layer)
    assert list(by_model["update"]) == ["attention", "ffn"]
    own = results.table[results.table["update"] == "ffn"]
    # Of batches of another size; a discrepancy in [0, 2] is no more sensitive than the stream that it is of.
    bounds.close(by_model.set_index("update")["rid"]["ffn"], own["rid"].mean(), share(model, questions))
    assert (by_layer["rid_low"] <= by_layer["rid"]).all() and (by_layer["rid"] <= by_layer["rid_high"]).all()
    assert by_layer.attrs["model"] == model.name and by_layer.attrs["versions"]["torch"]


def test_the_seed_decides_the_noise(run):
    model, questions, results = run

    def noise(seed):
        found = decouple_questions(model, questions[:1], controls=["noise_delta"], seed=seed, progress=False).table
        return found[found["update"] == "noise_delta"]["rid"].tolist()

    first = results.table[(results.table["update"] == "noise_delta") & (results.table["id"] == questions[0].id)]
    bounds.close(noise(0), first["rid"], share(model, questions[0]))
    assert bounds.moved(noise(1), noise(0), share(model, questions[0]), times=100)


def test_bad_input_is_refused(tiny_llava, shapes_questions):
    with pytest.raises(InputError, match="data set is empty"):
        la.experiments.decouple(tiny_llava, [])
    with pytest.raises(InputError, match="'layer' or 'model'"):
        la.experiments.decouple(tiny_llava, shapes_questions, by="head")
    with pytest.raises(InputError, match="'noise'; expected some of noise_delta"):
        la.experiments.decouple(tiny_llava, shapes_questions, controls=["noise"])
    with pytest.raises(InputError, match="batch_size is 0"):
        la.experiments.decouple(tiny_llava, shapes_questions, batch_size=0)


def _row(results, question, layer, update):
    table = results.table
    found = table[(table["id"] == question.id) & (table["layer"] == layer) & (table["update"] == update)]
    assert len(found) == 1
    return found.iloc[0]
