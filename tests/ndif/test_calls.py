"""Every public call on the real server equals the call here, as far as rounding goes, in the same dtype."""

from __future__ import annotations

from typing import Any

import pytest
from remote_table import GRADIENTS, MANY, STUDIES, TABLE, assert_equal

import lostattn as la
from lostattn.reductions import update_metrics
from lostattn.remote.failures import JobFailed

# The sandbox takes a process for each job: there these go singly, and all in one session.
SINGLY = ("cache under many edits", "generation under edits")


class Deferred:
    """A model whose calls go into a session: what ``TABLE`` does to a model, it does to this."""

    __class__ = property(lambda self: la.LVLM)  # for the type checker, which looks at what functions are given

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
def test_a_call_there_equals_the_call_here(name, tiny_model, prompt, here, trusted):
    assert_equal(here(TABLE[name]), TABLE[name](tiny_model, prompt, True))


@pytest.mark.parametrize("name", STUDIES | GRADIENTS)
def test_a_study_there_equals_the_study_here(name, tiny_model, prompt, here, trusted):
    study = (STUDIES | GRADIENTS)[name]
    assert_equal(here(study), study(tiny_model, prompt, True))


@pytest.mark.parametrize("name", SINGLY)
def test_a_call_in_the_sandbox_equals_the_call_here(name, tiny_llava, shapes_questions, sandboxed):
    prompt = tiny_llava.prompt(list(shapes_questions)[:3])
    assert_equal(TABLE[name](tiny_llava, prompt, False), TABLE[name](tiny_llava, prompt, True))


@pytest.mark.parametrize("name", STUDIES)
def test_a_study_in_the_sandbox_equals_the_study_here(name, tiny_model, prompt, here, sandboxed):
    assert_equal(here(STUDIES[name]), STUDIES[name](tiny_model, prompt, True))


def test_there_are_no_gradients_in_the_sandbox(tiny_llava, shapes_questions, sandboxed):
    prompt = tiny_llava.prompt(list(shapes_questions)[:2])
    with pytest.raises(JobFailed, match="no gradients in a sandbox: .* Ask for a trusted key, or .* remote=False"):
        GRADIENTS["run_with_cache"](tiny_llava, prompt, True)


def test_every_call_in_the_sandbox_equals_the_call_here(tiny_model, prompt, here, sandboxed):
    with la.remote.Session(tiny_model) as session:
        there = {name: entry(Deferred(session), prompt, None) for name, entry in TABLE.items()}
    assert len(session.calls) == len(TABLE)
    for name, entry in TABLE.items():
        assert_equal(here(entry), there[name].result())


def test_a_session_is_one_job(tiny_model, prompt, trusted):
    with la.remote.Session(tiny_model) as session:
        cache = session.run_with_cache(prompt, "pattern1", MANY)
        said = session.generate(prompt, MANY, max_new_tokens=2)
        numbers = session.measure(prompt, update_metrics(tiny_model, prompt))
    assert session.job is not None and session.job.done()
    assert_equal(tiny_model.run_with_cache(prompt, "pattern1", MANY), cache.result())
    assert said.result().text == tiny_model.generate(prompt, MANY, max_new_tokens=2).text
    assert_equal(tiny_model.measure(prompt, update_metrics(tiny_model, prompt)), numbers.result())
