"""Attention flow: each number is a knock-out's own, windows are what they say, errors come before anything runs."""

from __future__ import annotations

import bounds
import pytest

import lostattn as la
from lostattn import KnockOut
from lostattn.answers import answer_probability, answer_tokens
from lostattn.errors import InputError
from lostattn.experiments.attention_flow import EDGES, flow, flow_questions

pytestmark = pytest.mark.slow


def test_each_row_is_a_knock_out_of_its_own(tiny_model, shapes_questions) -> None:
    questions = shapes_questions[:5]
    results = flow_questions(tiny_model, questions, windows=[[1, 2], [0, 5]], batch_size=3, progress=False)
    table = results.table
    assert len(table) == 5 * len(EDGES) * 3
    assert table.window.unique().tolist() == ["1-2", "0,5", "0-5"]
    for edge, window, layers in (("image -> last", "1-2", [1, 2]), ("within image", "0,5", [0, 5])):
        for question in questions:
            right = answer_tokens(tiny_model, question)
            cut = KnockOut(*EDGES[edge], layers=layers)
            prompt = tiny_model.prompt(question)
            logits = tiny_model(prompt)
            before = float(answer_probability(logits, right))
            after = float(answer_probability(tiny_model.run_with_hooks(prompt, interventions=cut), right))
            row = table[(table.edge == edge) & (table.window == window) & (table.id == question.id)]
            # A probability is off by no more than its logits.
            off = bounds.passes(tiny_model.hf, prompt.inputs) * float(logits.abs().max())
            bounds.close(row.untouched, [before], off, size=1)
            bounds.close(row.probability, [after], off, size=1)
            bounds.close(row.change, [(after - before) / before], 2 * off, size=1 / before)
    assert results.meta["windows"] == [[1, 2], [0, 5], [0, 1, 2, 3, 4, 5]]


def test_the_summary_averages_over_questions(tiny_llava, shapes_questions) -> None:
    edges = {"image -> last": EDGES["image -> last"]}
    table = flow(tiny_llava, shapes_questions[:6], edges, windows=5, progress=False)
    rows = flow_questions(tiny_llava, shapes_questions[:6], edges, windows=5, progress=False).table
    assert table.window.tolist() == ["0-4", "1-5", "0-5"] and (table.n == 6).all()
    for row in table.itertuples():
        own = rows[rows.window == row.window]
        share = bounds.passes(tiny_llava.hf, tiny_llava.prompt(shapes_questions[:6]).inputs)
        bounds.close(row.change, own.change.mean(), share)
        assert row.low <= row.change <= row.high
    assert table.attrs["experiment"] == "flow"


def test_a_window_of_the_whole_model_is_there_once(tiny_llava, shapes_questions) -> None:
    edges = {"image -> last": EDGES["image -> last"]}
    table = flow(tiny_llava, shapes_questions[:2], edges, windows=6, progress=False)
    assert table.window.tolist() == ["0-5"]


def test_bad_windows_and_edges_are_refused(tiny_llava, shapes_questions) -> None:
    for windows in (0, 7, [[6]], [[]], []):
        with pytest.raises(InputError, match=r"windows is .*; expected"):
            flow(tiny_llava, shapes_questions[:1], windows=windows, progress=False)
    with pytest.raises(InputError, match="edges is empty"):
        flow(tiny_llava, shapes_questions[:1], {}, progress=False)
    with pytest.raises(InputError, match="the data set is empty"):
        flow(tiny_llava, [], progress=False)
    with pytest.raises(InputError, match="No positions are called 'picture'"):
        flow(tiny_llava, shapes_questions[:1], {"x": ("last", "picture")}, progress=False)


def test_an_answer_of_several_tokens_is_taken_whole(tiny_llava, shapes_questions) -> None:
    old = shapes_questions.only("colour")[0]
    question = la.data.Question("x", old.text, old.images, "red square", ("red square", "blue"), "colour", "x")
    table = la.experiments.flow(tiny_llava, [question], {"image -> last": ("last", "image")}, 6, progress=False)
    cut = la.KnockOut("last", "image")
    for column, edit in (("untouched", None), ("probability", cut)):
        scores = tiny_llava.score_answers(question, interventions=edit)
        assert table[column].tolist() == scores.value("probability").tolist()
    assert not table.attrs["acted_nowhere"]
