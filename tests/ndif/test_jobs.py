"""Jobs on the real server: sent and not waited for, stored, picked up by another process; described models."""

from __future__ import annotations

import json
import subprocess
import sys

import pytest
import torch
from nnsight.schema.config import CONFIG
from remote_table import MANY, assert_equal

import lostattn as la
from lostattn.remote.jobs import Job

PICKS_UP = """
import sys
import lostattn as la
from nnsight.schema.config import CONFIG
CONFIG.APP.REMOTE_LOGGING = False
model = la.load("tiny-llava", remote=True)
for path in sys.argv[1:]:
    print(*la.remote.Job.load(path, model).result(timeout=120).text, sep="|")
"""


@pytest.fixture
def one(tiny_llava, shapes_questions):
    return tiny_llava.prompt(list(shapes_questions)[:2])


@pytest.fixture(scope="session")
def elsewhere(tiny_llava, shapes_questions, tmp_path_factory, asking, server):
    """A process that picks up two jobs, one on each path of the server, which were stored here."""
    one = tiny_llava.prompt(list(shapes_questions)[:2])
    folder = tmp_path_factory.mktemp("jobs")
    for path in ("trusted", "sandboxed"):
        with pytest.MonkeyPatch.context() as patched:
            asking(path, patched)
            patched.setattr(CONFIG.API, "APIKEY", "a-key-of-mine")
            job = la.remote.submit(tiny_llava.generate, one, MANY, max_new_tokens=3)
        job.save(folder / f"{path}.json")
        stored = (folder / f"{path}.json").read_text()
        assert json.loads(stored)["job"] == job.id and "a-key-of-mine" not in stored
    command = [sys.executable, "-c", PICKS_UP, folder / "trusted.json", folder / "sandboxed.json"]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) as process:
        yield process, tiny_llava.generate(one, MANY, max_new_tokens=3).text
        process.kill()


@pytest.fixture(autouse=True)
def _elsewhere_begins_early(request):
    """It imports and loads for seconds, in which the other tests of this file go on."""
    if "tiny_llava" in request.fixturenames:
        request.getfixturevalue("elsewhere")


def test_a_cache_is_picked_up_with_its_prompt(tiny_llava, one, server_path, tmp_path):
    job = la.remote.submit(tiny_llava.run_with_cache, one, "pattern2", dtype=torch.float64)
    job.save(tmp_path / "job.json")
    logits, cache = Job.load(tmp_path / "job.json", tiny_llava, one).result(timeout=120)
    assert cache.prompt is one
    assert_equal(tiny_llava.run_with_cache(one, "pattern2", dtype=torch.float64), (logits, cache))


def test_a_call_that_waits_tells_where_it_is(tiny_llava, one, trusted, monkeypatch, capsys):
    monkeypatch.setattr(CONFIG.APP, "REMOTE_LOGGING", True)
    monkeypatch.setattr(CONFIG.APP, "DEBUG", False)  # pytest -v would switch it on
    tiny_llava.forward(one, remote=True)
    told = capsys.readouterr().out
    stages = [told.find(stage) for stage in ("RECEIVED", "COMPLETED")]
    assert -1 not in stages and stages == sorted(stages)
    assert told.endswith("\n") and told.count("\n") == 1, "one line, written over until the job is done"


def test_a_job_tells_its_bytes(tiny_llava, one, trusted, tmp_path):
    job = la.remote.submit(tiny_llava.run_with_cache, one, "blocks.2.hook_resid_post")
    assert job.sent > 0 == job.received
    job.save(tmp_path / "job.json")
    logits, cache = job.result(timeout=120)
    asked = logits.nbytes + cache.nbytes
    assert 0.5 * asked < job.received < asked + 10_000, "what was asked for, compressed, and no more"
    assert Job.load(tmp_path / "job.json", tiny_llava, one).sent == job.sent


def test_a_described_model_has_no_weights_and_gives_the_same(tiny_model, shapes_questions, server_path):
    described = la.load(tiny_model.name, remote=True)
    assert described.is_described_only
    prompt = described.prompt(list(shapes_questions)[:2])
    assert_equal(
        tiny_model.run_with_cache(prompt, "pattern1", MANY),
        described.run_with_cache(prompt, "pattern1", MANY, remote=True),
    )
    results = ["blocks.1.attn.hook_result", "blocks.4.attn.hook_result"]
    assert_equal(tiny_model.run_with_cache(prompt, results), described.run_with_cache(prompt, results, remote=True))
    report = described.selftest(remote=True)
    assert report.passed and len(report.checks) > described.cfg.n_layers


def test_jobs_are_picked_up_by_another_process(elsewhere):
    process, text = elsewhere
    told, complaint = process.communicate(timeout=300)
    assert process.returncode == 0, complaint
    assert [tuple(line.split("|")) for line in told.splitlines()] == [text, text]
