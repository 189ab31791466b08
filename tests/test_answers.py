"""Metrics that know the answers, against logits looked up by hand."""

from __future__ import annotations

import bounds
import padding
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


def by_template(model, question, answer):
    """The ids of an answer behind a question, by the Hugging Face template and tokenizer alone."""
    turns = [{"role": "user", "content": [{"type": "text", "text": question}]}]
    render, tokenizer = model.processor.apply_chat_template, model.processor.tokenizer
    said = [*turns, {"role": "assistant", "content": [{"type": "text", "text": answer}]}]
    before = tokenizer(render(turns, add_generation_prompt=True))["input_ids"]
    both = tokenizer(render(said, continue_final_message=True))["input_ids"]
    assert both[: len(before)] == before
    return both[len(before) :]


def test_own_picture_and_text_take_right_and_wrong(tiny_model, shapes_questions) -> None:
    """Without a question of seven fields: the prompt, and what is right and wrong about it, in words or ids."""
    model, question = tiny_model, shapes_questions.only("shape")[0]
    prompt = model.prompt("What shape is the object?", images=list(question.images))
    logits = model(prompt)
    first = {word: by_template(model, "What shape is the object?", word)[0] for word in ("circle", "square", "red")}
    last = logits[0, -1]
    expected = last[first["circle"]] - torch.stack([last[first["square"]], last[first["red"]]]).max()
    for asked in (prompt, "What shape is the object?", model.prompt(inputs=prompt.inputs)):
        for wrong in (["square", "red"], ("square", "red"), [["square", "red"]]):
            metric = answers.metric(model, asked, right="circle", wrong=wrong)
            assert metric(logits).equal(expected[None])
    wrong_ids = [first["square"], first["red"]]
    for wrong in (wrong_ids, torch.tensor(wrong_ids), [(one,) for one in wrong_ids]):
        for right in (first["circle"], torch.tensor([first["circle"]]), (first["circle"],)):
            assert answers.metric(model, prompt, right=right, wrong=wrong)(logits).equal(expected[None])
    probability = answers.metric(model, prompt, "probability", right="circle")
    bounds.close(probability(logits)[0], last.softmax(-1)[first["circle"]], bounds.sums(len(last)))
    two = model.prompt(["What shape?", "What colour?"], images=[list(question.images)] * 2)
    both = answers.metric(model, two, right=["circle", "red"], wrong=[["square", "cross"], ["blue"]])
    assert both.wrong.shape == (2, 2) and both.wrong[1, 1] == -1
    assert both.right.tolist() == [first["circle"], first["red"]]


def test_an_answer_goes_on_with_what_was_said_so_far(tiny_model, shapes_questions) -> None:
    model, question = tiny_model, shapes_questions.only("colour")[0]
    prompt = model.prompt(question, answer="The colour is")
    full = model.prompt(question, answer="The colour is red")
    found = answers.answer_tokens(model, prompt, "red")
    assert found.tolist() == full.inputs["input_ids"][0, prompt.n_pos :].tolist()
    whole = answers.whole_answer_tokens(model, question, ["square red"])
    assert whole[0].tolist() == by_template(model, question.text, "square red")


def test_what_one_token_does_not_settle_is_refused(tiny_model, shapes_questions) -> None:
    """Choices that begin alike are not dropped, so no wrong answer counts as right."""
    model, old = tiny_model, shapes_questions.only("colour")[0]
    alike = ("square red", "square blue", "circle")
    question = data.Question("x", old.text, old.images, "square red", alike, "colour", "x")
    for kind in answers.COMPARING:
        for tokens in ("whole", "first"):
            if (kind, tokens) != ("correct", "whole"):
                with pytest.raises(InputError, match="begin alike, so logits at the prompt's last position"):
                    answers.metric(model, question, kind, tokens=tokens)
    longer = data.Question("x", old.text, old.images, "square red", ("square red", "circle"), "colour", "x")
    for kind in ("logit", "probability", "log_probability", "correct"):
        with pytest.raises(InputError, match="has 2 tokens .* that is not the .* of the answer"):
            answers.metric(model, longer, kind)
        assert answers.metric(model, longer, kind, tokens="first").right.equal(answers.answer_tokens(model, longer))
    told = answers.metric(model, longer)  # by the first token, at which they differ
    assert told.right.equal(answers.answer_tokens(model, longer)) and told.wrong.shape == (1, 1)
    # With what they have in common in the prompt, the rest can be told apart.
    prompt = model.prompt(longer, answer="square")
    logits = model(prompt)
    red, blue = (by_template(model, old.text, f"square {colour}")[1] for colour in ("red", "blue"))
    assert answers.metric(model, prompt, right="red", wrong="blue")(logits).equal(
        logits[:, -1, red] - logits[:, -1, blue]
    )


def test_a_whole_answer_is_read_off_a_prompt_that_ends_with_it(tiny_model, shapes_questions) -> None:
    """The sum over its tokens, each at the position before it, on either side of the padding; with its gradient."""
    model, questions = tiny_model, list(shapes_questions.only("colour")[:2])
    said = ["square red blue", "green"]
    prompt = model.prompt(questions, answer=said)
    tokens = answers.whole_answer_tokens(model, questions, said)
    assert tokens.shape == (2, 3) and (tokens[1, 1:] == -1).all()
    logits = model(prompt)
    expected = []
    for i, text in enumerate(said):
        alone = prompt[i]
        ids = by_template(model, questions[i].text, text)
        rows = logits[i, -len(ids) - 1 : -1].log_softmax(-1)
        assert alone.inputs["input_ids"][0, -len(ids) :].tolist() == ids
        expected.append(sum(rows[j, token] for j, token in enumerate(ids)))
    share = bounds.sums(3 * logits.shape[-1])
    bounds.close(answers.answer_log_probability(logits, tokens), torch.stack(expected), share, size=logits)
    bounds.close(answers.answer_probability(logits, tokens), torch.stack(expected).exp(), share, size=logits)
    padded = model.prompt(inputs=padding.right(prompt.inputs))
    told = answers.answer_log_probability(model(padded), tokens)
    bounds.close(told, torch.stack(expected), bounds.passes(model.hf, prompt.inputs) + share, size=logits)
    slope = model.run_with_cache(prompt, ["hook_embed"], backward=lambda x: answers.answer_log_probability(x, tokens))
    assert bool(slope[1].grad("hook_embed").any())
    with pytest.raises(InputError, match="2 right answers for logits of 1 items"):
        answers.answer_log_probability(logits[:1], tokens)
    with pytest.raises(InputError, match="have up to 3 tokens, and the logits are of 3 positions"):
        answers.answer_log_probability(logits[:, -3:], tokens)


def test_a_right_answer_that_is_not_said_is_asked_for(tiny_llava, shapes_questions) -> None:
    model, question = tiny_llava, shapes_questions[0]
    prompt = model.prompt(question)
    for asked in (prompt, "What colour is it?"):
        with pytest.raises(InputError, match="right answers are not known: .* say which it is: right="):
            answers.metric(model, asked, wrong="red")
    with pytest.raises(InputError, match="nothing to compare with; give wrong="):
        answers.metric(model, prompt, right="red")
    with pytest.raises(InputError, match=r"answers are \['red', 'blue'\] for 1 questions"):
        answers.metric(model, prompt, "probability", right=["red", "blue"])
    with pytest.raises(InputError, match="an id outside the model's vocabulary"):
        answers.metric(model, prompt, "probability", right=10**6)
    for wrong in ([], [""], [[]], 1.5, [["red"], ["blue"]], True):
        with pytest.raises(InputError, match="for 1 questions|nothing to compare|in the list of each question"):
            answers.metric(model, prompt, right="red", wrong=wrong)
    with pytest.raises(InputError, match="tokens is 'all'; expected 'whole' or 'first'"):
        answers.metric(model, question, tokens="all")
