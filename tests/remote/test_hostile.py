"""A hostile server and a hostile job file: nothing of theirs runs here, the key stays, nothing bursts or hangs."""

from __future__ import annotations

import itertools
import json
import os
import socket

import pytest
import torch
from hostile_files import acting_files, packed, saved
from hostile_server import KEY, HostileServer, Reply, done
from nnsight.schema.config import CONFIG
from played_service import PlayedService

import lostattn as la
from lostattn.errors import InputError, LostAttnError
from lostattn.plan.program import Reduction
from lostattn.remote import ConnectionLost, Job, JobFailed, NoKey, RemoteFailure, UnreadableResult
from lostattn.remote.service import Service
from lostattn.run.calls import Reading

LOGITS = {"sent": {"logits": torch.arange(6.0).reshape(1, 2, 3), "kept": {}}}


@pytest.fixture(autouse=True)
def hasty(monkeypatch):
    """A key that is the configured host's, and no waiting between tries."""
    monkeypatch.setattr(CONFIG.API, "APIKEY", KEY)
    monkeypatch.setattr(CONFIG.APP, "REMOTE_LOGGING", False)
    monkeypatch.setattr("lostattn.remote.sending.PAUSE", 0.01)
    monkeypatch.setattr("lostattn.remote.sending.ASKED_FOR", 0.05)
    monkeypatch.setattr("lostattn.remote.jobs.PAUSE", 0.001)
    monkeypatch.setattr("lostattn.remote.jobs.LOOKS", 2)
    monkeypatch.setattr("lostattn.remote.jobs.UNKNOWN_FOR", 0.2)


@pytest.fixture
def named(monkeypatch):
    """Makes a server the configured host."""
    return lambda server: monkeypatch.setattr(CONFIG.API, "HOST", server.url)


@pytest.fixture
def prompt(tiny_llava, shapes_questions):
    return tiny_llava.prompt(list(shapes_questions)[0])


def job_on(server: HostileServer, model: la.LVLM, *readings: Reading) -> Job:
    found = Service.of(server.url)
    return Job(found, "abc", model, None, readings or [Reading("logits")], [None] * max(1, len(readings)))


# Job files

STORED = {
    "format": 1,
    "job": "abc",
    "host": "http://127.0.0.1:9",
    "model": "tiny-llava",
    "single": True,
    "readings": [json.loads(json.dumps(Reading("logits").to_dict()))],
    "sent": 10,
}


def test_a_job_file_does_not_choose_where_it_goes(tiny_llava, tmp_path):
    with HostileServer(response=done(), result=Reply(packed(saved(LOGITS)))) as server:
        path = tmp_path / "job.json"
        path.write_text(json.dumps({**STORED, "host": server.url}))
        with pytest.raises(InputError, match="does not choose where you connect to"):
            Job.load(path, tiny_llava)
        with pytest.raises(InputError, match="name the one it is on"):
            Job.load(path, tiny_llava, host="http://127.0.0.1:9")
        assert server.seen == [], "it was not even asked"
        assert Job.load(path, tiny_llava, host=server.url).result().shape == (1, 2, 3)
        assert server.asked == ["/response/abc", "/result"] and server.keys == []


def test_a_job_on_the_configured_host_is_asked_for_with_the_key(tiny_llava, tmp_path, named):
    with HostileServer(response=done(), result=Reply(packed(saved(LOGITS)))) as server:
        named(server)
        path = tmp_path / "job.json"
        path.write_text(json.dumps({**STORED, "host": f"{server.url}/../elsewhere"}))
        Job.load(path, tiny_llava).result()
        assert server.asked == ["/response/abc", "/result"], "the address is the configured one"
        assert [headers.get("ndif-api-key") for _, headers in server.seen] == [KEY, None]


def changes():
    """Every place of a stored job with values that do not belong there."""
    alien = [None, True, -1, 1 << 70, 1.5, "", "\x00", "x" * 500, [], {}, [[]], {"type": "Steer"}, {"tensor": "AAAA"}]
    inner = STORED["readings"][0]
    for key, value in itertools.product(STORED, alien):
        yield {**STORED, key: value}
    for key, value in itertools.product(inner, alien):
        yield {**STORED, "readings": [{**inner, key: value}]}
    for key in STORED:
        yield {name: value for name, value in STORED.items() if name != key}
    for key in inner:
        yield {**STORED, "readings": [{name: value for name, value in inner.items() if name != key}]}
    for id in ("../admin", "abc?x=1", "abc#", "a/b", "a b", "abc\r\nx: y", "%2e%2e", "a" * 200):
        yield {**STORED, "job": id}
    for dtype in ("load", "save", "__dict__", "Tensor", "torch.float32"):
        yield {**STORED, "readings": [{**inner, "dtype": dtype}]}


def test_a_job_file_that_was_changed_is_refused_or_means_the_same(tiny_llava, tmp_path):
    path, refused, tried = tmp_path / "job.json", 0, 0
    for changed in changes():
        path.write_text(json.dumps(changed))
        tried += 1
        try:
            Job.load(path, tiny_llava, host=STORED["host"])
        except LostAttnError as error:
            refused += 1
            assert len(str(error)) < 2000
    assert tried > 180 and refused > 0.8 * tried


def test_files_that_are_no_files_are_refused(tiny_llava, tmp_path):
    os.mkfifo(tmp_path / "pipe")
    (tmp_path / "deep").write_text("[" * 300_000)
    (tmp_path / "alien").write_bytes(b"\xff\xfe\x00")
    (tmp_path / "link").symlink_to("/dev/zero")
    with open(tmp_path / "huge", "wb") as file:
        file.truncate(1 << 33)
    with socket.socket(socket.AF_UNIX) as open_socket:
        open_socket.bind(str(tmp_path / "socket"))
    for name in ("pipe", "deep", "alien", "link", "huge", "socket", "missing", "\x00", ".", "a" * 300):
        with pytest.raises(InputError, match="job|path is"):
            Job.load(tmp_path / name, tiny_llava)


def test_a_job_kept_on_a_device_that_is_not_here_stays_on_the_cpu(tiny_llava, tmp_path):
    reading = {**STORED["readings"][0], "kind": "cache", "device": "cuda:7"}
    (tmp_path / "job.json").write_text(json.dumps({**STORED, "readings": [reading]}))
    with pytest.warns(UserWarning, match="is not here: they stay on the CPU"):
        job = Job.load(tmp_path / "job.json", tiny_llava, host=STORED["host"])
    assert job.readings[0].device == "cpu"


# Results


def test_nothing_of_a_result_runs(tiny_llava, tmp_path):
    mark = tmp_path / "it ran"
    for told, content in acting_files(str(mark)):
        for body in (content, packed(content)):
            with HostileServer(response=done(), result=Reply(body)) as server:
                with pytest.raises(UnreadableResult, match="127.0.0.1.* sent "):
                    job_on(server, tiny_llava).result()
                assert not mark.exists() and server.keys == [], told


def endless(part: bytes):
    return Reply(itertools.repeat(part, 1 << 20), connection="close")


TRICKS = {
    "no JSON": Reply(b"<html>"),
    "nothing": Reply(b""),
    "deep JSON": Reply(b"[" * 100_000),
    "another JSON": Reply({"hello": 1}),
    "a list": Reply([1, 2]),
    "an id that is a path": Reply({"id": "../../x", "status": "RUNNING"}),
    "an unknown status": Reply({"id": "abc", "status": "CRASHED"}),
    "a result that is a dict": done({"sent": 1}),
    "a result that is a list": done([1]),
    "a result in a file": done("file:///etc/passwd"),
    "a result that is no address": done("///\x00"),
    "a result by a name and password": done("http://me:you@127.0.0.1/"),
    "done without a result": done(""),
    "no text": Reply(b"\xff\xfe"),
    "packed by gzip": Reply(b"\x1f\x8b", content_encoding="gzip"),
    "packed by zstd": Reply(b"", content_encoding="zstd"),
    "endless": endless(b" " * (1 << 20)),
    "said to be huge": Reply(iter([b"{}"]), content_length=str(1 << 50), connection="close"),
    "of a length that is none": Reply(iter([b"{"]), content_length="ten", connection="close"),
    "sent elsewhere": Reply(status=302, location="http://elsewhere.example/\x1b[2J"),
    "forbidden": Reply({"detail": {"a": 1}}, status=403),
    "an error that is no text": Reply({"id": "abc", "status": "ERROR", "description": {"a": 1}}),
}


@pytest.mark.parametrize("trick", TRICKS)
def test_what_a_server_says_of_a_job_is_read_or_refused(trick, tiny_llava, named):
    with HostileServer(response=TRICKS[trick]) as server:
        named(server)
        with pytest.raises(RemoteFailure) as told:
            job_on(server, tiny_llava).result(timeout=20)
        assert "\x1b" not in str(told.value) and KEY not in str(told.value) and len(str(told.value)) < 3000
        assert set(server.asked) == {"/response/abc"}


WRONG = {
    "no result": {"other": 1},
    "a list": [1],
    "a number": {"sent": 1},
    "no logits": {"sent": {}},
    "flat logits": {"sent": {"logits": torch.zeros(3)}},
    "whole logits": {"sent": {"logits": torch.zeros(1, 2, 3, dtype=torch.int64)}},
    "texts": {"sent": {"logits": "\x1b[2J"}},
}


@pytest.mark.parametrize("told", WRONG)
def test_a_result_of_another_kind_is_refused(told, tiny_llava):
    with HostileServer(response=done(), result=Reply(packed(saved(WRONG[told])))) as server:
        with pytest.raises(UnreadableResult, match="127.0.0.1.* sent "):
            job_on(server, tiny_llava).result()


KEPT = {"hook_embed": torch.zeros(1, 2, 3)}
GENERATION = {"sequences": torch.tensor([[5, 6, 7]]), "steps": []}


@pytest.mark.parametrize(
    ("reading", "sent"),
    [
        (Reading("cache", ("hook_embed",)), {"logits": torch.zeros(1, 2, 3), "kept": {"hook_embed": 3}}),
        (Reading("cache", ("hook_embed",)), {"logits": torch.zeros(1, 2, 3), "kept": {"hook_embed": {"mask": [1]}}}),
        (Reading("cache", ("hook_embed",)), {"logits": torch.zeros(1, 2, 3), "kept": [1]}),
        (Reading("cache", ("hook_embed",)), {"logits": torch.zeros(1, 2, 3), "kept": {3: torch.zeros(1)}}),
        (Reading("numbers"), {"kept": 3}),
        (Reading("measures"), {"kept": {}, "logits": 3}),
        (Reading("generation", n_pos=2, n_items=1), {**GENERATION, "sequences": torch.zeros(1, 3)}),
        (Reading("generation", n_pos=2, n_items=1), {**GENERATION, "sequences": torch.tensor([5, 6, 7])}),
        (Reading("generation", n_pos=2, n_items=1), {**GENERATION, "sequences": torch.tensor([[5, 6, -7]])}),
        (Reading("generation", n_pos=2, n_items=1), {**GENERATION, "sequences": torch.tensor([[5, 6, 1 << 40]])}),
        (Reading("generation", n_pos=4, n_items=1), GENERATION),
        (Reading("generation", n_pos=2, n_items=2), GENERATION),
        (Reading("generation", n_pos=2, n_items=1), {**GENERATION, "steps": 3}),
        (Reading("generation", n_pos=2, n_items=1), {**GENERATION, "steps": [3]}),
        (Reading("generation", ("hook_embed",), n_pos=2, n_items=1), GENERATION),
    ],
)
def test_a_result_of_another_call_is_refused(reading, sent, tiny_llava):
    with HostileServer(response=done(), result=Reply(packed(saved({"sent": sent})))) as server:
        with pytest.raises(UnreadableResult, match="send it again"):
            job_on(server, tiny_llava, reading).result()


# nnsight's own traces


def test_a_trace_of_nnsight_gives_what_it_saved(tiny_llava, prompt):
    _, here = tiny_llava.run_with_cache(prompt, ["blocks.1.hook_resid_post", "blocks.3.hook_mlp_out"])
    with PlayedService(tiny_llava.nn) as service:
        nn = tiny_llava.nn
        with tiny_llava.trace(prompt, remote=service.url):
            resid = nn.model.language_model.layers[1].output.save()
        inputs = dict(prompt.inputs)
        with nn.session(remote=service.url):
            with nn.trace(inputs):
                mlp = nn.model.language_model.layers[3].mlp.output.save()
    torch.testing.assert_close(resid[0] if isinstance(resid, tuple) else resid, here["resid_post", 1])
    torch.testing.assert_close(mlp, here["mlp_out", 3])


def test_a_trace_of_nnsight_runs_nothing_of_a_server(tiny_llava, prompt, tmp_path):
    mark = tmp_path / "it ran"
    content = dict(acting_files(str(mark)))["a result that acts"]
    told = Reply({"id": "abc", "status": "RECEIVED"})
    with HostileServer(request=told, response=done(), result=Reply(packed(content))) as server:
        nn = tiny_llava.nn
        with pytest.raises(UnreadableResult), tiny_llava.trace(prompt, remote=server.url):
            nn.output.logits.save()
        assert not mark.exists() and server.keys == []


def test_a_trace_of_nnsight_goes_to_no_host_that_is_not_named(tiny_llava, prompt, monkeypatch):
    monkeypatch.setattr(CONFIG.API, "HOST", "https://api.ndif.us")
    with pytest.raises(InputError, match="your configuration does not name"):
        tiny_llava.trace(prompt, remote="http://evil.example")
    with pytest.raises(InputError, match="your configuration does not name"):
        tiny_llava.nn.session(remote="http://evil.example")
    with pytest.raises(InputError, match="use lostattn.remote.submit"):
        tiny_llava.trace(prompt, remote=True, blocking=False)


# The key


def test_the_key_follows_no_redirect(tiny_llava, prompt, named):
    with HostileServer() as elsewhere:
        away = Reply(status=307, location=f"{elsewhere.url}/request")
        with HostileServer(request=away, response=away, status=away, env=away) as server:
            named(server)
            with pytest.raises(RemoteFailure, match="which is not followed"):
                tiny_llava.forward(prompt, remote=True)
            with pytest.raises(RemoteFailure, match="which is not followed"):
                job_on(server, tiny_llava).result()
            with pytest.raises(ConnectionLost, match="which is not followed"):
                la.remote.check(tiny_llava)
            assert KEY in server.keys and elsewhere.seen == []


def test_the_key_does_not_go_to_where_a_result_lies(tiny_llava, named):
    with HostileServer(stored=Reply(packed(saved(LOGITS)))) as store:
        with HostileServer(response=done(f"{store.url}/stored/1?signed=yes")) as server:
            named(server)
            job_on(server, tiny_llava).result()
            assert len(server.keys) == 1 and store.asked == ["/stored/1?signed=yes"] and store.keys == []


@pytest.mark.parametrize("host", ["http://evil.example", "https://evil.example", "https://api.ndif.us.evil.example"])
def test_a_host_that_is_not_named_is_refused_before_anything_is_sent(
    host, tiny_llava, prompt, shapes_questions, monkeypatch
):
    monkeypatch.setattr(CONFIG.API, "HOST", "https://api.ndif.us")
    monkeypatch.setattr(socket, "getaddrinfo", lambda *_: pytest.fail("a name was looked up"))
    for call in (
        lambda: tiny_llava.forward(prompt, remote=host),
        lambda: la.remote.Session(tiny_llava, host),
        lambda: la.remote.submit(tiny_llava.generate, prompt, remote=host),
        lambda: la.remote.check(tiny_llava, host),
        lambda: tiny_llava.selftest(prompt, remote=host),
        lambda: tiny_llava.measure(shapes_questions, ["probability"], remote=host),
    ):
        with pytest.raises(InputError, match="your configuration does not name"):
            call()


def test_a_server_on_this_machine_gets_no_key_before_it_is_named(tiny_llava, prompt, named):
    with HostileServer(request=Reply({"detail": "Missing or invalid API key."}, status=401)) as server:
        with pytest.raises(NoKey, match="Your key was not sent there: .*set NDIF_HOST=http://127.0.0.1"):
            tiny_llava.forward(prompt, remote=server.url)
        assert server.keys == []
        named(server)
        with pytest.raises(NoKey) as told:
            tiny_llava.forward(prompt, remote=server.url)
        assert server.keys == [KEY] and "was not sent" not in str(told.value)


def test_the_key_is_nowhere_in_what_is_sent(tiny_llava, prompt, named):
    with PlayedService(tiny_llava.nn) as service:
        named(service)
        sent = []
        run = service.run
        service.run = lambda name, blob, here: (sent.append(blob), run(name, blob, here))[1]
        tiny_llava.run_with_hooks(prompt, [("hook_embed", lambda value, hook: value)], remote=True)
    import zstandard

    assert KEY.encode() not in zstandard.ZstdDecompressor().decompress(sent[0])


def test_a_key_that_a_server_says_back_is_not_shown(tiny_llava, prompt, named, capsys):
    said = {"detail": f"Invalid API key format: '{KEY}'."}
    error = {"id": "abc", "status": "ERROR", "description": f"oops {KEY}\x1b[2J\x1b]0;mine\x07\u202e"}
    with HostileServer(request=Reply(said, status=400), response=Reply(error)) as server:
        named(server)
        with pytest.raises(NoKey, match="Invalid API key format: '…'") as told:
            tiny_llava.forward(prompt, remote=True)
        with pytest.raises(JobFailed, match="oops …") as failed:
            job_on(server, tiny_llava).result()
        shown = str(told.value) + str(failed.value) + failed.value.there + "".join(capsys.readouterr())
        assert KEY not in shown and not set(shown) & {"\x1b", "\x07", "\u202e"}


def test_a_proxy_is_not_given_what_goes_to_this_machine(tiny_llava, named, monkeypatch):
    with HostileServer() as proxy, HostileServer(response=done(), result=Reply(packed(saved(LOGITS)))) as server:
        for name in ("http_proxy", "HTTP_PROXY", "all_proxy", "ALL_PROXY"):
            monkeypatch.setenv(name, proxy.url)
        for name in ("no_proxy", "NO_PROXY"):
            monkeypatch.delenv(name, raising=False)
        named(server)
        job_on(server, tiny_llava).result()
        assert len(server.keys) == 1 and proxy.seen == []


def test_a_configuration_that_changes_takes_the_key_along(tiny_llava, named, monkeypatch):
    with HostileServer(response=Reply({"id": "abc", "status": "RUNNING"})) as server:
        named(server)
        job = job_on(server, tiny_llava)
        assert not job.done() and server.keys == [KEY]
        monkeypatch.setattr(CONFIG.API, "HOST", "https://api.ndif.us")
        assert not job.done() and server.keys == [KEY]


# What is said of a job while it runs


def test_what_a_server_says_steers_no_terminal(tiny_llava, monkeypatch, capsys):
    monkeypatch.setattr(CONFIG.APP, "REMOTE_LOGGING", True)
    monkeypatch.setenv("NO_COLOR", "1")
    said = iter(["RUNNING", "LOG", "COMPLETED"])

    def response(server: HostileServer) -> Reply:
        status = next(said)
        text = "\x1b]8;;http://evil.example\x07here\x1b[2J\r\x9b31m"
        data = f"{server.url}/result" if status == "COMPLETED" else None
        return Reply({"id": "abc", "status": status, "description": text, "data": data})

    with HostileServer(response=response, result=Reply(packed(saved(LOGITS)))) as server:
        job_on(server, tiny_llava).result()
    written = capsys.readouterr().out.replace("\r\x1b[K", "")  # nnsight's own: back to the line's beginning
    assert "here" in written and not set(written) & {"\x1b", "\x07", "\x9b"}


def test_what_drips_ends_with_the_time(tiny_llava):
    with HostileServer(response=Reply(_drip(), connection="close")) as server:
        with pytest.raises(TimeoutError, match="ask again"):
            job_on(server, tiny_llava).result(timeout=0.3)


def _drip():
    import time

    for _ in range(200):
        yield b" "
        time.sleep(0.05)


def test_a_rehearsal_reads_as_a_service_is_read(tiny_llava, prompt):
    with pytest.raises(UnreadableResult, match="the rehearsal sent .*Return such values from hooks"):
        tiny_llava.measure(prompt, [Reduction("odd", ("hook_embed",), alien)], remote="local")


def alien(held, here):
    return range(3)
