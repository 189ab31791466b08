"""The trained models beside their bare, eager selves, and prompts of unequal length."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import bounds
import edit_reference as reference
import jaxtyping
import pytest


@dataclass(frozen=True)
class Pair:
    """One trained model, wrapped and bare, with prompts of its own processor."""

    model: Any
    hf: Any
    prompt: Any  # one question on one picture
    batch: Any  # four questions, one of them on two pictures, padded on the left
    share: float  # how far two passes over the batch may lie apart, of the largest logit


@pytest.fixture
def untyped():
    """Without the annotations checked, as a user meets the package: wrong types reach its own messages."""
    jaxtyping.config.update("jaxtyping_disable", True)
    yield
    jaxtyping.config.update("jaxtyping_disable", False)


@pytest.fixture(scope="session")
def eager_llava():
    return reference.bare("tiny-llava")


@pytest.fixture(scope="session")
def eager_qwen():
    return reference.bare("tiny-qwen2_5-vl")


@pytest.fixture(scope="session")
def llava(tiny_llava, eager_llava, shapes_questions):
    return _pair(tiny_llava, eager_llava, shapes_questions)


@pytest.fixture(scope="session")
def qwen(tiny_qwen, eager_qwen, shapes_questions):
    return _pair(tiny_qwen, eager_qwen, shapes_questions)


@pytest.fixture(scope="session", params=["llava", pytest.param("qwen", marks=pytest.mark.slow)])
def pair(request):
    return request.getfixturevalue(request.param)


def _pair(model, hf, questions):
    two = next(i for i, q in enumerate(questions) if len(q.images) == 2)
    ones = [i for i, q in enumerate(questions) if len(q.images) == 1][:3]
    lengths = {model.prompt(questions[i]).n_pos for i in [two, *ones]}
    assert len(lengths) > 1, "the batch needs padding"
    batch = model.prompt([questions[i] for i in (ones[0], two, *ones[1:])])
    return Pair(model, hf, model.prompt(questions[ones[0]]), batch, bounds.passes(hf, batch.inputs))
