"""Tests against a real NDIF on the loopback interface: ``make test-ndif``, and no part of the default run."""

from __future__ import annotations

import functools
import json
import os
import subprocess
import time
from collections.abc import Iterator
from contextlib import ExitStack
from itertools import count
from pathlib import Path

import httpx
import pytest

import lostattn  # noqa: F401  before nnsight, which changes every object in a way that beartype's import cannot bear

collect_ignore_glob = [] if os.environ.get("NDIF_RUN") else ["test_*.py"]


FRONT = Path(__file__).with_name("front")
_PORTS = count(8401)


class Front:
    """One more front of the server, until the block ends. It comes up by itself; its ``url`` waits for that."""

    def __init__(self, port: int | None = None, hurry: bool = True, **settings: str) -> None:
        self.port = next(_PORTS) if port is None else port
        given = [f"{name}={value}" for name, value in settings.items()]
        inherited = {name: value for name, value in os.environ.items() if name != "PYTHONPATH"}
        command = [*([] if hurry else ["nice"]), FRONT, str(self.port), *given]
        self.process = subprocess.Popen(command, env=inherited)

    @property
    def url(self) -> str:
        """Its address, once it serves."""
        url, until = f"http://127.0.0.1:{self.port}", time.monotonic() + 60
        while not _answers(url):
            came_up = self.process.poll() is None and time.monotonic() < until
            assert came_up, "the front did not come up; see $NDIF_RUN/log"
            time.sleep(0.1)
        return url

    def __enter__(self) -> Front:
        return self

    def __exit__(self, *_: object) -> None:
        self.process.terminate()
        self.process.wait(20)


def _answers(url: str) -> bool:
    try:
        return httpx.get(f"{url}/ping").status_code == 200
    except httpx.TransportError:
        return False


@pytest.fixture(scope="session")
def front():
    """``with front(port, NAME=value) as started``: one more front of the server."""
    return Front


def process_of(nodeid: str) -> str:
    """With ``-n 2``, one process for each model; what is about neither, or about failures, is seen on the LLaVA."""
    return "qwen" if "tiny-qwen" in nodeid else "llava"


@pytest.hookimpl(optionalhook=True)
def pytest_xdist_make_scheduler(config, log):
    """Tests of one process stay together, in their order."""
    from xdist.scheduler import LoadScopeScheduling

    class ByModel(LoadScopeScheduling):
        def _split_scope(self, nodeid: str) -> str:
            return process_of(nodeid)

    return ByModel(config, log)


@pytest.fixture(scope="session")
def server():
    """Waits for the server, which comes up while this process imports and loads."""
    run = Path(os.environ["NDIF_RUN"])
    while not (run / "started").exists():
        if (run / "failed").exists():
            pytest.exit("NDIF did not come up; see above", 90)
        time.sleep(0.1)


@pytest.fixture(scope="session")
def fronts(server) -> Iterator[dict[str, Front]]:
    """Fronts with settings of their own."""
    with ExitStack() as stack:
        yield {
            name: stack.enter_context(Front(hurry=False, **settings))
            for name, settings in {
                "keyed": {"NDIF_POSTGRES_URL": "postgresql://127.0.0.1:9/keys"},  # a list of keys that is not there
                "choosy": {"NDIF_MIN_NNSIGHT_VERSION": "99.0"},
                "stopped": {},
            }.items()
        }


@pytest.fixture(autouse=True)
def _fronts_come_up_early(request):
    """They take seconds, for which the tests that come before theirs need not wait."""
    if process_of(request.node.nodeid) == "llava":
        request.getfixturevalue("fronts")


def asking_for(path: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Send every request of this test on one of the server's two paths; this server believes what is asked."""
    from nnsight.schema.config import CONFIG
    from nnsight.schema.request import RequestModel

    asked = RequestModel.metadata

    def metadata(self):
        return json.dumps({**json.loads(asked(self)), "trusted": path == "trusted"})

    monkeypatch.setattr(RequestModel, "metadata", metadata)
    monkeypatch.setattr(CONFIG.APP, "REMOTE_LOGGING", False)


@pytest.fixture(scope="session")
def asking():
    """``asking(path, monkeypatch)``: the path of all that follows, where a test takes both."""
    return asking_for


@pytest.fixture
def trusted(monkeypatch, server):
    """Requests run beside the model."""
    asking_for("trusted", monkeypatch)


@pytest.fixture
def sandboxed(monkeypatch, server):
    """Requests run in a process without the model's weights."""
    asking_for("sandboxed", monkeypatch)


@pytest.fixture(params=["trusted", "sandboxed"])
def server_path(request, monkeypatch, server):
    """Both ways in turn."""
    asking_for(request.param, monkeypatch)
    return request.param


@pytest.fixture(scope="session")
def prompt(tiny_model, shapes_questions):
    return tiny_model.prompt(list(shapes_questions)[:3])


@pytest.fixture(scope="session")
def here(tiny_model, prompt):
    """``here(entry)``: what an entry of the tables gives without a server, made once."""
    return functools.cache(lambda entry: entry(tiny_model, prompt, False))
