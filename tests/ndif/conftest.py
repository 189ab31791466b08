"""Tests against a real NDIF on the loopback interface: ``make test-ndif``, and no part of the default run."""

from __future__ import annotations

import json
import os

import pytest

import lostattn  # noqa: F401  before nnsight, which changes every object in a way that beartype's import cannot bear

collect_ignore_glob = [] if os.environ.get("NDIF_RUN") else ["test_*.py"]


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
