"""Every public call on the real server equals the call here, to 1e-5 in the same dtype."""

from __future__ import annotations

from typing import Any

import pytest
from remote_table import MANY, TABLE, assert_equal

import lostattn as la
from lostattn.reductions import update_metrics

# The sandbox starts a process for each job, which takes seconds: there these go singly, and all in one session.
SINGLY = ("forward", "cache under many edits", "hook on a tensor", "generation under edits", "metrics")


class Deferred:
    """A model whose calls go into a session: what ``TABLE`` does to a model, it does to this."""

    def __init__(self, session: la.remote.Session) -> None:
        self.session = session

    def __getattr__(self, name: str) -> Any:
        if name == "forward":
            name = "run_with_hooks"
        if not hasattr(la.remote.Session, name):
            return getattr(self.session.model, name)

        def call(*arguments: Any, remote: None, **keywords: Any) -> Any:
            return getattr(self.session, name)(*arguments, **keywords)

        return call


@pytest.mark.parametrize("name", TABLE)
def test_a_call_there_equals_the_call_here(name, tiny_model, prompt, trusted):
    assert_equal(TABLE[name](tiny_model, prompt, False), TABLE[name](tiny_model, prompt, True))


@pytest.mark.parametrize("name", SINGLY)
def test_a_call_in_the_sandbox_equals_the_call_here(name, tiny_model, prompt, sandboxed):
    assert_equal(TABLE[name](tiny_model, prompt, False), TABLE[name](tiny_model, prompt, True))


def test_every_call_in_the_sandbox_equals_the_call_here(tiny_model, prompt, sandboxed):
    with la.remote.Session(tiny_model) as session:
        there = {name: entry(Deferred(session), prompt, None) for name, entry in TABLE.items()}
    assert len(session.calls) == len(TABLE)
    for name, entry in TABLE.items():
        assert_equal(entry(tiny_model, prompt, False), there[name].result())


def test_a_session_is_one_job(tiny_model, prompt, server_path):
    with la.remote.Session(tiny_model) as session:
        cache = session.run_with_cache(prompt, "pattern1", MANY)
        said = session.generate(prompt, MANY, max_new_tokens=2)
        numbers = session.measure(prompt, update_metrics(tiny_model, prompt))
    assert session.job is not None and session.job.done()
    assert_equal(tiny_model.run_with_cache(prompt, "pattern1", MANY), cache.result())
    assert said.result().text == tiny_model.generate(prompt, MANY, max_new_tokens=2).text
    assert_equal(tiny_model.measure(prompt, update_metrics(tiny_model, prompt)), numbers.result())
