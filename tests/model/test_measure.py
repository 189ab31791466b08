"""Measuring over a data set: each number is that of its question alone, and nothing is held back."""

from __future__ import annotations

import gc
import weakref
from collections.abc import Iterator

import bounds
import pytest
import torch

import lostattn as la
from lostattn import answers
from lostattn.errors import InputError

EDIT = la.KnockOut("last", "image", layers=[2, 3])


def spread(value: torch.Tensor, mask: torch.Tensor) -> torch.Tensor:
    """A plain function of a point: the mean and the largest norm of its real positions."""
    norms = value.norm(dim=-1).masked_fill(~mask, 0.0)
    return torch.stack([norms.sum(-1) / mask.sum(-1), norms.amax(-1)], -1)


def test_each_row_is_a_question_by_itself(tiny_model, shapes_questions) -> None:
    questions = shapes_questions[:7]
    metrics = {
        "favour": "logit_difference",
        "right": "correct",
        "p": "probability",
        "second": lambda logits: logits[:, -1].topk(2).values[:, 1],
        "said": lambda logits, batch: logits.new_tensor([len(q.text) for q in batch]),
        "norm": la.reductions.at("resid_post", spread, [1, -1]),
        "out": la.reductions.at("ln_final.hook_out", la.metrics.effective_rank),
        "all": "updates",
        "rank": la.reductions.at("resid_mid", la.metrics.effective_rank, 3),
    }
    table = tiny_model.measure(iter(questions), metrics, EDIT, batch_size=3)
    assert table.id.tolist() == [q.id for q in questions] and table.scene.tolist() == [q.group for q in questions]
    last = tiny_model.cfg.n_layers - 1
    share = bounds.passes(tiny_model.hf, tiny_model.prompt(questions[0]).inputs)
    for row, question in zip(table.to_dict("records"), questions, strict=True):
        prompt = tiny_model.prompt(question)
        logits, cache = tiny_model.run_with_cache(prompt, interventions=EDIT)
        for column, kind in (("favour", "logit_difference"), ("right", "correct"), ("p", "probability")):
            bounds.close(row[column], float(answers.metric(tiny_model, question, kind)(logits)), share, size=logits)
        bounds.close(row["second"], float(logits[0, -1].topk(2).values[1]), share, size=logits)
        assert row["said"] == len(question.text)
        norms = cache["resid_post", 1][0].norm(dim=-1)
        bounds.close([row["norm.1.0"], row["norm.1.1"]], [float(norms.mean()), float(norms.max())], share)
        bounds.close(row[f"norm.{last}.1"], float(cache["resid_post", last][0].norm(dim=-1).max()), share)
        # What a number of the stream makes of a stream that is off by as much.
        for column, function, *points in (
            ("rank.3", la.metrics.effective_rank, ("resid_mid", 3)),
            ("out", la.metrics.effective_rank, "ln_final.hook_out"),
            ("rid.mlp.2", la.metrics.rid, ("resid_mid", 2), ("resid_post", 2)),
        ):
            states = [cache[point] for point in points]
            off = bounds.felt(function, share, *states) + bounds.SPECTRAL * float(function(*states))
            assert row[column] == pytest.approx(float(function(*states)), rel=0, abs=off), column
    summary = la.experiments.Results(table).summary(["favour", "p"], ["kind"])
    assert summary.n.sum() == 7 and set(summary.kind) == {q.kind for q in questions}
    assert table.attrs["n"] == 7 and la.Intervention.from_json(table.attrs["interventions"]) == EDIT


@pytest.mark.slow
def test_what_goes_in_does_not_stay(tiny_llava) -> None:
    """Pictures, logits and activations of a batch are gone before the next but one, however many batches there are."""
    peaks = []
    for n in (4, 10):
        alive: list[weakref.ref] = []
        counts = []

        def questions(n: int = n, alive: list = alive, counts: list = counts) -> Iterator[la.data.Question]:
            for i in range(n):
                if i % 2 == 0:  # a batch begins
                    gc.collect()
                    counts.append(sum(ref() is not None for ref in alive))
                question = la.data.load("shapes", n=1, seed=i)[0]
                alive.append(weakref.ref(question))
                alive.append(weakref.ref(question.images[0]))
                yield question

        def seen(logits: torch.Tensor, alive: list = alive) -> torch.Tensor:
            alive.append(weakref.ref(logits))
            return logits[:, -1, 5]

        def inside(value: torch.Tensor, mask: torch.Tensor, alive: list = alive) -> torch.Tensor:
            alive.append(weakref.ref(value))
            return value.sum((1, 2))

        metrics = {"logit": seen, "sum": la.reductions.at("resid_post", inside)}
        table = tiny_llava.measure(questions(), metrics, batch_size=2)
        assert len(table) == n and len(alive) == 2 * n + (n // 2) * (1 + tiny_llava.cfg.n_layers)
        peaks.append(max(counts))
    assert peaks[0] == peaks[1] <= 20, peaks


def test_a_prompt_of_several_items_and_texts_are_data_too(tiny_qwen, shapes_questions) -> None:
    questions = list(shapes_questions[:3])
    prompt = tiny_qwen.prompt(questions)
    logit = {"logit": lambda logits: logits[:, -1, 9]}
    table = tiny_qwen.measure(prompt, logit, batch_size=2)
    share, logits = bounds.passes(tiny_qwen.hf, prompt.inputs), tiny_qwen(prompt)[:, -1]
    bounds.close(table.logit, logits[:, 9].double(), share, size=logits)
    assert table.columns.tolist() == ["id", "logit"]
    texts = tiny_qwen.measure(["How many?", "What colour is it?"], logit)
    bounds.close(texts.logit.iloc[1], float(tiny_qwen("What colour is it?")[0, -1, 9]), share, size=logits)


def test_numbers_come_from_where_the_model_is(tiny_llava, shapes_questions) -> None:
    metrics = {"favour": "logit_difference", "norm": la.reductions.at("z", means_of_heads, [2]), "u": "updates"}
    here = tiny_llava.measure(shapes_questions[:3], metrics, EDIT, batch_size=2)
    there = tiny_llava.measure(shapes_questions[:3], metrics, EDIT, "local", 2, progress=True)
    assert "norm.2.3" in here
    for column in here.columns.drop(["id", "kind", "scene"]):
        bounds.close(there[column], here[column], bounds.SPECTRAL, of=column)


def means_of_heads(value, mask):
    return value.mean((1, 3))


def test_reductions_of_one_prompt_stay_as_they_were(tiny_llava, shapes_questions) -> None:
    prompt = tiny_llava.prompt(shapes_questions[0])
    found = tiny_llava.measure(prompt, la.reductions.update_metrics(tiny_llava, prompt, [1]))
    assert set(found) == {"updates.1"}
    table = tiny_llava.measure([shapes_questions[0]], "updates")
    bounds.close(table["rid.attn.1"].item(), found["updates.1"]["rid"][0].item(), bounds.SPECTRAL)


def test_what_cannot_be_measured_is_refused(tiny_llava, shapes_questions) -> None:
    measure = tiny_llava.measure
    questions = list(shapes_questions[:2])
    with pytest.raises(InputError, match="no metric is called 'accuracy'; there are logit_difference"):
        measure(questions, "accuracy")
    with pytest.raises(InputError, match="metrics is empty"):
        measure(questions, {})
    with pytest.raises(InputError, match="the metric 'x' is 3; expected a name, a function"):
        measure(questions, {"x": 3})
    with pytest.raises(InputError, match="'updates' more than once"):
        measure(questions, {"a": "updates", "b": la.reductions.updates(convention="released")})
    with pytest.raises(InputError, match="the data set is empty"):
        measure(iter([]), "correct")
    with pytest.raises(InputError, match="batch_size is 0"):
        measure(questions, "correct", batch_size=0)
    with pytest.raises(InputError, match="the data set is str; expected questions or texts"):
        measure("How many?", "correct")
    with pytest.raises(InputError, match="'correct' judge right answers, and the data hold none"):
        measure(tiny_llava.prompt(questions), "correct")
    with pytest.raises(InputError, match=r"the metric 'x' gave \(2, \d+\) for 2 items; expected \[2\]"):
        measure(questions, {"x": lambda logits: logits[:, -1]})


def test_answers_of_several_tokens_are_measured_whole(tiny_llava, shapes_questions) -> None:
    """Under an intervention, beside functions of the logits, in batches of which some hold a longer answer."""
    old = shapes_questions.only("colour")[:3]
    longer = la.data.Question(
        "x", old[1].text, old[1].images, "red square", ("red square", "red", "blue"), "colour", "x"
    )
    questions = [old[0], longer, old[2]]
    edit = la.KnockOut("last", "image", layers=[1, 2])
    metrics = {"p": "probability", "right": "correct", "size": lambda logits: logits[:, -1].norm(dim=-1)}
    table = tiny_llava.measure(questions, metrics, interventions=edit, batch_size=2)
    scores = tiny_llava.score_answers(questions[:2], interventions=edit)
    assert table["p"][:2].tolist() == scores.value("probability").tolist()
    assert table["right"][:2].tolist() == scores.correct.tolist()
    assert table["size"].notna().all() and not table.attrs["acted_nowhere"]
    with pytest.raises(InputError, match="'logit' is of one token, and an answer has several"):
        tiny_llava.measure(questions, "logit")
