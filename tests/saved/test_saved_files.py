"""What earlier versions saved loads today: small files of each format lie in ``first/``, from before there were rooms.

``first/expected.json`` holds what that version read of them: sums, names and JSON.
"""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import bounds
import pytest
import torch

import lostattn as la
from lostattn.experiments.results import Results
from lostattn.means import Means
from lostattn.pools import Pool
from lostattn.remote import Job

FIRST = Path(__file__).parent / "first"
HOST = "http://127.0.0.1:8399"  # the one that the job was sent to; a file does not choose it
EXPECTED = json.loads((FIRST / "expected.json").read_text(encoding="utf-8"))


# Sums of squares over the positions of a short prompt, in double precision.
SUMMED = bounds.sums(100 * 128, torch.float64)


def norm(values: torch.Tensor) -> float:
    return float(values.double().norm())


def test_a_cache_with_its_prompt_and_what_it_ran_under(tiny_llava):
    cache = la.ActivationCache.load(FIRST / "cache.safetensors", tiny_llava)
    assert cache.meta["note"] == "before the rooms"
    assert cache.interventions == la.Intervention.from_json(json.dumps(EXPECTED["interventions"][0]))
    assert list(cache.prompt.texts) == EXPECTED["texts"]
    assert cache.prompt.token_map.part.tolist() == EXPECTED["parts"]
    # Of the same numbers; but a pattern is made anew, of its queries and keys, in single precision.
    assert norm(cache["resid_post", 3]) == pytest.approx(EXPECTED["resid_post_3"], rel=SUMMED)
    pattern = cache["pattern", 2].double()
    # A weight is off as its scores are, which lie as far apart as the logarithms of a row; its square is twice.
    share = 2 * bounds.sums(cache.prompt.n_pos) * float(-pattern[pattern > 0].log().min())
    assert float(pattern.pow(2).sum()) == pytest.approx(EXPECTED["pattern_2"], rel=share)


def test_a_cache_in_a_process_that_has_imported_nothing_else():
    """Interventions are read by their classes, which somebody must have imported by then."""
    code = (
        "import sys\nfrom lostattn.model import load\nfrom lostattn.cache import ActivationCache\n"
        "cache = ActivationCache.load(sys.argv[1], load('tiny-llava', selftest=False))\n"
        "assert cache.interventions is not None\nprint(cache.interventions.to_json())"
    )
    done = subprocess.run(
        [sys.executable, "-c", code, str(FIRST / "cache.safetensors")], capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr[-2000:]
    assert holds(json.loads(done.stdout.splitlines()[-1]), EXPECTED["interventions"][0])


def test_a_job_with_how_its_calls_are_read(tiny_llava):
    job = Job.load(FIRST / "job.json", tiny_llava, host=HOST)
    assert job.id == "11111111-2222-3333-4444-555555555555" and not job.single
    kept, generated = job.readings
    assert (kept.kind, generated.kind, generated.ends) == ("cache", "generation", (2,))
    assert kept.interventions == la.Intervention.from_json(json.dumps(EXPECTED["interventions"][0]))


def test_a_job_in_a_process_that_has_imported_nothing_else():
    code = (
        "import sys\nfrom lostattn.model import load\nfrom lostattn.remote import Job\n"
        "job = Job.load(sys.argv[1], load('tiny-llava', selftest=False), host=sys.argv[2])\n"
        "print(job.readings[0].interventions.to_json())"
    )
    done = subprocess.run(
        [sys.executable, "-c", code, str(FIRST / "job.json"), HOST], capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr[-2000:]
    assert holds(json.loads(done.stdout.splitlines()[-1]), EXPECTED["interventions"][0])


def test_results_and_their_summary():
    results = Results.load(FIRST, "probe")
    found = results.summary()[["condition", "kind", "n", "accuracy"]].to_dict("records")
    assert found == EXPECTED["accuracy"]


def test_means_and_a_pool():
    means = Means.load(FIRST / "means.safetensors")
    for name, expected in EXPECTED["means"].items():
        assert norm(means[name]) == pytest.approx(expected, rel=SUMMED)
    assert len(Pool.load(FIRST / "pool.safetensors")) == EXPECTED["pool"]


@pytest.mark.parametrize("written", EXPECTED["interventions"], ids=lambda written: written["type"])
def test_the_json_of_an_intervention(written):
    assert holds(la.Intervention.from_json(json.dumps(written)).to_dict(), written)


def holds(now: object, then: object) -> bool:
    """Whether JSON holds all that an earlier one held; fields may have come since."""
    if isinstance(then, dict) and isinstance(now, dict):
        return all(key in now and holds(now[key], part) for key, part in then.items())
    if isinstance(then, list) and isinstance(now, list):
        return len(now) == len(then) and all(map(holds, now, then))
    return now == then
