"""Every public call on the real server equals the call here, to 1e-5 in the same dtype."""

from __future__ import annotations

import pytest
from remote_table import MANY, TABLE, assert_equal

import lostattn as la
from lostattn.reductions import update_metrics


@pytest.mark.parametrize("name", TABLE)
def test_a_call_there_equals_the_call_here(name, tiny_model, prompt, server_path):
    assert_equal(TABLE[name](tiny_model, prompt, False), TABLE[name](tiny_model, prompt, True))


def test_a_session_is_one_job(tiny_model, prompt, server_path):
    with la.remote.Session(tiny_model) as session:
        cache = session.run_with_cache(prompt, "pattern1", MANY)
        said = session.generate(prompt, MANY, max_new_tokens=2)
        numbers = session.measure(prompt, update_metrics(tiny_model, prompt))
    assert session.job is not None and session.job.done()
    assert_equal(tiny_model.run_with_cache(prompt, "pattern1", MANY), cache.result())
    assert said.result().text == tiny_model.generate(prompt, MANY, max_new_tokens=2).text
    assert_equal(tiny_model.measure(prompt, update_metrics(tiny_model, prompt)), numbers.result())
