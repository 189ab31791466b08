"""The second experiment: other attention, the same questions."""

from __future__ import annotations

import pytest

import lostattn as la
from lostattn.errors import InputError
from lostattn.experiments.probing import attention_sources, judged, probe_questions

N = 9


@pytest.fixture(scope="module")
def conditions():
    """One that is random, one that is not, and one that cannot leave an answer alone."""
    return {
        "noise": la.ReplaceAttention(la.Gaussian(seed=0)),
        "uniform": la.ReplaceAttention(la.Uniform(), layers=[4, 5]),
        "blind": la.KnockOut("all", "image"),
    }


@pytest.fixture(scope="module")
def run(tiny_model, shapes_questions, conditions):
    """Every condition on a few questions, in batches that pad."""
    results = probe_questions(tiny_model, shapes_questions[:N], conditions, seeds=(0, 7), batch_size=4)
    return tiny_model, shapes_questions[:N], results


def test_every_condition_answers_every_question_and_untouched_is_first(run):
    _, questions, results = run
    table = results.table
    assert list(table["condition"].unique()) == ["untouched", "noise", "uniform", "blind"]
    for (condition, _), rows in table.groupby(["condition", "seed"]):
        assert set(rows["id"]) == {q.id for q in questions}, condition


def test_only_what_is_random_runs_under_several_seeds(run):
    _, _, results = run
    seeds = results.table.groupby("condition")["seed"].unique().map(list).to_dict()
    assert seeds == {"untouched": [0], "noise": [0, 7], "uniform": [0], "blind": [0]}


def test_answers_are_what_the_model_generates_for_the_question_alone(run, conditions):
    model, questions, results = run
    table = results.table.set_index(["condition", "seed", "id"])
    for question in questions[:3]:
        prompt = model.prompt(question)
        assert (
            table.loc[("untouched", 0, question.id), "said"]
            == model.generate(prompt, max_new_tokens=results.meta["max_new_tokens"]).text[0]
        )
        edit = conditions["noise"].with_seed(7)
        said = model.generate(prompt, edit, max_new_tokens=results.meta["max_new_tokens"]).text[0]
        assert table.loc[("noise", 7, question.id), "said"] == said


def test_the_summary_pairs_each_condition_with_the_untouched_run(run):
    model, questions, results = run
    summary = results.summary()
    everything = summary[summary["kind"] == "all"].set_index("condition")
    correct = results.table.groupby("condition")["correct"].mean()
    for condition, row in everything.iterrows():
        assert row["accuracy"] == pytest.approx(correct[condition])
        assert row["difference"] == pytest.approx(correct[condition] - correct["untouched"])
        assert row["n"] == N
    assert everything.loc["untouched", "difference"] == 0
    table = la.experiments.probe(model, questions, {"uniform": la.ReplaceAttention(la.Uniform())}, progress=False)
    expected = ["condition", "kind", "n", "accuracy", "low", "high", "unread", "difference", "p"]
    assert set(expected) <= set(table) and table.attrs["experiment"] == "probe"


def test_the_table_says_what_was_done(run, conditions, tmp_path):
    _, _, results = run
    results.save(tmp_path)
    stored = la.experiments.Results.load(tmp_path)
    for name, edit in conditions.items():
        assert la.Intervention.from_json(_json(stored.meta["conditions"][name])) == edit
    assert stored.meta["seeds"] == [0, 7] and stored.meta["versions"]["transformers"]
    assert stored.table.equals(results.table)


def test_default_conditions_cover_every_source(tiny_model):
    found = attention_sources(layers=[1], queries="text", seed=3)
    assert list(found) == ["gaussian", "dirichlet", "uniform", "vision", "complexity", "released"]
    assert all(edit.layers == (1,) and edit.queries == "text" for edit in found.values())


def test_what_cannot_be_read_is_wrong_and_told(run, tmp_path):
    _, _, results = run
    table = results.table.assign(unread=[i % 3 == 0 for i in range(len(results.table))])
    told = la.experiments.Results(table).summary().set_index(["condition", "kind"])
    expected = table[table["condition"] == "blind"]["unread"].mean()
    assert told.loc[("blind", "all"), "unread"] == pytest.approx(expected) and 0 < expected < 1
    old = la.experiments.Results(results.table.drop(columns=["unread", "read"]))
    old.save(tmp_path)
    assert "unread" not in la.experiments.Results.load(tmp_path).summary()


def test_an_answer_is_judged_as_one_likes(shapes_questions):
    question = shapes_questions.only("choice")[0]
    assert judged("It is a B", question)["read"] == "B"
    nothing = judged("A cat", question)
    assert nothing["said"] == "A cat" and nothing["unread"] and not nothing["correct"]
    assert judged("??", question, lambda said, q: q.answer)["correct"]
    assert judged("??", question, lambda said, q: True) == {
        "said": "??", "answer": question.answer, "read": None, "correct": True, "unread": False,
    }  # fmt: skip
    assert judged("B", question, lambda said, q: None)["unread"]
    with pytest.raises(InputError, match="judge gave 'Z' for question"):
        judged("B", question, lambda said, q: "Z")


def test_bad_input_is_refused(tiny_llava, shapes_questions):
    edit = la.ReplaceAttention(la.Uniform())
    with pytest.raises(InputError, match="data set is empty"):
        la.experiments.probe(tiny_llava, [], {"u": edit})
    with pytest.raises(InputError, match="'untouched' is the run without an intervention"):
        la.experiments.probe(tiny_llava, shapes_questions, {"untouched": edit})
    with pytest.raises(InputError, match="condition 'u' is str; expected an intervention"):
        la.experiments.probe(tiny_llava, shapes_questions, {"u": "uniform"})
    with pytest.raises(InputError, match="seeds is empty"):
        la.experiments.probe(tiny_llava, shapes_questions, {"u": edit}, seeds=())


def _json(data):
    import json

    return json.dumps(data)
