"""Metrics that know the answers, against logits looked up by hand."""

from __future__ import annotations

import bounds
import pytest
import torch

from lostattn import answers, data
from lostattn.errors import InputError


@pytest.fixture(scope="module")
def asked(tiny_model, shapes_questions):
    """Questions of several kinds, with unequally many choices: ``(model, questions, logits)``."""
    questions = [shapes_questions.only(kind)[0] for kind in ("colour", "existence", "choice")]
    assert len({len(q.choices) for q in questions}) > 1
    return tiny_model, questions, tiny_model(tiny_model.prompt(questions)).double()


def by_hand(model, question, logits):
    """The logits of the right answer and of every other choice, one by one."""
    ids = {c: int(answers.answer_tokens(model, question, c)) for c in question.choices}
    right = ids.pop(question.answer)
    return logits[right], torch.stack([logits[i] for i in set(ids.values()) - {right}])


def test_each_kind_is_what_it_says(asked) -> None:
    model, questions, logits = asked
    last = logits[:, -1]
    found = {kind: answers.metric(model, questions, kind)(logits) for kind in answers.KINDS}
    for i, question in enumerate(questions):
        right, wrong = by_hand(model, question, last[i])
        # The same logits; a sum over the words in double precision, whose logarithm is off by a share of the logits.
        near = {"share": bounds.sums(last.shape[-1], torch.float64), "size": last[i]}
        bounds.close(found["logit"][i], right, 0.0)
        bounds.close(found["logit_difference"][i], right - wrong.max(), **near)
        bounds.close(found["log_probability"][i], right - last[i].logsumexp(-1), **near)
        bounds.close(found["probability"][i], (right - last[i].logsumexp(-1)).exp(), **near)
        assert found["correct"][i] == float(right > wrong.max())
    one = answers.metric(model, questions[0], wrong=questions[0].choices[-1])
    token = int(answers.answer_tokens(model, questions[0], questions[0].choices[-1]))
    assert torch.equal(one(logits[:1]), found["logit"][:1] - last[:1, token])
    assert one.wrong.shape == (1, 1) and repr(one) == "AnswerMetric('logit_difference', 1 questions)"


def test_a_wrong_answer_turns_correct_to_zero(asked) -> None:
    model, questions, logits = asked
    metric = answers.metric(model, questions, "correct")
    spoilt = logits.clone()
    spoilt[0, -1, int(metric.right[0])] = -100.0
    assert metric(spoilt)[0] == 0 and metric(spoilt)[1:].equal(metric(logits)[1:])


def test_what_cannot_be_judged_is_refused(asked) -> None:
    model, questions, logits = asked
    with pytest.raises(InputError, match="kind is 'rank'; expected one of 'logit_difference', 'logit'"):
        answers.metric(model, questions, "rank")
    with pytest.raises(InputError, match="made for 3 questions; the logits are of 2"):
        answers.metric(model, questions)(logits[:2])
    question = questions[0]
    alone = data.Question("x", question.text, question.images, "red", ("red",), "colour", "x")
    with pytest.raises(InputError, match="has no other choice whose first token differs"):
        answers.metric(model, alone)
    with pytest.raises(InputError, match="answers are"):
        answers.metric(model, "What colour is it?", "probability")
