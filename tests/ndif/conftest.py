"""Tests against a real NDIF on the loopback interface: ``make test-ndif``, and no part of the default run."""

from __future__ import annotations

import json
import os
import subprocess
import time
from collections.abc import Iterator
from contextlib import contextmanager
from itertools import count
from pathlib import Path

import httpx
import pytest

import lostattn  # before nnsight, which changes every object in a way that beartype's import cannot bear

collect_ignore_glob = [] if os.environ.get("NDIF_RUN") else ["test_*.py"]


FRONT = Path(__file__).with_name("front")
_PORTS = count(8401)


@contextmanager
def another_front(port: int | None = None, **settings: str) -> Iterator[str]:
    """The address of a front that serves until the block ends."""
    port = next(_PORTS) if port is None else port
    given = [f"{name}={value}" for name, value in settings.items()]
    process = subprocess.Popen(
        [FRONT, str(port), *given], env={k: v for k, v in os.environ.items() if k != "PYTHONPATH"}
    )
    url = f"http://127.0.0.1:{port}"
    try:
        until = time.monotonic() + 60
        while not _answers(url):
            assert process.poll() is None and time.monotonic() < until, "the front did not come up; see $NDIF_RUN/log"
            time.sleep(0.1)
        yield url
    finally:
        process.terminate()
        process.wait(20)


def _answers(url: str) -> bool:
    try:
        return httpx.get(f"{url}/ping").status_code == 200
    except httpx.TransportError:
        return False


@pytest.fixture(scope="session")
def front():
    """``with front(port, NAME=value) as url``: one more front of the server."""
    return another_front


@pytest.fixture(scope="session", autouse=True)
def deployed(tiny_llava, tiny_qwen):
    """Both models are asked for at once: the server takes seconds to deploy one, and tests may begin with the other."""
    run = Path(os.environ["NDIF_RUN"])
    while not (run / "started").exists():
        if (run / "failed").exists():
            pytest.exit("NDIF did not come up; see above", 90)
        time.sleep(0.1)
    for model in (tiny_qwen, tiny_llava):
        lostattn.remote.submit(model.run_with_hooks, model.prompt("Is it red?"))


def asking_for(path: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Send every request of this test on one of the server's two paths; this server believes what is asked."""
    from nnsight.schema.config import CONFIG
    from nnsight.schema.request import RequestModel

    asked = RequestModel.metadata

    def metadata(self):
        return json.dumps({**json.loads(asked(self)), "trusted": path == "trusted"})

    monkeypatch.setattr(RequestModel, "metadata", metadata)
    monkeypatch.setattr(CONFIG.APP, "REMOTE_LOGGING", False)


@pytest.fixture
def trusted(monkeypatch):
    """Requests run beside the model."""
    asking_for("trusted", monkeypatch)


@pytest.fixture
def sandboxed(monkeypatch):
    """Requests run in a process without the model's weights."""
    asking_for("sandboxed", monkeypatch)


@pytest.fixture(params=["trusted", "sandboxed"])
def server_path(request, monkeypatch):
    """Both ways in turn."""
    asking_for(request.param, monkeypatch)
    return request.param


@pytest.fixture(scope="session")
def prompt(tiny_model, shapes_questions):
    return tiny_model.prompt(list(shapes_questions)[:3])
