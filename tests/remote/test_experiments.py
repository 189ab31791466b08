"""Both experiments, rehearsed: the same table as here, and hardly a byte of what it summarises comes back."""

from __future__ import annotations

import bounds
import pandas as pd
import pytest

import lostattn as la
from lostattn.remote.session import Session

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def questions(shapes_questions):
    return list(shapes_questions)[:5]


def test_decoupling_rehearsed_is_decoupling_here(tiny_model, questions):
    here = la.experiments.decouple(tiny_model, questions, batch_size=3, progress=False)
    there = la.experiments.decouple(tiny_model, questions, batch_size=3, progress=False, remote="local")
    assert set(here["update"]) == {"attention", "ffn", "noise_delta", "noise_qkv", "rope"}
    # The same operations, from source; a metric's own bound all the same.
    pd.testing.assert_frame_equal(there, here, rtol=bounds.SPECTRAL, atol=bounds.SPECTRAL)


def test_probing_rehearsed_is_probing_here(tiny_llava, questions):
    conditions = {"knocked out": la.KnockOut("last", "image"), "gaussian": la.ReplaceAttention(la.Gaussian(seed=0))}
    arguments = {"seeds": (0, 1), "batch_size": 2, "max_new_tokens": 2, "progress": False}
    here = la.experiments.probing.probe_questions(tiny_llava, questions, conditions, **arguments)
    there = la.experiments.probing.probe_questions(tiny_llava, questions, conditions, **arguments, remote="local")
    pd.testing.assert_frame_equal(there.table, here.table)
    assert not there.table.duplicated(["id", "condition", "seed"]).any()


def test_a_hundredth_of_the_activations_comes_back(tiny_llava, shapes_questions, monkeypatch):
    sessions: list[Session] = []
    closed = Session.__exit__

    def remembered(self, *arguments):
        sessions.append(self)
        return closed(self, *arguments)

    monkeypatch.setattr(Session, "__exit__", remembered)
    asked = list(shapes_questions)[:16]
    prompt = tiny_llava.prompt(asked)
    controls = ("noise_delta", "rope")
    la.experiments.decouple(tiny_llava, asked, controls=controls, batch_size=16, progress=False, remote="local")
    layers, state = tiny_llava.cfg.n_layers, len(prompt) * prompt.n_pos * tiny_llava.cfg.d_model * 4
    # The whole stream once, and two states for each layer of each control.
    summarised = (2 * layers + 1) * state + 2 * (2 * layers * state)
    assert sessions[0].received <= summarised / 100
