"""What every test shares: an offline process of few threads, the tiny models, a few questions."""

from __future__ import annotations

import atexit
import importlib.metadata
import os
import shutil
import tempfile

# Before anything is imported that reads them, and before a test starts a process that inherits them.
os.environ.update(
    HF_HUB_OFFLINE="1",
    HF_HUB_DISABLE_TELEMETRY="1",
    TRANSFORMERS_VERBOSITY="error",
    TOKENIZERS_PARALLELISM="false",
    MPLBACKEND="Agg",
    # TransformerBridge may run pip or uv when it boots a multimodal model; here that must fail at once.
    PIP_NO_INDEX="1",
    UV_OFFLINE="1",
)
# One thread each, since the workers of pytest-xdist share the cores; another number where the caller sets it.
os.environ.setdefault("OMP_NUM_THREADS", "1")
os.environ.setdefault("MKL_NUM_THREADS", os.environ["OMP_NUM_THREADS"])

# Checkpoints that are proved here are remembered for this session alone, and not among the user's own.
if "LOSTATTN_CACHE" not in os.environ:
    os.environ["LOSTATTN_CACHE"] = tempfile.mkdtemp(prefix="lostattn-cache-")
    atexit.register(shutil.rmtree, os.environ["LOSTATTN_CACHE"], ignore_errors=True)

import pytest  # noqa: E402

# The second goes the way of the first, but for its tower and its grouped keys, which tests by name look at.
TINY_MODELS = ("tiny-llava", pytest.param("tiny-qwen2_5-vl", marks=pytest.mark.slow))

_torch_at_start = importlib.metadata.version("torch")


def pytest_sessionfinish(session: pytest.Session) -> None:
    """Fail the session when anything in it replaced torch."""
    importlib.invalidate_caches()
    now = importlib.metadata.version("torch")
    if now != _torch_at_start:
        session.exitstatus = pytest.ExitCode.INTERNAL_ERROR
        print(f"\nThe tests replaced torch {_torch_at_start} by {now}: something installed packages.")


@pytest.fixture(scope="session")
def tiny_llava():
    """The trained LLaVA, self-tested at load."""
    import lostattn

    return lostattn.load("tiny-llava")


@pytest.fixture(scope="session")
def tiny_qwen():
    """The trained Qwen2.5-VL, self-tested at load."""
    import lostattn

    return lostattn.load("tiny-qwen2_5-vl")


@pytest.fixture(scope="session", params=TINY_MODELS)
def tiny_model(request: pytest.FixtureRequest):
    """Each trained model in turn; shares the instances of the two fixtures above."""
    return request.getfixturevalue("tiny_llava" if request.param == "tiny-llava" else "tiny_qwen")


@pytest.fixture(scope="session")
def shapes_questions():
    """Twenty-four unseen questions of the bundled data set, the same in every run."""
    import lostattn

    return lostattn.data.load("shapes", split="test", n=24, seed=0)
