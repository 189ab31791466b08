"""Tests against a real NDIF on the loopback interface: ``make test-ndif``, and no part of the default run."""

from __future__ import annotations

import json
import os

import pytest

import lostattn  # noqa: F401  before nnsight, which changes every object in a way that beartype's import cannot bear

collect_ignore_glob = [] if os.environ.get("NDIF_RUN") else ["test_*.py"]


@pytest.fixture(params=["trusted", "sandboxed"])
def server_path(request, monkeypatch):
    """Both ways in which the server runs a request: beside the model, and in a process without its weights."""
    from nnsight.schema.config import CONFIG
    from nnsight.schema.request import RequestModel

    asked = RequestModel.metadata

    def metadata(self):
        return json.dumps({**json.loads(asked(self)), "trusted": request.param == "trusted"})

    monkeypatch.setattr(RequestModel, "metadata", metadata)
    monkeypatch.setattr(CONFIG.APP, "REMOTE_LOGGING", False)
    return request.param


@pytest.fixture(scope="session")
def prompt(tiny_model, shapes_questions):
    return tiny_model.prompt(list(shapes_questions)[:3])
