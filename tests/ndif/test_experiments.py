"""Both experiments on the real server: the tables of here, and hardly a byte of what they summarise comes back."""

from __future__ import annotations

from typing import Any

import pandas as pd
import pytest
from remote_table import SHARE

import lostattn as la
from lostattn.remote.session import Session

DECOUPLED: dict[str, Any] = {"batch_size": 5, "progress": False}
PROBED: dict[str, Any] = {"seeds": (0, 1), "max_new_tokens": 2, **DECOUPLED}
CONDITIONS = {"knocked out": la.KnockOut("last", "image"), "gaussian": la.ReplaceAttention(la.Gaussian(seed=0))}


@pytest.fixture(scope="session")
def five(shapes_questions):
    return list(shapes_questions)[:5]


@pytest.fixture(scope="session")
def decoupled_here(tiny_model, five):
    return la.experiments.decouple(tiny_model, five, **DECOUPLED)


@pytest.fixture(scope="session")
def probed_here(tiny_model, five):
    return la.experiments.probing.probe_questions(tiny_model, five, CONDITIONS, **PROBED).table


def test_decoupling_there_is_decoupling_here(tiny_model, five, decoupled_here, server_path):
    there = la.experiments.decouple(tiny_model, five, **DECOUPLED, remote=True)
    pd.testing.assert_frame_equal(there, decoupled_here, rtol=SHARE, atol=SHARE)


def test_probing_there_is_probing_here(tiny_model, five, probed_here, server_path):
    there = la.experiments.probing.probe_questions(tiny_model, five, CONDITIONS, **PROBED, remote=True).table
    pd.testing.assert_frame_equal(there, probed_here)
    assert not there.duplicated(["id", "condition", "seed"]).any()


def test_a_hundredth_of_the_activations_comes_back(tiny_model, shapes_questions, server_path, monkeypatch):
    sessions: list[Session] = []
    closed = Session.__exit__

    def remembered(self, *arguments):
        sessions.append(self)
        return closed(self, *arguments)

    monkeypatch.setattr(Session, "__exit__", remembered)
    asked = list(shapes_questions)[:16]
    prompt = tiny_model.prompt(asked)
    la.experiments.decouple(tiny_model, asked, controls=(), batch_size=16, progress=False, remote=True)
    state = len(prompt) * prompt.n_pos * tiny_model.cfg.d_model * 4
    summarised = (2 * tiny_model.cfg.n_layers + 1) * state
    assert sessions[0].received <= summarised / 100
