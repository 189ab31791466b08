"""Every way to fail, on the real server and on both of its paths: each says what happened and what to do."""

from __future__ import annotations

import json
import re
import shutil
import time

import nnsight
import pytest
from breaking_line import BreakingLine
from nnsight.schema.config import CONFIG
from remote_table import assert_equal

import lostattn as la
from lostattn.remote.failures import ConnectionLost, JobFailed, NoKey, NotHosted, RemoteFailure, VersionDrift

HOST = "http://127.0.0.1:8399"


def raising(value, hook):
    raise RuntimeError(f"nothing is right at {hook.name}")


@pytest.fixture(scope="module")
def one(tiny_llava, shapes_questions):
    return tiny_llava.prompt(list(shapes_questions)[:2])


@pytest.fixture
def keyed(fronts):
    """A front that wants API keys, and whose list of keys cannot be reached."""
    return fronts["keyed"].url


@pytest.fixture
def choosy(fronts):
    """A front that wants a newer client."""
    return fronts["choosy"].url


def test_no_key(tiny_llava, one, keyed, monkeypatch, server_path):
    monkeypatch.setattr(CONFIG.API, "APIKEY", None)
    with pytest.raises(NoKey, match="refused the API key: Missing or invalid API key.* Run `nnsight login`, or set"):
        tiny_llava.forward(one, remote=keyed)
    assert not la.remote.check(tiny_llava, keyed).has_key


def test_a_key_of_another_form(tiny_llava, one, keyed, monkeypatch, server_path):
    monkeypatch.setattr(CONFIG.API, "APIKEY", "mine")
    monkeypatch.setattr(CONFIG.API, "HOST", keyed)
    with pytest.raises(NoKey, match="refused the API key: Invalid API key format.* Run `nnsight login`"):
        tiny_llava.forward(one, remote=keyed)


def test_a_service_that_cannot_look_up_keys_is_tried_again(tiny_llava, one, keyed, monkeypatch, server_path):
    monkeypatch.setattr(CONFIG.API, "APIKEY", "00000000-0000-0000-0000-000000000000")
    monkeypatch.setattr(CONFIG.API, "HOST", keyed)
    monkeypatch.setattr("lostattn.remote.sending.PAUSE", 0.01)
    with pytest.raises(RemoteFailure, match="did not take the job: Auth backend unavailable. .sent 6 times"):
        tiny_llava.forward(one, remote=keyed)


def test_a_client_that_is_too_old(tiny_llava, one, choosy, server_path):
    told = r"refused this client: Client nnsight version [\d.]+ is below .* 99.0.*\nVersions differ .transformers"
    with pytest.raises(VersionDrift, match=told):
        tiny_llava.forward(one, remote=choosy)


@pytest.fixture(scope="module")
def taller(tiny_llava, tmp_path_factory):
    """The model with one more layer, as where another version of transformers lays modules out in another way."""
    folder = tmp_path_factory.mktemp("taller")
    shutil.copytree(tiny_llava.nn.repo_id, folder, dirs_exist_ok=True)
    config = json.loads((folder / "config.json").read_text())
    config["text_config"]["num_hidden_layers"] += 1
    (folder / "config.json").write_text(json.dumps(config))
    model = la.load(folder, remote=True)
    model.nn.repo_id = tiny_llava.nn.repo_id
    return model


def test_a_model_that_is_built_otherwise_there(taller, one, trusted):
    told = "(?s)architecture on this server doesn't match .*layers.6.*Versions differ .transformers"
    with pytest.raises(VersionDrift, match=told):
        taller.forward(one, remote=True)


def test_a_model_that_is_built_otherwise_fails_in_the_sandbox_where_it_matters(taller, tiny_llava, one, sandboxed):
    """The sandbox builds no module before it is read."""
    assert_equal(tiny_llava.forward(one), taller.forward(one, remote=True))
    with pytest.raises(JobFailed, match="(?s)the job failed on .*Versions differ .transformers"):
        taller.run_with_cache(one, "blocks.6.hook_resid_post", remote=True)


def test_a_model_that_is_not_hosted_is_told_with_those_that_are(tiny_llava, one, server_path, tmp_path):
    tiny_llava.forward(one, remote=True)
    broken = la.load("tiny-llava", remote=True)
    broken.nn.repo_id = str(tmp_path)
    with pytest.raises(NotHosted, match="does not run 'tiny-llava': Could not deploy this model") as told:
        broken.forward(one, remote=True)
    listed = str(told.value).partition("Vision-language models that it runs: ")[2].partition(". Load one")[0]
    assert tiny_llava.nn.repo_id in listed
    deployed = nnsight.status().deployments.values()  # asked a little later, when another may have come up
    left = listed
    for own in sorted((one["repo_id"] for one in deployed if one["task"] == "image-text-to-text"), key=len)[::-1]:
        left = left.replace(own, "")  # (a path may hold a comma)
    assert not left.strip(", ")


def test_a_job_that_fails_there_tells_the_error_and_the_line(tiny_llava, one, server_path):
    with pytest.raises(JobFailed, match="nothing is right at blocks.1.hook_mlp_out") as told:
        tiny_llava.run_with_hooks(one, [("blocks.1.hook_mlp_out", raising)], remote=True)
    assert "test_failures.py" in str(told.value) and "raise RuntimeError" in str(told.value)
    assert "Traceback" in told.value.there
    assert "Versions differ (transformers" in str(told.value)


def test_a_lost_connection_leaves_a_job_that_can_be_resumed(tiny_llava, one, server_path, monkeypatch):
    monkeypatch.setattr("lostattn.remote.jobs.LOOKS", 2)
    with BreakingLine(HOST) as line:
        line.faults["response"] = ["at once", "before the answer"]
        with pytest.raises(ConnectionLost, match="nothing is lost: call result.. again.*job [0-9a-f]{32}") as told:
            tiny_llava.generate(one, max_new_tokens=2, remote=line.url)
        assert line.passed["request"] == 1
        there = told.value.job.result(timeout=120)
    assert there.text == tiny_llava.generate(one, max_new_tokens=2).text


def test_a_line_that_breaks_at_every_stage(tiny_llava, one, server_path, monkeypatch):
    monkeypatch.setattr("lostattn.remote.sending.PAUSE", 0.05)
    monkeypatch.setattr("lostattn.remote.sending.ASKED_FOR", 0.5)
    faults = {
        "request": ["at once", "in the request", "busy", "before the answer"],
        "response": ["at once", "before the answer", "in the answer"],
    }
    with BreakingLine(HOST, faults) as line:
        there = tiny_llava.run_with_cache(one, "pattern1", remote=line.url)
    assert len(line.broken) == 7 and line.passed["request"] == 1, "it was taken once, and asked for by its name"
    assert_equal(tiny_llava.run_with_cache(one, "pattern1"), there)


def test_a_sweep_goes_on_where_it_broke_off(tiny_llava, shapes_questions, trusted, monkeypatch):
    monkeypatch.setattr("lostattn.remote.parts.AHEAD", 1)
    monkeypatch.setattr("lostattn.remote.jobs.LOOKS", 1)
    prompts = [tiny_llava.prompt(question) for question in list(shapes_questions)[:6]]
    with BreakingLine(HOST) as line:
        line.faults["response"] = ["at once"]
        lost = pytest.raises(ConnectionLost, match="0 of 6 calls are done; session.resume.. goes on")
        with lost, la.remote.Session(tiny_llava, line.url, job_size=2) as session:
            later = [session.generate(prompt, max_new_tokens=3) for prompt in prompts]
        assert line.passed["request"] == 1
        session.resume()
        assert line.passed["request"] == 3 and len({job.id for job in session.jobs}) == 3
    for prompt, one in zip(prompts, later, strict=True):
        assert one.result().text == tiny_llava.generate(prompt, max_new_tokens=3).text


def test_a_front_that_is_stopped_and_comes_back(tiny_llava, one, front, fronts, trusted, monkeypatch):
    """The job is sent by one process of the service and looked up from another, after a while without any."""
    monkeypatch.setattr("lostattn.remote.sending.PAUSE", 1.0)
    monkeypatch.setattr("lostattn.remote.jobs.LOOKS", 10)  # a busy machine takes its time to bring the front back
    with fronts["stopped"] as stopped:
        url = stopped.url
        job = la.remote.submit(tiny_llava.generate, one, max_new_tokens=2, remote=url)
    with front(stopped.port):
        assert job.result(timeout=120).text == tiny_llava.generate(one, max_new_tokens=2).text
        assert_equal(tiny_llava.forward(one), tiny_llava.forward(one, remote=url))


def test_a_host_that_is_not_there(tiny_llava, one, monkeypatch):
    monkeypatch.setattr("lostattn.remote.sending.PAUSE", 0.01)
    began = time.monotonic()
    with pytest.raises(ConnectionLost, match="cannot be reached .*sent 6 times.; nothing was started"):
        tiny_llava.forward(one, remote="http://127.0.0.1:9")
    assert time.monotonic() - began < 60


def test_what_a_call_would_meet_is_what_nnsight_says(tiny_llava, one, trusted):
    tiny_llava.forward(one, remote=True)
    found = la.remote.check(tiny_llava)
    assert found.ready and found.runs_model
    there = nnsight.status()
    assert set(found.hosted) == {name for name in there if there[name]["task"] == "image-text-to-text"}
    compared = nnsight.compare()
    assert found.drift == {k: (v["local"], v["remote"]) for k, v in compared.critical_mismatches.items()}
    assert set(found.drift) <= {"nnsight", "torch", "transformers"} and "transformers" in found.drift
    assert re.search(r"versions that differ: .*transformers \S+ here, \S+ there", repr(found))
