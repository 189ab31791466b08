"""The page on interventions says what runs: its examples, in order, on both models; every intervention is on it."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

import lostattn as la
from lostattn.plan.intervention import Serializable

PAGE = (Path(__file__).parents[2] / "docs" / "interventions.md").read_text(encoding="utf-8")
ELSEWHERE = ("EarlyProjection", "Patch", "Steer")  # of the workbench, whose own page shows them
EXAMPLES = re.findall(r"```python\n(.*?)```", PAGE, re.DOTALL)


def test_the_examples_run(pair, monkeypatch):
    monkeypatch.setattr(la, "load", lambda name: pair.model, raising=False)
    assert len(EXAMPLES) > 15
    names: dict = {}
    for example in EXAMPLES:
        exec(compile(example, "docs/interventions.md", "exec"), names)
    assert names["model"] is pair.model


@pytest.mark.parametrize(
    "name",
    sorted(
        name
        for name, kind in Serializable._known.items()
        if kind.__module__.startswith(("lostattn.interventions.", "lostattn.plan."))
        and name not in ("Intervention", "Source", *ELSEWHERE)
    ),
)
def test_every_intervention_and_source_is_in_an_example(name):
    assert any(f"la.{name}(" in example or f"la.{name}." in example for example in EXAMPLES) or name == "Composition"
