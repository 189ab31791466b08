"""The first experiment: who adds what to the stream."""

from __future__ import annotations

import bounds
import pytest
import torch

import lostattn as la
from lostattn.conformance.inputs import picture_inputs, prompt_of
from lostattn.conformance.models import build
from lostattn.errors import InputError
from lostattn.experiments import decoupling
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


class Calls:
    """How often some modules run."""

    def __init__(self, *modules):
        self.n = [0] * len(modules)
        self.handles = [m.register_forward_hook(lambda *_, i=i: self._count(i)) for i, m in enumerate(modules)]

    def _count(self, i):
        self.n[i] += 1

    def __enter__(self):
        return self

    def __exit__(self, *raised):
        for handle in self.handles:
            handle.remove()


def test_a_reference_is_one_pass_of_attentions(tiny_llava, shapes_questions):
    """Not one a layer; the FFNs, the last layer's too, and the unembedding are run for the untouched pass alone."""
    layers = tiny_llava.hf.model.language_model.layers
    modules = [tiny_llava.hf.lm_head, *(one.mlp.down_proj for one in layers), *(one.self_attn.o_proj for one in layers)]
    with Calls(*modules) as calls:
        decouple_questions(tiny_llava, shapes_questions[:2], batch_size=2, progress=False)
    n = len(layers)
    assert calls.n == [1] + [1] * n + [1 + len(CONTROLS)] * n
    with Calls(*modules) as calls:
        decouple_questions(tiny_llava, shapes_questions[:2], controls=[], progress=False)
    assert calls.n == [1] * (1 + 2 * n)


class Silent:
    """A progress bar that shows nothing."""

    def update(self, n=1):
        pass


def asked(model, batch, controls, units=None):
    """What a batch gives under some units."""
    measures = decoupling._Measures(model, controls, "paper", None, 3, False)
    return list(measures.ask(list(batch), units or measures.units, Silent()))


def both_ways(model, batch, controls, monkeypatch, units=None):
    """With one pass for each reference, and with one for each layer."""
    together = asked(model, batch, controls, units)
    monkeypatch.setattr(decoupling, "layers_stand_alone", lambda model: False)
    alone = asked(model, batch, controls, units)
    monkeypatch.undo()
    return together, alone


def test_they_are_what_a_pass_a_layer_gives(tiny_model, shapes_questions, monkeypatch):
    """The same operations in the same shapes: to the bit, on a batch that pads; numbers, and where the edits acted."""
    assert decoupling.layers_stand_alone(tiny_model)
    together, alone = both_ways(tiny_model, shapes_questions[:3], CONTROLS, monkeypatch)
    assert together == alone and len(together) == 1 + tiny_model.cfg.n_layers * len(CONTROLS)


def test_some_units_alone(tiny_llava, shapes_questions, monkeypatch):
    """A run that goes on asks for those that are missing."""
    units = ["noise_delta, layer 2", "rope, layer 0", "rope, layer 4"]
    together, alone = both_ways(tiny_llava, shapes_questions[:2], CONTROLS, monkeypatch, units)
    assert together == alone and [unit for unit, *_ in together] == units


@pytest.mark.parametrize(
    ("family", "controls"),
    [
        ("gemma3", CONTROLS),  # a norm behind attention
        ("cohere2_vision", CONTROLS),  # attention and FFN side by side
        ("qwen3_vl", CONTROLS),  # something is added between layers
        ("mllama", ("noise_delta",)),  # layers that look at the picture alone
        ("llama4", ("noise_delta", "noise_qkv")),  # experts
    ],
)
def test_in_families_of_every_layout(family, controls, shapes_questions, monkeypatch):
    module = build(family, "sdpa")
    model = la.load(module, selftest=False)
    prompt = prompt_of(model, picture_inputs(module, family)[0])
    model.prompt = lambda batch: prompt
    together, alone = both_ways(model, shapes_questions[:1], controls, monkeypatch)
    assert together == alone and len(together) > model.cfg.n_layers


def test_layers_that_read_the_keys_of_others_are_taken_one_by_one():
    other = build("gemma3", "sdpa")
    model = la.load(other, selftest=False)
    assert decoupling.layers_stand_alone(model)
    other.model.language_model.layers[1].self_attn.is_kv_shared_layer = True
    assert not decoupling.layers_stand_alone(model)
    del other.model.language_model.layers[1].self_attn.is_kv_shared_layer
    other.config.text_config.num_kv_shared_layers = 1
    assert not decoupling.layers_stand_alone(model)


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
