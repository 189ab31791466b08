"""Both experiments on the real server: the tables of here, and hardly a byte of what they summarise comes back."""

from __future__ import annotations

import pandas as pd

import lostattn as la
from lostattn.experiments.decoupling import _measure
from lostattn.experiments.running import bar
from lostattn.remote.session import Session


def test_decoupling_there_is_decoupling_here(tiny_model, shapes_questions, server_path):
    questions = list(shapes_questions)[:5]
    arguments = {"batch_size": 5, "progress": False}
    here = la.experiments.decouple(tiny_model, questions, **arguments)
    there = la.experiments.decouple(tiny_model, questions, **arguments, remote=True)
    pd.testing.assert_frame_equal(there, here, rtol=1e-5, atol=1e-5)


def test_probing_there_is_probing_here(tiny_model, shapes_questions, server_path):
    conditions = {"knocked out": la.KnockOut("last", "image"), "gaussian": la.ReplaceAttention(la.Gaussian(seed=0))}
    arguments = {"seeds": (0, 1), "batch_size": 5, "max_new_tokens": 2, "progress": False}
    questions = list(shapes_questions)[:5]
    here = la.experiments.probing.probe_questions(tiny_model, questions, conditions, **arguments).table
    there = la.experiments.probing.probe_questions(tiny_model, questions, conditions, **arguments, remote=True).table
    pd.testing.assert_frame_equal(there, here)
    assert not there.duplicated(["id", "condition", "seed"]).any()


def test_a_hundredth_of_the_activations_comes_back(tiny_model, shapes_questions, server_path, monkeypatch, capsys):
    sessions: list[Session] = []
    closed = Session.__exit__

    def remembered(self, *arguments):
        sessions.append(self)
        return closed(self, *arguments)

    monkeypatch.setattr(Session, "__exit__", remembered)
    prompt = tiny_model.prompt(list(shapes_questions)[:16])
    with bar(1, "", False) as passes:
        _measure(tiny_model, prompt, (), "paper", None, 0, passes, True)
    state = len(prompt) * prompt.n_pos * tiny_model.cfg.d_model * 4
    summarised = (2 * tiny_model.cfg.n_layers + 1) * state
    with capsys.disabled():
        print(f"\n{tiny_model.name}, {server_path}: {sessions[0].received} bytes back of {summarised} summarised")
    assert sessions[0].received <= summarised / 100
