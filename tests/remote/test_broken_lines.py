"""A line that breaks at every stage of a job, on real sockets: the result is whole, and holds each question once."""

from __future__ import annotations

import pytest
import torch
from breaking_line import BreakingLine
from nnsight.schema.config import CONFIG
from played_service import PlayedService
from remote_table import assert_equal

import lostattn as la
from lostattn.errors import InputError
from lostattn.remote.failures import ConnectionLost, Interrupted, JobFailed, RemoteFailure, UnknownJob
from lostattn.remote.jobs import Job
from lostattn.remote.service import Service

pytestmark = pytest.mark.slow

BUSY = "Critical server error occurred. Please try again later."


@pytest.fixture(autouse=True)
def hasty(monkeypatch):
    """No waiting between tries."""
    monkeypatch.setattr(CONFIG.APP, "REMOTE_LOGGING", False)
    monkeypatch.setattr("lostattn.remote.sending.PAUSE", 0.01)
    monkeypatch.setattr("lostattn.remote.sending.ASKED_FOR", 0.05)
    monkeypatch.setattr("lostattn.remote.jobs.PAUSE", 0.001)
    monkeypatch.setattr("lostattn.remote.jobs.UNKNOWN_FOR", 0.2)


@pytest.fixture
def prompts(tiny_llava, shapes_questions):
    return [tiny_llava.prompt(question) for question in list(shapes_questions)[:5]]


STAGES = {
    "line dead at once": {"request": ["at once", "at once"]},
    "half a request": {"request": ["in the request"]},
    "answer lost": {"request": ["before the answer"]},
    "answer cut": {"request": ["in the answer"]},
    "busy": {"request": ["busy", "busy"]},
    "look-ups lost": {"response": ["at once", "before the answer", "in the answer", "busy"]},
    "result cut": {"result": ["in the answer", "at once"]},
    "all of it": {
        "request": ["at once", "in the request", "busy", "before the answer"],
        "response": ["before the answer", "at once"],
        "result": ["in the answer"],
    },
}


@pytest.mark.parametrize("stage", STAGES)
def test_a_call_survives_a_break_at_each_stage(stage, tiny_llava, prompts):
    with PlayedService(tiny_llava.nn) as service, BreakingLine(service.url, STAGES[stage]) as line:
        there = tiny_llava.run_with_cache(prompts[0], "pattern1", remote=line.url)
    assert_equal(tiny_llava.run_with_cache(prompts[0], "pattern1"), there)
    assert not any(line.faults.values()), "the line broke at every place"
    assert len(line.broken) == sum(map(len, STAGES[stage].values()))
    assert list(service.ran.values()) == [1], "it ran once"


def test_a_lost_answer_is_asked_for_and_not_sent_again(tiny_llava, prompts):
    with PlayedService(tiny_llava.nn) as service, BreakingLine(service.url, STAGES["answer lost"]) as line:
        job = la.remote.submit(tiny_llava.run_with_hooks, prompts[0], remote=line.url)
        assert line.passed["request"] == 1 and job.id in service.ran
        assert torch.equal(job.result(), tiny_llava.forward(prompts[0]))


def test_a_service_that_starts_late_is_waited_for(tiny_llava, prompts, monkeypatch):
    pauses = []
    with PlayedService(tiny_llava.nn) as service, BreakingLine(service.url) as line:

        def slept(seconds):
            pauses.append(seconds)
            if len(pauses) == 3:
                line.listen(line.server.server_port)

        line.close()
        monkeypatch.setattr("lostattn.remote.sending.time.sleep", slept)
        there = tiny_llava.forward(prompts[0], remote=line.url)
    assert torch.equal(there, tiny_llava.forward(prompts[0]))
    assert pauses[:3] == [0.01, 0.02, 0.04]


def test_a_service_that_stays_away_is_tried_so_often_and_no_more(tiny_llava, prompts):
    with pytest.raises(ConnectionLost, match="cannot be reached .*; sent 6 times.; nothing was started") as told:
        tiny_llava.forward(prompts[0], remote="http://127.0.0.1:9")
    assert told.value.job is None


def test_a_service_that_stays_busy_is_told(tiny_llava, prompts):
    with (
        PlayedService(tiny_llava.nn) as service,
        BreakingLine(service.url, {"request": ["busy"] * 6}) as line,
        pytest.raises(RemoteFailure, match="did not take the job: Service temporarily unavailable. .sent 6 times"),
    ):
        tiny_llava.forward(prompts[0], remote=line.url)
    assert not service.ran


def test_a_job_whose_fate_is_unknown_can_be_asked_for(tiny_llava, prompts):
    faults = {"request": ["before the answer"] * 6, "response": ["at once"] * 1000}
    with PlayedService(tiny_llava.nn) as service, BreakingLine(service.url, faults) as line:
        with pytest.raises(ConnectionLost, match="Whether it was accepted is not known. error.job.result") as told:
            tiny_llava.forward(prompts[0], remote=line.url)
        assert set(service.ran) == {told.value.job.id}, "every try went under one name"
        line.faults.clear()
        assert torch.equal(told.value.job.result(), tiny_llava.forward(prompts[0]))


def test_a_job_that_the_service_gave_up_is_sent_again(tiny_llava, prompts):
    with PlayedService(tiny_llava.nn, [BUSY, BUSY]) as service:
        there = tiny_llava.forward(prompts[0], remote=service.url)
    assert torch.equal(there, tiny_llava.forward(prompts[0]))
    assert list(service.ran.values()) == [1] and len(service.told) == 3


def test_a_service_that_gives_up_every_time_is_told(tiny_llava, prompts):
    with (
        PlayedService(tiny_llava.nn, [BUSY] * 3) as service,
        pytest.raises(Interrupted, match="stopped the job before it gave a result: Critical server error"),
    ):
        tiny_llava.forward(prompts[0], remote=service.url)
    assert not service.ran


def test_a_job_that_nobody_knows_is_told(tiny_llava):
    with PlayedService(tiny_llava.nn) as service:
        job = Job(Service(service.url), "abc", tiny_llava, None, [], [])
        with pytest.raises(UnknownJob, match="knows no job abc"):
            job.raw()


def test_a_sweep_goes_on_where_it_broke_off(tiny_llava, prompts, monkeypatch):
    monkeypatch.setattr("lostattn.remote.parts.AHEAD", 1)
    monkeypatch.setattr("lostattn.remote.jobs.LOOKS", 2)
    with PlayedService(tiny_llava.nn) as service, BreakingLine(service.url) as line:
        lost = pytest.raises(ConnectionLost, match="2 of 5 calls are done; session.resume.. goes on")
        with lost, la.remote.Session(tiny_llava, line.url, job_size=2) as session:
            later = [session.run_with_hooks(prompt) for prompt in prompts]
            line.faults["result"] = ["", "in the answer", "at once"]
        assert len(service.ran) == 2, "the third job was not sent"
        session.resume()
        answers = [one.result() for one in later]
        assert len(service.ran) == 3 and set(service.ran.values()) == {1}, "each call ran once"
        assert line.passed["request"] == 3 and len(session.jobs) == 3 and session.job is None
    for prompt, answer in zip(prompts, answers, strict=True):
        assert torch.equal(answer, tiny_llava.forward(prompt))


def test_what_raised_there_leaves_the_others_and_is_sent_again_alone(tiny_llava, prompts):
    with PlayedService(tiny_llava.nn) as service:
        with pytest.raises(JobFailed, match="oops"), la.remote.Session(tiny_llava, service.url, job_size=1) as session:
            later = [session.run_with_hooks(prompt) for prompt in prompts[:3]]
            service.troubles = ["oops"]
        with pytest.raises(JobFailed, match="oops"):
            later[0].result()
        assert torch.equal(later[2].result(), tiny_llava.forward(prompts[2]))
        session.resume()
        assert torch.equal(later[0].result(), tiny_llava.forward(prompts[0]))
    assert len(service.ran) == 3 and set(service.ran.values()) == {1}


def test_a_session_that_does_not_wait_has_jobs_to_store(tiny_llava, prompts, tmp_path):
    with PlayedService(tiny_llava.nn) as service:
        with la.remote.Session(tiny_llava, service.url, wait=False, job_size=3) as session:
            later = [session.run_with_hooks(prompt) for prompt in prompts]
        assert len(session.jobs) == 2 and session.received == 0 < session.sent
        session.jobs[0].save(tmp_path / "job.json")
        stored = Job.load(tmp_path / "job.json", tiny_llava, host=service.url).result()
        for i, prompt in enumerate(prompts):
            assert torch.equal(later[i].result(), tiny_llava.forward(prompt))
        assert torch.equal(stored[1], later[1].result())
        assert session.received == sum(job.received for job in session.jobs) > 0


def test_a_session_that_remembers_is_one_job(tiny_llava, prompts):
    with (
        pytest.raises(InputError, match="takes no job_size"),
        la.remote.Session(tiny_llava, "http://127.0.0.1:9", job_size=2) as session,
    ):
        session.remember(prompts[0], ["hook_embed"])
    with pytest.raises(InputError, match="job_size is 0; expected at least 1"):
        la.remote.Session(tiny_llava, job_size=0)
