"""Stored jobs and what a service's answers mean, without a service: its replies are played."""

from __future__ import annotations

import json
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from threading import Thread

import bounds
import httpx
import pytest
from nnsight.intervention.backends.remote import RemoteError
from nnsight.schema.config import CONFIG

import lostattn as la
from lostattn.errors import InputError
from lostattn.remote.failures import (
    ConnectionLost,
    Interrupted,
    JobFailed,
    NoKey,
    NotHosted,
    RemoteFailure,
    VersionDrift,
)
from lostattn.remote.jobs import Job
from lostattn.remote.opening import open_trace
from lostattn.remote.rehearsal import Rehearsal
from lostattn.remote.service import PUBLIC, Service, check, model_key
from lostattn.run.calls import Reading
from lostattn.run.make_calls import cache_call
from lostattn.run.reading import read

HOST = "http://played"
STATUS = {
    "deployments": {
        "a": {"deployment_level": "HOT", "repo_id": "org/seeing", "task": "image-text-to-text"},
        "b": {"deployment_level": "HOT", "repo_id": "org/reading", "task": "text-generation"},
        "c": {"deployment_level": "COLD", "repo_id": "org/asleep", "task": "image-text-to-text"},
    }
}
ENV = {"python_version": "3.12", "packages": {"transformers": "5.0.0", "yaml": "1"}}


@pytest.fixture
def played(monkeypatch):
    """The service's /status and /env, as the configuration names it; any other address is not there."""

    def give(request: httpx.Request) -> httpx.Response:
        pages = {f"{HOST}/status": STATUS, f"{HOST}/env": ENV}
        if str(request.url) not in pages:
            raise httpx.ConnectError("no such host")
        return httpx.Response(200, stream=httpx.ByteStream(json.dumps(pages[str(request.url)]).encode()))

    monkeypatch.setattr(CONFIG.API, "HOST", HOST)
    monkeypatch.setattr(
        "lostattn.remote.line.client_for", lambda host: httpx.Client(transport=httpx.MockTransport(give))
    )
    return Service(HOST)


@pytest.fixture
def prompt(tiny_llava, shapes_questions):
    return tiny_llava.prompt(list(shapes_questions)[0])


def refusal(status: int, detail: str) -> RemoteError:
    request = httpx.Request("POST", HOST)
    error = RemoteError(f"Failed to send request: {detail}")
    error.__cause__ = httpx.HTTPStatusError("no", request=request, response=httpx.Response(status, request=request))
    return error


def lost(kind: type[httpx.HTTPError]) -> RemoteError:
    error = RemoteError("Failed to send request: gone")
    error.__cause__ = kind("gone")
    return error


def refused(service: Service, model: la.LVLM, error: Exception) -> None:
    """What a service's answer to a request becomes, where it answers so each time."""
    submission = service.submission(model)

    def post(*_: object) -> None:
        raise error

    submission._post = post
    submission._serialize = lambda tracer: b""
    with service.explained(model, submission):
        submission.submit(None)


@pytest.mark.parametrize(
    ("error", "kind", "told"),
    [
        (refusal(401, "Missing or invalid API key."), NoKey, "refused the API key: Missing.* NDIF_API_KEY"),
        (refusal(400, "Invalid API key format"), NoKey, "refused the API key"),
        (refusal(400, "Client nnsight version 0.1 is below"), VersionDrift, "Versions differ .transformers .* 5.0.0"),
        (lost(httpx.ConnectError), ConnectionLost, "cannot be reached .gone; sent 6 times.; nothing was started"),
        (lost(httpx.ReadTimeout), ConnectionLost, "lost while the job was being sent .*no result holds .* twice"),
        (refusal(500, "Internal"), ConnectionLost, "lost while the job was being sent .Internal; sent 6 times"),
        (refusal(503, "Service busy"), RemoteFailure, "did not take the job: Service busy .sent 6 times"),
        (refusal(422, "no such field"), RemoteFailure, "did not take the job: no such field .sent once"),
    ],
)
def test_each_refusal_says_what_to_do(error, kind, told, played, tiny_llava, monkeypatch):
    monkeypatch.setattr("lostattn.remote.sending.PAUSE", 0.0)
    monkeypatch.setattr("lostattn.remote.sending.ASKED_FOR", 0.0)
    with pytest.raises(kind, match=told):
        refused(played, tiny_llava, error)


@pytest.mark.parametrize(
    ("text", "kind", "told"),
    [
        ("Could not deploy this model. Too large.", NotHosted, "Too large. .*that it runs: org/seeing. Load one of"),
        ("Error provisioning model. Please try again later.", NotHosted, "does not run 'tiny-llava'"),
        (
            "Traceback:\nTimeoutError: timed out waiting for the runner socket",
            Interrupted,
            "result: TimeoutError: timed",
        ),
        ("Error submitting request to model deployment.", Interrupted, "stopped the job before it gave a result"),
        ("The model architecture on this server doesn't match", VersionDrift, "Versions differ"),
        (
            'Traceback:\n  File "mine.py", line 3, in f\n    x.oops\nAttributeError: oops',
            JobFailed,
            "AttributeError: oops",
        ),
        ("", JobFailed, "no reason was given"),
    ],
)
def test_each_failure_of_a_job_is_told(text, kind, told, played, tiny_llava):
    failure = played.failure(text, tiny_llava)
    assert type(failure) is kind
    with pytest.raises(kind, match=told):
        raise failure


def test_a_failed_job_names_the_users_line(played, tiny_llava):
    text = (
        'Traceback:\n  File "/elsewhere/mine.py", line 3, in f\n    x.oops\n'
        '  File "[run_pass:1] /x/lostattn/kernels/walker.py", line 9, in run_pass\n    y\nAttributeError: oops'
    )
    told = str(played.failure(text, tiny_llava))
    assert 'File "/elsewhere/mine.py", line 3, in f\n    x.oops' in told
    assert "walker" not in told


def test_the_public_service_wants_a_key_before_anything_is_sent(tiny_llava, prompt, monkeypatch):
    monkeypatch.setattr(CONFIG.API, "APIKEY", None)
    monkeypatch.setattr(CONFIG.API, "HOST", PUBLIC)
    with pytest.raises(NoKey, match="wants an API key and none is set"):
        tiny_llava.forward(prompt, remote=True)


def test_check_lists_what_sees_and_what_differs(played, tiny_llava):
    found = check(tiny_llava, HOST)
    assert found.hosted == ("org/seeing",)
    assert found.runs_model is False and not found.ready
    assert found.drift["transformers"][1] == "5.0.0" and "yaml" not in found.drift
    assert "org/seeing" in repr(found) and "not running" in repr(found)
    with pytest.raises(ConnectionLost, match="cannot be reached"):
        check(None, "http://localhost:9")


def test_a_folder_is_known_by_its_path(tiny_llava):
    assert f'"repo_id": "{tiny_llava.nn.repo_id}"' in model_key(tiny_llava)


def test_a_job_is_stored_without_its_key_and_read_again(tiny_llava, tmp_path):
    job = Job(Service(HOST, "secret"), "abc", tiny_llava, None, [Reading("cache", ("hook_embed",))], [None])
    job.save(tmp_path / "job.json")
    assert "secret" not in (tmp_path / "job.json").read_text()
    again = Job.load(tmp_path / "job.json", tiny_llava, host=HOST)
    assert (again.id, again.service.host, again.readings, again.single) == ("abc", HOST, job.readings, True)
    assert [path.name for path in tmp_path.iterdir()] == ["job.json"]


@pytest.mark.parametrize("text", ["", "[]", "{}", '{"readings": 3}'])
def test_a_file_that_is_no_job_is_refused(text, tiny_llava, tmp_path):
    (tmp_path / "job.json").write_text(text)
    with pytest.raises(InputError, match="holds no stored job"):
        Job.load(tmp_path / "job.json", tiny_llava)


def test_a_job_of_another_model_is_refused(tiny_llava, tmp_path):
    Job(Service(HOST), "abc", tiny_llava, None, [Reading("logits")], [None]).save(tmp_path / "job.json")
    data = json.loads((tmp_path / "job.json").read_text())
    (tmp_path / "job.json").write_text(json.dumps({**data, "model": "another"}))
    with pytest.raises(InputError, match="holds a job of 'another'"):
        Job.load(tmp_path / "job.json", tiny_llava)


def test_a_service_that_stays_away_loses_no_job(tiny_llava, monkeypatch):
    monkeypatch.setattr("lostattn.remote.jobs.LOOKS", 2)
    job = Job(Service(HOST), "abc", tiny_llava, None, [Reading("logits")], [None])

    def away(request: httpx.Request) -> httpx.Response:
        raise httpx.ConnectError("no line")

    monkeypatch.setattr(
        "lostattn.remote.line.client_for", lambda host: httpx.Client(transport=httpx.MockTransport(away))
    )
    with pytest.raises(ConnectionLost, match="job abc") as told:
        job.done()
    assert told.value.job is job


def test_a_job_is_waited_for_over_one_connection(tiny_llava):
    told = ["RECEIVED", "RUNNING", "RUNNING", "ERROR"]
    asked_from: list[int] = []

    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def do_GET(self) -> None:
            is_job = self.path == "/response/abc"
            body = json.dumps({"id": "abc", "status": told.pop(0), "description": "oops"} if is_job else ENV).encode()
            if is_job:
                asked_from.append(self.client_address[1])
            self.send_response(200)
            self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            self.wfile.write(body)

        def log_message(self, *_: object) -> None:
            pass

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    Thread(target=server.serve_forever, args=(0.02,), daemon=True).start()
    job = Job(Service(f"http://127.0.0.1:{server.server_port}"), "abc", tiny_llava, None, [Reading("logits")], [None])
    with pytest.raises(JobFailed, match="oops"):
        job.result()
    server.shutdown()
    server.server_close()
    assert len(asked_from) == 4 and len(set(asked_from)) == 1


def test_what_cannot_be_submitted_is_refused(tiny_llava, prompt):
    with pytest.raises(InputError, match="submit takes a model's"):
        la.remote.submit(print, prompt)
    with pytest.raises(InputError, match="a job is sent to a service"):
        la.remote.submit(tiny_llava.generate, prompt, remote="local")


def test_a_described_model_knows_its_parts_and_runs_nothing_here(tiny_model, shapes_questions):
    described = la.load(tiny_model.name, remote=True)
    assert described.is_described_only
    assert described.hook_names == tiny_model.hook_names
    question = list(shapes_questions)[0]
    assert described.prompt(question).n_pos == tiny_model.prompt(question).n_pos
    for remote in (False, "local"):
        with pytest.raises(InputError, match="described without its weights"):
            described.forward(described.prompt(question), remote=remote)


def test_per_head_results_of_a_described_model_are_made_in_the_pass(tiny_model, shapes_questions):
    described = la.load(tiny_model.name, remote=True)
    prompt = described.prompt(list(shapes_questions)[:3])
    edit = la.KnockOut("last", "image", layers=[1])
    names = [name for name in described.hook_names if "s.1.attn.hook_result" in name]
    assert len(names) == 2, "one in the decoder, one in the tower"
    call = cache_call(described, prompt, names, edit)
    raw = open_trace(tiny_model, [call], Rehearsal(tiny_model.nn))[0]
    assert set(raw["kept"]) == set(names)
    _, cache = read(call.reading, described, raw, prompt)
    _, here = tiny_model.run_with_cache(prompt, names, edit)
    for name in names:
        bounds.close(cache[name], here[name], bounds.passes(tiny_model.hf, prompt.inputs), of=name)
    everything = cache_call(described, prompt).reading.names
    assert "blocks.1.attn.hook_z" in everything and not [n for n in everything if n.endswith("hook_result")]
    assert cache_call(described, prompt, lambda name: name in names).reading.names == tuple(names)


def test_what_needs_weights_says_so_of_a_described_model(tiny_llava, shapes_questions):
    described = la.load("tiny-llava", remote=True)
    question = list(shapes_questions)[0]
    prompt = described.prompt(question)
    metric = la.answers.metric(tiny_llava, question)
    call = cache_call(described, prompt, lambda name: "resid" in name or name.endswith(("hook_z", "mlp.hook_post")))
    _, cache = read(call.reading, described, open_trace(tiny_llava, [call], Rehearsal(tiny_llava.nn))[0], prompt)
    for needing in (
        lambda: cache.W_U,
        lambda: cache.logit_attrs(cache["resid_post", -1], 3),
        lambda: la.lenses.logit_lens(cache),
        lambda: la.lenses.direct_attribution(cache, 3),
        lambda: la.lenses.image_attribution(cache, 3),
    ):
        with pytest.raises(InputError, match="needs the weights of .* described without them"):
            needing()
    for running in (
        described.selftest,
        described.to_transformer_bridge,
        lambda: la.gradients.gradients(described, prompt, metric, "z1"),
    ):
        with pytest.raises(InputError, match="described without its weights, so nothing can run here"):
            running()
    with pytest.raises(InputError, match="gradients of pixels are taken where the weights are"):
        la.lenses.input_attribution(described, prompt, metric, of="pixels", remote=True)


def test_the_remote_proof_rehearsed(tiny_model):
    report = tiny_model.selftest(remote="local")
    assert report.passed
    assert len(report.checks) > tiny_model.cfg.n_layers
