"""Jobs on the real server: sent and not waited for, stored, picked up by another process; and every way to fail."""

from __future__ import annotations

import json
import subprocess
import sys

import pytest
import torch
from remote_table import MANY, assert_equal

import lostattn as la
from lostattn.remote import ConnectionLost, Job, JobFailed, NotHosted

PICKS_UP = """
import sys
import lostattn as la
from nnsight.schema.config import CONFIG
CONFIG.APP.REMOTE_LOGGING = False
model = la.load(sys.argv[2], remote=True)
job = la.remote.Job.load(sys.argv[1], model)
print(*job.result(timeout=120).text, sep="|")
"""


def raising(value, hook):
    raise RuntimeError(f"nothing is right at {hook.name}")


@pytest.fixture
def one(tiny_llava, shapes_questions):
    return tiny_llava.prompt(list(shapes_questions)[:2])


def test_a_job_is_picked_up_by_another_process(tiny_llava, one, server_path, tmp_path):
    job = la.remote.submit(tiny_llava.generate, one, MANY, max_new_tokens=3)
    job.save(tmp_path / "job.json")
    stored = (tmp_path / "job.json").read_text()
    assert json.loads(stored)["job"] == job.id and "key" not in stored
    done = subprocess.run(
        [sys.executable, "-c", PICKS_UP, str(tmp_path / "job.json"), "tiny-llava"],
        capture_output=True,
        text=True,
        timeout=300,
    )
    assert done.returncode == 0, done.stderr
    assert tuple(done.stdout.strip().split("|")) == tiny_llava.generate(one, MANY, max_new_tokens=3).text


def test_a_cache_is_picked_up_with_its_prompt(tiny_llava, one, server_path, tmp_path):
    job = la.remote.submit(tiny_llava.run_with_cache, one, "pattern2", dtype=torch.float64)
    job.save(tmp_path / "job.json")
    logits, cache = Job.load(tmp_path / "job.json", tiny_llava, one).result(timeout=120)
    assert cache.prompt is one
    assert_equal(tiny_llava.run_with_cache(one, "pattern2", dtype=torch.float64), (logits, cache))


def test_a_job_that_fails_there_tells_the_error_and_the_line(tiny_llava, one, server_path):
    with pytest.raises(JobFailed, match="nothing is right at blocks.1.hook_mlp_out") as told:
        tiny_llava.run_with_hooks(one, [("blocks.1.hook_mlp_out", raising)], remote=True)
    assert "test_jobs.py" in str(told.value) and "raise RuntimeError" in str(told.value)
    assert "Traceback" in told.value.there
    assert "Versions differ (transformers" in str(told.value)


def test_a_model_that_is_not_hosted_is_told_with_those_that_are(tiny_llava, one, server_path, tmp_path):
    tiny_llava.forward(one, remote=True)
    broken = la.load("tiny-llava", remote=True)
    broken.nn.repo_id = str(tmp_path)
    with pytest.raises(NotHosted, match="does not run 'tiny-llava': Could not deploy this model") as told:
        broken.forward(one, remote=True)
    assert "Vision-language models that it runs: " in str(told.value) and "tiny-llava" in str(told.value)


def test_a_lost_connection_leaves_a_job_that_can_be_resumed(tiny_llava, one, server_path, monkeypatch):
    import httpx

    job = la.remote.submit(tiny_llava.generate, one, max_new_tokens=2)
    reached = httpx.Client.get

    def lost(self, *arguments, **keywords):
        raise httpx.ReadError("the line is dead")

    monkeypatch.setattr(httpx.Client, "get", lost)
    monkeypatch.setattr("lostattn.remote.jobs.LOOKS", 2)
    with pytest.raises(ConnectionLost, match=f"nothing is lost: call result.. again.*job {job.id}") as told:
        job.result()
    assert told.value.job is job
    monkeypatch.setattr(httpx.Client, "get", reached)
    assert told.value.job.result(timeout=120).text == tiny_llava.generate(one, max_new_tokens=2).text


def test_a_host_that_is_not_there(tiny_llava, one):
    with pytest.raises(ConnectionLost, match="cannot be reached .* nothing was sent"):
        tiny_llava.forward(one, remote="http://127.0.0.1:9")


def test_what_a_call_would_meet(tiny_llava, one, server_path):
    tiny_llava.forward(one, remote=True)
    found = la.remote.check(tiny_llava)
    assert found.ready and found.runs_model
    assert set(found.drift) <= {"nnsight", "torch", "transformers"} and "transformers" in found.drift
    assert "transformers" in repr(found)


def test_a_described_model_has_no_weights_and_gives_the_same(tiny_model, shapes_questions, server_path):
    described = la.load(tiny_model.name, remote=True)
    assert described.is_described_only
    prompt = described.prompt(list(shapes_questions)[:2])
    assert_equal(
        tiny_model.run_with_cache(prompt, "pattern1", MANY),
        described.run_with_cache(prompt, "pattern1", MANY, remote=True),
    )
    report = described.selftest(remote=True)
    assert report.passed and len(report.checks) > described.cfg.n_layers
