"""Experiments that are broken off and go on, and questions that fail."""

from __future__ import annotations

import pandas as pd
import pytest
import torch
from passes import counted

import lostattn as la
from lostattn.data import Questions, load
from lostattn.errors import InputError
from lostattn.experiments import decouple_questions, flow_questions, probe, probe_questions
from lostattn.experiments.rescoring import rescore, score_table
from lostattn.experiments.results import Results, mean_summary

EDITS = {
    "gaussian": la.ReplaceAttention(la.Gaussian(seed=0), layers=[1]),
    "zero": la.Ablate("mlp", layers=[2]),
    "uniform": la.ReplaceAttention(la.Uniform(), layers=[0, 3]),
}


@pytest.fixture(scope="module")
def questions():
    return load("shapes", n=9, seed=4)


def experiments(model, questions):
    """Each experiment as a function of where rows are kept."""
    return {
        "probe": lambda **keep: probe_questions(
            model, questions, EDITS, seeds=(0, 1), batch_size=4, max_new_tokens=2, progress=False, **keep
        ),
        "decouple": lambda **keep: decouple_questions(model, questions[:5], batch_size=3, progress=False, **keep),
        "flow": lambda **keep: flow_questions(model, questions, batch_size=5, progress=False, **keep),
    }


@pytest.mark.parametrize("name", ["probe", "decouple", "flow"])
def test_a_run_broken_off_goes_on_to_the_same_table(tiny_llava, questions, tmp_path, name):
    run = experiments(tiny_llava, questions)[name]
    with counted(tiny_llava.hf) as whole:
        plain = run()
    for share in (0.3, 0.8):
        journal = tmp_path / f"{share}"
        with pytest.raises(KeyboardInterrupt), counted(tiny_llava.hf, last=int(share * whole.n)):
            run(journal=journal)
        with counted(tiny_llava.hf) as rest:
            resumed = run(journal=journal, resume=True)
        # A unit, and the pass that a reference remembers, may be made again.
        assert rest.n <= (1 - share) * whole.n + 5
        for format_, results in (("plain", plain), ("resumed", resumed)):
            results.save(tmp_path / format_ / "t.parquet")
        same = [(tmp_path / format_ / "t.parquet").read_bytes() for format_ in ("plain", "resumed")]
        assert same[0] == same[1]
    with counted(tiny_llava.hf) as none:
        run(journal=journal, resume=True)
    assert none.n == 0


def test_what_differs_is_named_and_nothing_is_lost(tiny_llava, questions, tmp_path):
    keep = {"batch_size": 4, "max_new_tokens": 2, "progress": False, "journal": tmp_path / "j"}
    probe_questions(tiny_llava, questions, EDITS, **keep)
    others = [
        ({"batch_size": 3}, questions, EDITS, "batch_size was 4 and is 3"),
        ({"seeds": (0,)}, questions, EDITS, r"seeds was \[0, 1, 2\]"),
        ({}, questions[1:], EDITS, r"questions\.n was 9 and is 8"),
        ({}, questions, {**EDITS, "zero": la.Ablate("mlp", layers=[3])}, r"conditions\.zero\S* was .*2.* and is .*3"),
    ]
    for settings, asked, edits, told in others:
        with pytest.raises(InputError, match=told):
            probe_questions(tiny_llava, asked, edits, **{**keep, **settings}, resume=True)
    weight = tiny_llava.hf.get_output_embeddings().weight
    with torch.no_grad():
        before = weight[0, 0].clone()
        weight[0, 0] += 1
    try:
        with pytest.raises(InputError, match="weights was"):
            probe_questions(tiny_llava, questions, EDITS, **keep, resume=True)
    finally:
        with torch.no_grad():
            weight[0, 0] = before
    with counted(tiny_llava.hf) as none:
        probe_questions(tiny_llava, questions, EDITS, **keep, resume=True)
    assert none.n == 0
    with pytest.raises(InputError, match="name its folder"):
        probe_questions(tiny_llava, questions, EDITS, resume=True)
    with pytest.raises(InputError, match="expected 'raise' or 'row'"):
        probe_questions(tiny_llava, questions, EDITS, on_error="ignore")


@pytest.fixture
def with_a_bad_one(questions, tmp_path):
    """A folder of questions, one of whose pictures is torn."""
    folder = Questions(questions).save(tmp_path / "data")
    torn = folder / "images" / "00006-0.png"
    torn.write_bytes(torn.read_bytes()[:60])
    with pytest.raises(InputError, match=questions[6].id):
        load(folder)
    return load(folder, on_error="row")


@pytest.mark.parametrize("name", ["probe", "decouple", "flow"])
def test_a_broken_picture_is_a_row_that_says_so(tiny_llava, questions, with_a_bad_one, name):
    bad = questions[6].id
    run = experiments(tiny_llava, Questions([*with_a_bad_one[4:], *with_a_bad_one[:4]]))[name]
    table = run(on_error="row").table
    lost = table[table["id"] == bad]
    assert len(lost) and set(lost["status"]) == {"bad picture"} and lost["error"].str.contains(bad).all()
    assert set(table[table["id"] != bad]["status"]) == {"ok"}
    # As many rows as of any other question, and no number or answer in them.
    assert len(lost) == (table["id"] == questions[5].id).sum()
    for column in ("correct", "said", "rid", "probability", "change"):
        assert column not in lost or lost[column].isna().all()
    with pytest.raises(InputError, match=bad):
        run()
    with pytest.raises(InputError, match=bad):
        tiny_llava.prompt(with_a_bad_one[6])


def test_the_table_counts_failed_questions_and_compares_the_others(tiny_llava, questions, with_a_bad_one, tmp_path):
    settings = {"batch_size": 4, "max_new_tokens": 2, "progress": False}
    table = probe(tiny_llava, with_a_bad_one, EDITS, **settings, on_error="row")
    alone = probe(tiny_llava, [q for q in questions if q.id != questions[6].id], EDITS, **settings)
    whole = table[table["kind"] == "all"].reset_index(drop=True)
    assert whole["failed"].tolist() == [1] * len(whole)
    beside = alone[alone["kind"] == "all"].reset_index(drop=True)
    pd.testing.assert_frame_equal(whole.drop(columns="failed"), beside)
    results = probe_questions(tiny_llava, with_a_bad_one, EDITS, **settings, on_error="row")
    again = rescore(results, with_a_bad_one, "strict")
    assert again.summary().equals(results.summary())
    assert score_table(results, with_a_bad_one)["n"].max() == len(questions) - 1
    assert Results.load(results.save(tmp_path / "t.parquet")["parquet"]).summary().equals(results.summary())


@pytest.mark.parametrize("error", [torch.OutOfMemoryError("CUDA out of memory"), ValueError("odd")])
def test_a_question_that_fails_by_itself_does_not_take_its_batch_with_it(
    tiny_llava, questions, monkeypatch, error, tmp_path
):
    prompt = type(tiny_llava).prompt

    def failing(self, given, *rest, **keywords):
        if any(q.id == questions[2].id for q in given):
            raise error
        return prompt(self, given, *rest, **keywords)

    monkeypatch.setattr(type(tiny_llava), "prompt", failing)
    run = experiments(tiny_llava, questions)["probe"]
    table = run(on_error="row", journal=tmp_path / "j").table
    lost = table[table["id"] == questions[2].id]
    memory = isinstance(error, torch.OutOfMemoryError)
    assert set(lost["status"]) == {"out of memory" if memory else "failed"}
    assert lost["error"].str.contains(str(error)).all() and lost["correct"].isna().all()
    assert set(table[table["id"] != questions[2].id]["status"]) == {"ok"}
    again = run(on_error="row", journal=tmp_path / "j", resume=True).table
    assert again.equals(table)
    with pytest.raises(type(error)):
        run()


def test_where_nothing_succeeds_it_is_not_the_questions(tiny_llava, questions):
    edit = {"far": la.ReplaceAttention(la.Uniform(), keys="nowhere")}
    with pytest.raises(InputError, match="nowhere"):
        probe(tiny_llava, questions, edit, max_new_tokens=2, progress=False)
    monkey = pytest.MonkeyPatch()
    monkey.setattr(type(tiny_llava), "prompt", lambda *a, **k: (_ for _ in ()).throw(ValueError("always")))
    with monkey.context(), pytest.raises(InputError, match="all of the first 9 questions failed.*ValueError: always"):
        probe(tiny_llava, questions, EDITS, max_new_tokens=2, progress=False, on_error="row")
    monkey.undo()


def test_a_group_in_which_all_failed_is_a_row_without_numbers():
    rows = [
        {
            "layer": layer,
            "id": f"q{k}",
            "rid": 0.25 * k if fine else None,
            "status": "ok" if fine else "failed",
            "error": "",
        }
        for layer, fine in ((0, True), (1, False))
        for k in range(3)
    ]
    table = mean_summary(pd.DataFrame(rows), ["rid"], ["layer"])
    assert table["n"].tolist() == [3, 0] and table["failed"].tolist() == [0, 3]
    assert table["rid"][0] == 0.25 and table["rid"].isna().tolist() == [False, True]
