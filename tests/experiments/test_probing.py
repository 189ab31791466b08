"""The second experiment: other attention, the same questions."""

from __future__ import annotations

import pytest

import lostattn as la
from lostattn.errors import InputError
from lostattn.experiments.answering import judged, room_by_kind
from lostattn.experiments.probing import attention_sources, probe_questions

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


def test_the_likeliest_choice_is_scored_where_asked(tiny_llava, shapes_questions):
    """Whole answers, or their first tokens, under each condition; nothing is left unread."""
    old = shapes_questions.only("colour")[0]
    longer = la.data.Question("x", old.text, old.images, "red square", ("red square", "red", "blue"), "colour", "x")
    questions = [*shapes_questions[:4], longer]
    edit = la.KnockOut("last", "image")
    found = probe_questions(tiny_llava, questions, {"cut": edit}, progress=False, scoring="log_probability").table
    assert not found["unread"].any() and len(found) == 10
    for question in questions:
        for name, own in (("untouched", None), ("cut", edit)):
            row = found[(found["id"] == question.id) & (found["condition"] == name)].iloc[0]
            scores = tiny_llava.score_answers(question, interventions=own)
            assert (row["read"], row["correct"]) == (scores.best[0], bool(scores.correct))
    table = la.experiments.probe(tiny_llava, questions[:4], {"cut": edit}, progress=False, scoring="first_token")
    assert table.attrs["scoring"] == "first_token" and (table["unread"] == 0).all()
    with pytest.raises(InputError, match="'red square' and 'red' are the same tokens"):
        la.experiments.probe(tiny_llava, [longer], {"cut": edit}, progress=False, scoring="first_token")
    with pytest.raises(InputError, match="scoring is 'loglik'; expected one of 'strict', 'log_probability'"):
        la.experiments.probe(tiny_llava, questions, {"cut": edit}, scoring="loglik")
    with pytest.raises(InputError, match="judge= reads what was said, and with scoring='first_token' nothing is"):
        la.experiments.probe(tiny_llava, questions, {"cut": edit}, scoring="first_token", judge=lambda s, q: None)


def test_each_kind_of_question_has_its_own_room(tiny_llava, shapes_questions):
    """A long choice of one kind gives no other kind more room, whatever the batch."""
    old = shapes_questions.only("colour")[0]
    said = "a very long colour indeed"
    longer = la.data.Question("x", old.text, old.images, said, (said, "red"), "named colour", "x")
    questions = [*shapes_questions.only("shape", "choice")[:4], longer]
    rooms = room_by_kind(tiny_llava, questions)
    tokens = len(tiny_llava.processor.tokenizer(said, add_special_tokens=False)["input_ids"])
    assert rooms["named colour"] == tokens + 12 > rooms["choice"] > rooms["shape"] > 12
    assert set(room_by_kind(tiny_llava, questions, 5).values()) == {5}
    results = probe_questions(tiny_llava, questions, {}, progress=False)
    assert results.meta["max_new_tokens_by_kind"] == rooms and results.meta["max_new_tokens"] == max(rooms.values())
    assert sorted(results.table["id"]) == sorted(q.id for q in questions)


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
