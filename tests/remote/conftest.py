"""A prompt of three questions of unequal length for each trained model."""

from __future__ import annotations

import pytest

import lostattn  # noqa: F401  before nnsight, which changes every object in a way that beartype's import cannot bear


@pytest.fixture(scope="session")
def prompt(tiny_model, shapes_questions):
    return tiny_model.prompt(list(shapes_questions)[:3])
