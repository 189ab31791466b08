"""Inputs padded behind their items: what reads the last position reads the last real one, wherever padding stands."""

from __future__ import annotations

import copy
import json
import re
from dataclasses import replace

import bounds
import padding
import pytest
import torch
from tiny import FAMILIES, batched, rounding, unequal, wrapped
from torch.testing import assert_close

import lostattn as la
from lostattn.errors import InputError
from lostattn.gradients import gradients
from lostattn.prompt.padded_logits import PaddedLogits, ending_last, last_rows, with_ends
from lostattn.remote.dispatch import carry_out
from lostattn.run.calls import Reading
from lostattn.run.make_calls import hooks_call

EDIT = la.KnockOut("last", "image", layers=[1, 2]) + la.Ablate("mlp", positions=-1, layers=[3])
LAYOUTS = {
    "right": padding.right,
    "both sides": padding.both_sides,
    "in the mask alone": lambda inputs: padding.right(inputs, fill=int(inputs["input_ids"][0, -1])),
    "one left, one right": lambda inputs: padding.laid(
        inputs,
        [0 if i % 2 == 0 else inputs["input_ids"].shape[1] - n for i, n in enumerate(inputs["attention_mask"].sum(-1))],
        inputs["input_ids"].shape[1],
    ),
}


@pytest.fixture(scope="module")
def asked(tiny_model, shapes_questions):
    """Three questions of unequal lengths, and their prompt as it is made here: padded on the left."""
    questions = [shapes_questions.only(kind)[0] for kind in ("colour", "choice", "relation")]
    prompt = tiny_model.prompt(questions)
    assert len(set(prompt.token_map.real.sum(-1).tolist())) == 3
    return tiny_model, questions, prompt


@pytest.fixture(scope="module", params=list(LAYOUTS))
def laid(request, asked):
    """The same prompt, padded elsewhere."""
    model, questions, left = asked
    moved = model.prompt(inputs=LAYOUTS[request.param](left.inputs))
    assert not moved.token_map.real[:, -1].all()
    return model, questions, left, moved


@pytest.fixture(scope="module")
def mixed(asked):
    """The same prompt with padding behind some items and before another."""
    model, questions, left = asked
    return model, questions, left, model.prompt(inputs=LAYOUTS["one left, one right"](left.inputs))


def near(found, expected) -> None:
    """Two passes in single precision through six layers, of logits about ten in size."""
    assert_close(torch.as_tensor(found).float(), torch.as_tensor(expected).float(), rtol=2e-4, atol=2e-4)


@pytest.mark.parametrize("edit", [None, EDIT], ids=["untouched", "edited"])
def test_answers_are_read_at_the_last_real_position(laid, edit) -> None:
    model, questions, left, moved = laid
    expected, logits = (model.run_with_hooks(one, interventions=edit) for one in (left, moved))
    assert logits.shape[:2] == moved.token_map.real.shape  # the columns stay those of the inputs
    right = la.answers.answer_tokens(model, questions)
    wrong = la.answers.answer_tokens(model, questions, [next(c for c in q.choices if c != q.answer) for q in questions])
    for kind in la.answers.KINDS:
        metric = la.answers.metric(model, questions, kind)
        near(metric(logits), metric(expected))
        near(metric(logits.double().cpu().detach()), metric(expected))
        near(metric(model.run_with_cache(moved, "z0", edit)[0]), metric(expected))
    near(la.answers.answer_probability(logits, right), la.answers.answer_probability(expected, right))
    near(la.answers.logit_difference(logits, right, wrong), la.answers.logit_difference(expected, right, wrong))
    alone = la.answers.metric(model, questions[1:])
    near(alone(logits[1:]), alone(expected[1:]))
    near(alone(logits[[1, 2]]), alone(expected[1:]))
    near(alone(logits[torch.tensor([False, True, True])]), alone(expected[1:]))


def test_a_metric_of_ones_own_is_given_rows_that_end_with_the_last_token(laid) -> None:
    """What a pass hands on to a function is padded on the left, as every batch made here is."""
    model, questions, left, moved = laid
    metric = {"own": lambda logits: logits[:, -1, 7], "both": lambda logits, batch: logits[:, -1, 9] + len(batch)}
    here, there = (model.measure(one, metric) for one in (left, moved))
    near(there.own.tolist(), here.own.tolist())
    near(there.both.tolist(), here.both.tolist())
    away = model.measure(moved, metric, remote="local")
    near(away.own.tolist(), here.own.tolist())


@pytest.mark.parametrize("remote", [False, "local"])
def test_gradients_start_at_the_last_real_position(mixed, remote) -> None:
    model, questions, left, moved = mixed
    for metric in (la.answers.metric(model, questions), lambda logits: logits[:, -1, 11]):
        expected = gradients(model, left, metric, ["blocks.2.hook_resid_pre"], EDIT)
        found = gradients(model, moved, metric, ["blocks.2.hook_resid_pre"], EDIT, remote=remote)
        assert found.value == pytest.approx(expected.value, rel=2e-4, abs=2e-4)
        for i in range(len(left)):
            own = expected["resid_pre", 2][i][left.token_map.real[i]]
            assert own.abs().max() > 0
            near(found["resid_pre", 2][i][moved.token_map.real[i]] / own.abs().max(), own / own.abs().max())
        near(la.answers.metric(model, questions)(found.logits), la.answers.metric(model, questions)(expected.logits))


def test_sweeps_and_attribution_follow_it(mixed, shapes_questions) -> None:
    model, questions, left, moved = mixed
    spoilt = model.prompt([la.patching.corrupt(q, "noise", seed=1) for q in questions])
    pixels = {name: spoilt.inputs[name] for name in spoilt.inputs if name.startswith("pixel")}
    corrupted = model.prompt(inputs={**moved.inputs, **pixels})
    metric = la.answers.metric(model, questions)
    grid = {"points": ["resid_post"], "layers": [1, 4], "positions": ["last", "image"]}
    for sweep in (la.patching.sweep, la.patching.attribute):
        expected = sweep(model, left, spoilt, metric, **grid)
        found = sweep(model, moved, corrupted, metric, **grid)
        for column in ("clean", "corrupted", "value", "effect"):
            assert expected[column].abs().max() > 0
            near(found[column].tolist(), expected[column].tolist())
    sent = [("resid_pre", 1)], [("resid_post", -1)]
    paths = [la.patching.path_patch(model, *pair, metric, *sent) for pair in ((left, spoilt), (moved, corrupted))]
    near(paths[1].value.tolist(), paths[0].value.tolist())


def test_lenses_and_decompositions_read_it_already(laid) -> None:
    model, questions, left, moved = laid
    right = la.answers.answer_tokens(model, questions)
    (_, expected), (_, cache) = model.run_with_cache(left), model.run_with_cache(moved)
    tables = [la.lenses.direct_attribution(one, right).logit.tolist() for one in (expected, cache)]
    near(tables[1], tables[0])
    for spec in ("last", -1):
        near(cache.decompose_resid(pos_slice=spec), expected.decompose_resid(pos_slice=spec))
    near(cache.logit_lens().logits, expected.logit_lens().logits)


def test_last_columns_alone_come_back_from_where_the_model_is(laid) -> None:
    """`measure` and `flow` ask for the logits of one row an item, here and somewhere else."""
    model, questions, left, moved = laid
    expected = model(left)[:, -1:]
    for remote in (False, "local"):
        found = carry_out(model, replace(hooks_call(model, moved), logits="last"), remote)
        assert found.shape == expected.shape
        near(found, expected)


def test_a_generation_after_padding_is_refused_by_its_reason(laid) -> None:
    model, questions, left, moved = laid
    with pytest.raises(InputError, match="padded on the right, and a generation goes on from the last column"):
        model.generate(moved, max_new_tokens=2)
    alone = [model.generate(one, max_new_tokens=2).text[0] for one in moved]
    assert alone == list(model.generate(left, max_new_tokens=2).text)


@pytest.mark.parametrize("family", FAMILIES)
@pytest.mark.parametrize("layout", list(LAYOUTS))
def test_every_family_ends_where_its_items_end(family, layout) -> None:
    model, singles = wrapped(family), unequal(family)
    moved = model.prompt(inputs=LAYOUTS[layout](batched(family, singles)))
    logits = model(moved)
    last = ending_last(logits)
    for i, single in enumerate(singles):
        own = model(model.prompt(inputs=single))
        bounds.close(last[i, -own.shape[1] :], own[0], rounding(family))
        bounds.close(logits[i][moved.token_map.real[i]], own[0], rounding(family))


def test_what_knows_its_ends_is_a_tensor_like_any_other(laid) -> None:
    model, questions, left, moved = laid
    logits = model(moved)
    assert isinstance(logits, PaddedLogits) and isinstance(logits, torch.Tensor)
    for plain in (logits[:, -1], logits[0], logits[:, 2:], logits.sum(1), logits.roll(1, 1), logits.argmax(-1)):
        assert type(plain) is torch.Tensor
    assert type(model(left)) is torch.Tensor and type(ending_last(logits)) is torch.Tensor
    assert logits.log_softmax(-1).ends == logits.half().ends == logits.ends
    assert ending_last(model(left)).equal(model(left))


def test_batches_joined_and_parted_and_arithmetic_keep_the_ends(laid) -> None:
    """What people do with logits before they read answers off them, against the same of a batch padded on the left."""
    model, questions, left, moved = laid
    logits, plain = model(moved), model(left)
    n = logits.shape[1]
    whole = torch.nn.functional.pad(plain, (0, 0, n - plain.shape[1], 0))  # as wide
    last, few = plain[:, -1], torch.arange(plain.shape[-1]) < 3
    rows = {
        "two batches": (torch.cat([logits, logits[1:]]), torch.cat([last, last[1:]])),
        "a plain one first": (torch.cat([whole, logits], dim=0), torch.cat([last, last])),
        "a plain one last": (torch.concat((logits, whole[:1])), torch.cat([last, last[:1]])),
        "parted": (logits.split(2)[0], last[:2]),
        "chunks": (torch.chunk(logits, 3)[1], last[1:2]),
        "chosen": (logits.index_select(0, torch.tensor([2, 0])), last[[2, 0]]),
        "one token": (logits[..., 7:9], last[:, 7:9]),
        "one token of some": (logits[[0, 2], :, 7:9], last[[0, 2], 7:9]),
        "by temperature": (logits / 0.7, last / 0.7),
        "negative": (1 - logits, 1 - last),
        "of itself": (logits - logits.log_softmax(-1), last - last.log_softmax(-1)),
        "ruled out": (logits.masked_fill(few, -5.0), last.masked_fill(few, -5.0)),
        "a copy": (copy.deepcopy(logits), last),
    }  # fmt: skip
    for how, (found, expected) in rows.items():
        assert isinstance(found, PaddedLogits), how
        near(last_rows(found), expected)
    assert type(torch.cat([logits, logits], 1)) is torch.Tensor and type(logits.split(2, 1)[0]) is torch.Tensor


def test_logits_that_end_elsewhere_are_not_subtracted(laid) -> None:
    model, _, _, moved = laid
    logits = model(moved)
    other = with_ends(logits.as_subclass(torch.Tensor), [end - 1 for end in logits.ends])
    with pytest.raises(InputError, match=re.escape(f"their items end at {list(logits.ends)} and at")):
        logits - other


def test_saved_logits_come_back_with_their_ends(laid, tmp_path) -> None:
    model, _, _, moved = laid
    logits = model(moved)
    torch.save(logits, tmp_path / "logits.pt")
    found = torch.load(tmp_path / "logits.pt")
    assert torch.equal(found, logits) and found.ends == logits.ends


def test_a_stored_job_knows_the_ends_too() -> None:
    reading = Reading("logits", last=(3, 5))
    assert Reading.from_dict(json.loads(json.dumps(reading.to_dict()))) == reading
    old = {name: value for name, value in reading.to_dict().items() if name != "last"}
    assert Reading.from_dict(old) == Reading("logits")
