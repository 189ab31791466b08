"""More tricks of a hostile server: what it sends fits nothing, it sends elsewhere, or it never ends."""

from __future__ import annotations

import io
import os
import time
import zipfile

import numpy as np
import pytest
import torch
import zstandard
from hostile_files import Acting, archive, packed, saved
from hostile_server import KEY, HostileServer, Reply, done
from nnsight.schema.config import CONFIG

from lostattn.errors import InputError
from lostattn.remote import Job, RemoteFailure, UnreadableResult
from lostattn.remote.hosts import checked_host, key_for, named_hosts
from lostattn.remote.service import Service
from lostattn.run.calls import Reading

LOGITS = torch.zeros(1, 2, 3)
SOUND = {"sent": {"logits": LOGITS, "kept": {}}}
EDITS = (("an edit", "blocks.0.hook_resid_post"),)


@pytest.fixture(autouse=True)
def hasty(monkeypatch):
    monkeypatch.setattr(CONFIG.API, "APIKEY", KEY)
    monkeypatch.setattr(CONFIG.APP, "REMOTE_LOGGING", False)
    monkeypatch.setattr("lostattn.remote.jobs.PAUSE", 0.001)
    monkeypatch.setattr("lostattn.remote.jobs.LOOKS", 2)


def job_on(server: HostileServer, model, reading: Reading | None = None) -> Job:
    return Job(Service.of(server.url), "abc", model, None, [reading or Reading("logits")], [None])


def result_of(model, content: bytes, reading: Reading | None = None):
    with HostileServer(response=done(), result=Reply(content)) as server:
        try:
            return job_on(server, model, reading).result(timeout=30)
        finally:
            assert server.keys == []


# Values that are none


def acting(mark: str):
    """Values of kinds that unpickle by calling something; an object array's elements are a pickle within."""
    act = Acting(os.mkdir, mark)
    objects = np.empty(2, object)
    objects[:] = act
    yield "an array of objects", objects
    yield "a dtype of objects", np.array([(1, act)], dtype=[("a", "i4"), ("b", "O")])
    yield "an array", np.zeros(3)
    yield "a number of numpy", np.float64(3)
    yield "a masked array", np.ma.array([1, 2], mask=[0, 1])
    yield "a module", torch.nn.Linear(2, 3)
    yield "a storage", torch.zeros(3).untyped_storage()
    yield "a sparse tensor", torch.eye(3).to_sparse()
    yield "a generator", torch.Generator()
    yield "a class", dict
    yield "a function", os.system
    yield "an exception", ValueError(act)
    yield "a slice", slice(0, 3)
    yield "a range", range(3)
    yield "bytes of a pickle", {"logits": saved(act)}


def test_values_of_other_kinds_are_refused_and_nothing_of_them_runs(tiny_llava, tmp_path):
    mark = tmp_path / "it ran"
    for told, value in acting(str(mark)):
        for place in ({"sent": value}, {"sent": {"logits": value, "kept": {}}}, {"sent": [value]}):
            with pytest.raises(UnreadableResult, match="127.0.0.1.* sent "):
                result_of(tiny_llava, packed(saved(place)))
            assert not mark.exists(), told


def test_archives_in_archives_and_odd_parts_are_refused(tiny_llava):
    plain = saved(SOUND)
    buffer = io.BytesIO(plain)
    with zipfile.ZipFile(buffer, "a") as made:
        made.writestr("../../etc/passwd", "root")
        made.writestr("archive/code/__torch__.py", "import os")
    nested = io.BytesIO()
    with zipfile.ZipFile(nested, "w") as made:
        made.writestr("archive/data.pkl", plain)
    bomb = zstandard.ZstdCompressor(level=19).compress(zstandard.ZstdCompressor(level=19).compress(bytes(1 << 28)))
    for content in (
        nested.getvalue(),
        bomb,
        packed(packed(plain)),
        archive(b"\x80\x02N."),
        plain[::-1],
        packed(plain)[:-9],
    ):
        with pytest.raises(UnreadableResult, match="127.0.0.1.* sent "):
            result_of(tiny_llava, content)
    try:  # a part that nobody asks for is not unpacked, or the whole is refused
        assert result_of(tiny_llava, packed(buffer.getvalue())).shape == (1, 2, 3)
    except UnreadableResult:
        pass


GENERATED = {"sequences": torch.tensor([[5, 6, 7]]), "steps": []}
CACHE = Reading("cache", ("blocks.1.hook_resid_post",))
PATTERN = Reading("cache", ("blocks.1.attn.hook_pattern",))
COUNTED = Reading("cache", (), edits=EDITS)
GENERATION = Reading("generation", n_pos=2, n_items=1)


def touched(**change):
    noted = {"number": torch.tensor([0]), "step": torch.tensor([0]), "counts": [torch.tensor([3])]}
    return {"logits": LOGITS, "kept": {}, "touched": {**noted, **change}}


MISFITS = [
    (CACHE, {"logits": LOGITS, "kept": {}}),
    (CACHE, {"logits": LOGITS, "kept": {"blocks.2.hook_resid_post": LOGITS}}),
    (PATTERN, {"logits": LOGITS, "kept": {"blocks.1.attn.hook_pattern": LOGITS}}),
    (PATTERN, {"logits": LOGITS, "kept": {"blocks.1.attn.hook_rot_q": LOGITS, "blocks.1.attn.hook_rot_k": LOGITS}}),
    (COUNTED, touched(number=torch.tensor([7]))),
    (COUNTED, touched(number=torch.tensor([-1]))),
    (COUNTED, touched(number=torch.tensor(0))),
    (COUNTED, touched(number=[0])),
    (COUNTED, touched(number=torch.tensor([0.5]))),
    (COUNTED, touched(step=torch.tensor([0, 1]))),
    (COUNTED, touched(counts=torch.tensor([3]))),
    (COUNTED, touched(counts=[3])),
    (COUNTED, touched(counts=[torch.tensor([[3]])])),
    (COUNTED, touched(counts=[])),
    (COUNTED, {"logits": LOGITS, "kept": {}, "touched": [1, 2]}),
    (COUNTED, {"logits": LOGITS, "kept": {}, "touched": {}}),
    (GENERATION, {**GENERATED, "scores": torch.zeros(3)}),
    (GENERATION, {**GENERATED, "scores": "none"}),
    (GENERATION, {**GENERATED, "logits": torch.zeros(2, 1, 3)}),
    (GENERATION, {**GENERATED, "sequences": torch.tensor([[5, 6, 7]]).bool()}),
    (Reading("generation", ("hook_embed",), n_pos=2, n_items=1), {**GENERATED, "steps": [{"hook_embed": LOGITS}] * 5}),
    (Reading("generation", ("hook_embed",), n_pos=2, n_items=1), {**GENERATED, "steps": [{}]}),
]


@pytest.mark.parametrize(("reading", "sent"), MISFITS, ids=range(len(MISFITS)))
def test_values_that_do_not_fit_the_call_are_refused(reading, sent, tiny_llava):
    told = "takes several tokens a pass|send it again" if reading.names == ("hook_embed",) else "send it again"
    with pytest.raises((UnreadableResult, InputError), match=told.replace("takes", "take")):
        result_of(tiny_llava, packed(saved({"sent": sent})), reading)


def test_what_fits_is_read(tiny_llava):
    _, cache = result_of(tiny_llava, packed(saved({"sent": touched()})), COUNTED)
    assert cache.touched.cells == {"an edit": 3}


# Elsewhere


@pytest.mark.parametrize("status", [301, 302, 303, 307, 308, 300])
def test_no_way_of_sending_on_takes_the_key_along(status, tiny_llava, monkeypatch):
    with HostileServer(response=done(), result=Reply(packed(saved(SOUND)))) as elsewhere:
        for place in (f"{elsewhere.url}/response/abc", elsewhere.url.replace("http:", "") + "/response/abc"):
            with HostileServer(
                response=Reply(status=status, location=place), result=Reply(status=status, location=place)
            ) as server:
                monkeypatch.setattr(CONFIG.API, "HOST", server.url)
                with pytest.raises(RemoteFailure):
                    job_on(server, tiny_llava).result(timeout=20)
        with HostileServer(response=done(), result=Reply(status=status, location=f"{elsewhere.url}/result")) as server:
            monkeypatch.setattr(CONFIG.API, "HOST", server.url)
            with pytest.raises(RemoteFailure):
                job_on(server, tiny_llava).result(timeout=20)
        assert elsewhere.seen == []


def test_headers_that_ask_for_another_line_are_not_followed(tiny_llava, monkeypatch):
    with HostileServer() as elsewhere:
        headers = {
            "refresh": f"0; url={elsewhere.url}",
            "alt_svc": f'h2="{elsewhere.url[7:]}"',
            "link": f"<{elsewhere.url}>",
        }
        headers |= {"set_cookie": f"key={KEY}", "www_authenticate": "Basic", "content_location": elsewhere.url}
        with HostileServer(response=done(), result=Reply(packed(saved(SOUND)))) as server:
            server.replies["response"] = lambda here: Reply(done()(here).body, **headers)
            monkeypatch.setattr(CONFIG.API, "HOST", server.url)
            assert job_on(server, tiny_llava).result(timeout=20).shape == (1, 2, 3)
            assert len(server.keys) == 1 and not any("cookie" in sent for _, sent in server.seen)
        assert elsewhere.seen == []


def test_an_upgrade_to_another_protocol_is_no_answer(tiny_llava, monkeypatch):
    reply = Reply(iter([b"\x81\x7f" + b"\xff" * 8]), status=101, upgrade="websocket", connection="Upgrade")
    with HostileServer(response=reply) as server:
        monkeypatch.setattr(CONFIG.API, "HOST", server.url)
        with pytest.raises((RemoteFailure, TimeoutError)):
            job_on(server, tiny_llava).result(timeout=2)


def test_an_environment_and_a_configuration_that_disagree_name_both_and_no_third(monkeypatch):
    monkeypatch.setattr(CONFIG.API, "HOST", "https://one.example")
    monkeypatch.setenv("NDIF_HOST", "https://two.example")
    assert named_hosts() == ["https://one.example", "https://two.example"]
    assert checked_host(True) == "https://one.example" and key_for("https://two.example") == KEY
    with pytest.raises(InputError, match="does not name"):
        checked_host("https://three.example")
    for odd in (
        "https://one.example@three.example",
        "http://one.example",
        "https://one.example:8443",
        "https://one.example.:1",
    ):
        monkeypatch.setenv("NDIF_HOST", "")
        assert key_for_or_none(odd) == ""
    for name in ("NDIF_HOST", "NNSIGHT_HOST", "HOST"):
        monkeypatch.setenv(name, "javascript:alert(1)")
    with pytest.raises(InputError, match="expected the address of a service"):
        checked_host("https://three.example")


def key_for_or_none(host: str) -> str:
    try:
        return key_for(host)
    except InputError:
        return ""


# Without an end


@pytest.mark.parametrize("where", ["response", "result"])
def test_an_answer_that_never_begins_ends_with_the_time(where, tiny_llava):
    def silent(server):
        time.sleep(30)
        return Reply()

    replies = {"response": done(), "result": Reply(b""), where: silent}
    with HostileServer(**replies) as server:
        began = time.monotonic()
        with pytest.raises(TimeoutError, match="ask again"):
            job_on(server, tiny_llava).result(timeout=0.3)
        assert time.monotonic() - began < 25, "the server is silent for longer"


def test_headers_that_drip_end_with_the_time(tiny_llava):
    import socket
    import threading

    with socket.create_server(("127.0.0.1", 0)) as listening:

        def serve():
            taken, _ = listening.accept()
            with taken:
                taken.recv(1 << 16)
                taken.sendall(b"HTTP/1.1 200 OK\r\nx-long: ")
                try:
                    for _ in range(600):
                        taken.sendall(b"x")
                        time.sleep(0.05)
                except OSError:
                    pass

        threading.Thread(target=serve, daemon=True).start()
        url = f"http://127.0.0.1:{listening.getsockname()[1]}"
        job = Job(Service.of(url), "abc", tiny_llava, None, [Reading("logits")], [None])
        began = time.monotonic()
        with pytest.raises(TimeoutError, match="ask again"):
            job.result(timeout=0.3)
        assert time.monotonic() - began < 25, "the headers drip for longer"


def test_a_look_without_a_time_has_one_of_its_own(tiny_llava, monkeypatch):
    monkeypatch.setattr("lostattn.remote.line.READ", 1.0)
    with HostileServer(response=lambda _: Reply(_slowly(), connection="close")) as server:
        with pytest.raises(RemoteFailure, match="was lost"):
            job_on(server, tiny_llava).done()


def _slowly():
    for _ in range(400):
        yield b" "
        time.sleep(0.1)
