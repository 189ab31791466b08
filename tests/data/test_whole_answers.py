"""Answers of several tokens, scored whole: against a loop written by hand over the bare model, in double precision."""

from __future__ import annotations

import bounds
import edit_reference as reference
import padding
import pytest
import torch

import lostattn as la
from lostattn.errors import InputError

CHOICES = ("red", "red square", "blue", "square blue green", "square blue red")
"""Of one to three tokens; the first begins the second, and two differ in their last token alone."""


@pytest.fixture(scope="module")
def eager(tiny_model):
    """The bare model under eager attention, and the same in double precision."""
    hf = reference.bare(tiny_model.name)
    return hf, reference.bare(tiny_model.name).double()


@pytest.fixture(scope="module")
def asked(tiny_model, shapes_questions):
    """Two questions of unequal length with choices of several tokens, and the ids of each choice."""
    old = [shapes_questions.only(kind)[0] for kind in ("colour", "relation")]
    questions = [
        la.data.Question(q.id, q.text, q.images, answer, CHOICES, q.kind, q.group)
        for q, answer in zip(old, ("red square", "blue"), strict=True)
    ]
    assert len({tiny_model.prompt(q).n_pos for q in questions}) == 2
    ids = {}
    for choice in CHOICES:
        said = tiny_model.prompt(questions[0].text, answer=choice)
        ids[choice] = said.inputs["input_ids"][0, tiny_model.prompt(questions[0].text).n_pos :].tolist()
    assert [len(ids[choice]) for choice in CHOICES] == [1, 2, 1, 3, 3]
    return questions, ids


def edits(start: int, image: torch.Tensor, edited: str):
    """What stands in the rows of a pass from the prompt's last one on: each was the last when it was computed."""

    def scores(rows, layer):
        if edited != "knocked out":
            return rows
        rows = rows.clone()
        cut = image[: rows.shape[-1]]
        rows[:, :, start:, : len(cut)] = rows[:, :, start:, : len(cut)].masked_fill(cut, -torch.inf)
        return rows

    def weights(rows, layer):
        if edited != "uniform" or layer not in (1, 3):
            return rows
        rows = rows.clone()
        own = rows[:, :, start:, : len(image)]
        mass = (own * image).sum(-1, keepdim=True)
        rows[:, :, start:, : len(image)] = torch.where(image, mass / image.sum(), own)
        return rows

    return scores, weights


INTERVENTIONS = {
    "untouched": None,
    "knocked out": la.KnockOut("last", "image"),
    "uniform": la.ReplaceAttention(la.Uniform(), layers=[1, 3]),
}


def by_hand(hf, prompt, ids, edited, ends):
    """Of each choice the log-probability of each token and of the end, from a whole pass for each token."""
    alone = prompt[0]
    image = alone.token_map["image"][0]
    scores, weights = edits(alone.n_pos - 1, image, edited)
    found = {}
    for choice, own in ids.items():
        total = []
        for j in range(len(own) + 1):
            said = torch.tensor([own[:j]], dtype=torch.long)
            inputs = {
                name: value.double() if value.is_floating_point() else value
                for name, value in reference.extended(alone.inputs, said).items()
            }
            with torch.no_grad(), reference.edited_attention(scores, weights):
                row = hf(**inputs, use_cache=False).logits[0, -1].log_softmax(-1)
            total.append(row[own[j]] if j < len(own) else row[list(ends)].logsumexp(-1))
        found[choice] = torch.stack(total)
    return found


@pytest.mark.parametrize("edited", INTERVENTIONS)
def test_whole_answers_are_those_of_a_loop_by_hand(tiny_model, eager, asked, edited) -> None:
    """Each choice, its first token and its end; padded on the left, on the right, and by itself."""
    questions, ids = asked
    bare, double = eager
    prompt = tiny_model.prompt(questions)
    edit = INTERVENTIONS[edited]
    share = 2 * bounds.passes(bare, prompt.inputs)  # of a prefill and the steps after it
    size = tiny_model(prompt)
    expected = [by_hand(double, prompt[i], ids, edited, [2]) for i in range(2)]
    right_padded = tiny_model.prompt(inputs=padding.right(prompt.inputs))
    given = [list(CHOICES)] * 2
    rights = ["red square", "blue"]
    for scores in (
        tiny_model.score_answers(questions, interventions=edit),
        tiny_model.score_answers(prompt, given, rights, edit),
        tiny_model.score_answers(right_padded, given, rights, edit),
    ):
        for i, hand in enumerate(expected):
            whole = torch.stack([hand[choice][:-1].sum() for choice in CHOICES])
            first = torch.stack([hand[choice][0] for choice in CHOICES])
            ended = torch.stack([hand[choice].sum() for choice in CHOICES])
            bounds.close(scores.log_probability[i], whole, 4 * share, size=size)
            bounds.close(scores.first[i], first, share, size=size)
            bounds.close(scores.compared[i], ended, 4 * share, size=size)
            assert scores.best[i] == CHOICES[int(ended.argmax())]
            at = CHOICES.index(rights[i])
            others = torch.cat([ended[:at], ended[at + 1 :]]).max()
            bounds.close(scores.value("logit_difference")[i], ended[at] - others, 8 * share, size=size)
            assert scores.correct[i] == float(ended[at] > others)
            bounds.close(scores.value("probability")[i], whole[at].exp(), 4 * share, size=size)
    if edit is not None:
        plain = by_hand(double, prompt[0], {"red square": ids["red square"]}, "untouched", [2])
        assert bounds.moved(plain["red square"].sum(), expected[0]["red square"].sum(), share, size=size)


def test_random_edits_draw_as_in_a_generation(tiny_model, asked) -> None:
    """Noise of a step belongs to the step: the scores are the logits of a generation that says the choice."""
    questions, ids = asked
    prompt = tiny_model.prompt(questions)
    edit = la.ReplaceAttention(la.Gaussian(seed=3), steps="decode") + la.Ablate("mlp", layers=[2], to="resample")
    scores = tiny_model.score_answers(questions, interventions=edit)
    said = torch.tensor([ids["square blue green"]] * 2)
    steps = reference.generated(tiny_model, prompt, edit, said).log_softmax(-1)
    place = CHOICES.index("square blue green")
    for i in range(2):
        expected = sum(steps[i, j, token] for j, token in enumerate(said[i].tolist()))
        bounds.close(scores.log_probability[i][place], expected.double(), 4 * bounds.sums(steps.shape[-1]), size=steps)
    assert scores.touched is not None and not scores.touched.nowhere


def test_choices_of_one_token_take_one_pass(tiny_model, shapes_questions) -> None:
    """Then whole and first are the same, and so are the metrics of the logits."""
    questions = [shapes_questions.only(kind)[0] for kind in ("shape", "counting", "choice")]
    prompt = tiny_model.prompt(questions)
    scores = tiny_model.score_answers(questions)
    logits = tiny_model(prompt).double()
    share = bounds.passes(tiny_model.hf, prompt.inputs)
    for kind in set(la.answers.KINDS) - {"logit"}:
        expected = la.answers.metric(tiny_model, questions, kind)(logits)
        for tokens in ("whole", "first"):
            bounds.close(scores.value(kind, tokens), expected, 4 * share, size=logits)
    assert all(one is two for one, two in zip(scores.compared, scores.log_probability, strict=True))
    table = scores.table()
    assert list(table["n_tokens"].unique()) == [1] and len(table) == sum(len(q.choices) for q in questions)
    assert table["right"].sum() == 3 and repr(scores).startswith("AnswerScores of 3: likeliest ")


def test_a_wrong_answer_is_never_correct(tiny_llava, shapes_questions) -> None:
    """The choice that the model says is right is not, where the right one begins like it or is its beginning."""
    old = shapes_questions.only("colour")[0]
    (best,) = tiny_llava.score_answers(old).best
    for right, wrong in ((f"{best} square", best), (best, f"{best} square"), (f"{best} a", f"{best} b")):
        question = la.data.Question("x", old.text, old.images, right, (right, wrong), "colour", "x")
        scores = tiny_llava.score_answers(question)
        told = float(scores.compared[0][0]) > float(scores.compared[0][1])
        assert float(scores.correct) == told and (scores.best[0] == right) == told
        assert told == (right == best) or right.endswith(" a")
        with pytest.raises(InputError, match="begin alike"):
            scores.value("correct", tokens="first")
        table = tiny_llava.measure([question], ["correct", "log_probability", "logit_difference"])
        assert table["correct"].tolist() == scores.correct.tolist()
        assert table["log_probability"].tolist() == scores.value().tolist()
        assert table["logit_difference"].tolist() == scores.value("logit_difference").tolist()


def test_paths_share_what_choices_begin_with() -> None:
    ids = ((5, 6, 7), (5, 6, 8), (5, 9), (4,))
    plain = la.answers.Choices(("a", "b", "c", "d"), ids)
    assert plain.paths == [(5, 6)] and not plain.nested
    ended = la.answers.Choices(("a", "b"), ((5, 6), (5,)))
    assert ended.paths == [(5, 6)] and ended.nested
    assert la.answers.Choices(("a", "b"), ((5, 6), (7, 6))).paths == [(5,), (7,)]
    assert la.answers.Choices(("a",), ((3,),)).paths == [()]


def test_what_cannot_be_scored_is_refused(tiny_llava, shapes_questions) -> None:
    prompt, question = tiny_llava.prompt(shapes_questions[0]), shapes_questions[0]
    with pytest.raises(InputError, match="brings no choices to score; say which: choices="):
        tiny_llava.score_answers(prompt)
    with pytest.raises(InputError, match="the right answer 'blue' is none of the choices"):
        tiny_llava.score_answers(prompt, ["red", "green"], "blue")
    with pytest.raises(InputError, match="the choices 'red' and ' red' are the same tokens"):
        tiny_llava.score_answers(prompt, ["red", " red"])
    with pytest.raises(InputError, match="for 1 questions"):
        tiny_llava.score_answers(prompt, [["red"], ["blue"]])
    with pytest.raises(InputError, match="the right answer of item 0 is not known"):
        assert tiny_llava.score_answers(prompt, ["red", "green"]).correct
    with pytest.raises(InputError, match="kind is 'logit'; of whole answers there are"):
        tiny_llava.score_answers(question).value("logit")
    with pytest.raises(InputError, match="is the only choice, so there is nothing to compare with"):
        assert tiny_llava.score_answers(prompt, ["red"], "red").correct
    with pytest.raises(InputError, match="cannot be sent: leave remote= out"):
        tiny_llava.score_answers(prompt, ["red square", "blue"], remote="local")
    with pytest.raises(InputError, match="would change nothing: .* the steps 0 to 0"):
        tiny_llava.score_answers(question, interventions=la.KnockOut("last", "image", steps="decode"))


def test_choices_of_one_token_are_scored_elsewhere_too(tiny_llava, shapes_questions) -> None:
    edit = la.KnockOut("last", "image")
    there = tiny_llava.score_answers(shapes_questions[0], interventions=edit, remote="local")
    here = tiny_llava.score_answers(shapes_questions[0], interventions=edit)
    assert there.compared[0].equal(here.compared[0]) and there.touched.cells == here.touched.cells


def test_of_several_right_answers_none_is_wrong(tiny_llava, shapes_questions) -> None:
    old = shapes_questions.only("colour")[0]
    (best,) = tiny_llava.score_answers(old).best
    rest = [colour for colour in old.choices if colour != best]
    fields = (old.text, old.images, rest[0], (rest[0], best, rest[1], f"{rest[1]} square"), "colour", "x")
    one, both = (la.data.Question("x", *fields, answers=answers) for answers in ((), (rest[0], best)))
    assert float(tiny_llava.score_answers(one).correct) == 0
    scores = tiny_llava.score_answers(both)
    assert float(scores.correct) == 1 and float(scores.value("logit_difference")) > 0
    assert scores.value("log_probability")[0] == scores.log_probability[0][0]
    assert len(la.answers.metric(tiny_llava, both).wrong[0]) == 2


def test_what_ends_a_generation_does_not_end_a_choice(tiny_llava, shapes_questions) -> None:
    """A token that ends answers may stand within one, and so may words that stop a generation."""
    model, config = tiny_llava, tiny_llava.hf.generation_config
    prompt = model.prompt(shapes_questions.only("colour")[0])
    choices = ["square red blue", "circle"]
    before = model.score_answers(prompt, choices)
    square = int(la.answers.answer_tokens(model, prompt, "square"))
    old = {name: getattr(config, name) for name in ("eos_token_id", "stop_strings", "repetition_penalty")}
    try:
        config.update(eos_token_id=[2, square], stop_strings=["square"], repetition_penalty=1.7)
        after = model.score_answers(prompt, choices)
    finally:
        config.update(**old)
    assert after.log_probability[0].equal(before.log_probability[0])


def test_a_sweep_and_its_estimate_take_whole_answers(tiny_llava, shapes_questions) -> None:
    """Prompts that end with the answer, and a metric that reads all of it."""
    model, question = tiny_llava, shapes_questions.only("colour")[0]
    spoilt = la.patching.corrupt(question, "noise", seed=1)
    clean, corrupted = (model.prompt(one, answer="red square") for one in (question, spoilt))
    tokens = la.answers.whole_answer_tokens(model, question, "red square")

    def metric(logits):
        return la.answers.answer_log_probability(logits, tokens)

    cells = ("resid_pre", [2], ["image", "question"])
    table = la.patching.sweep(model, clean, corrupted, metric, *cells)
    _, cache = model.run_with_cache(clean)
    share = bounds.passes(model.hf, clean.inputs)
    for row, positions in zip(table.itertuples(), ("image", "question"), strict=True):
        patch = la.Patch.of(cache, "resid_pre", 2, positions)
        logits = model.run_with_hooks(corrupted, interventions=patch)
        bounds.close(row.value, float(metric(logits)), 4 * share, size=logits)
    guess = la.patching.attribute(model, clean, corrupted, metric, *cells)
    assert len(guess) == 2 and guess["effect"].abs().max() > 0
