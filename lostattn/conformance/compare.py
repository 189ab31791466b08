"""Every comparison of one family with its independent reference."""

from __future__ import annotations

import inspect
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import torch

from lostattn.conformance.batch import two_items
from lostattn.conformance.compare_edits import identity, uniform
from lostattn.conformance.compare_flex import flex
from lostattn.conformance.compare_patterns import patterns
from lostattn.conformance.compare_positions import audio_positions, image_positions
from lostattn.conformance.compare_precision import bfloat16
from lostattn.conformance.compare_steps import steps
from lostattn.conformance.compare_stream import stream
from lostattn.conformance.comparison import Absent, Comparison, Subject
from lostattn.conformance.inputs import prompt_of
from lostattn.model.lvlm import LVLM
from lostattn.prompt.batch import Prompt

Maker = Callable[[Subject], list[Comparison]]
ON_BOTH: dict[str, Maker] = {"image positions": image_positions, "patterns": patterns, "identity": identity}
ON_A_PROMPT: dict[str, Maker] = {**ON_BOTH, "audio positions": audio_positions, "updates": stream, "uniform": uniform}
ON_A_BATCH: dict[str, Maker] = {**ON_BOTH, "uniform": uniform, "steps": steps}


def compare(
    model: LVLM, bare: Any, prompt: Prompt, with_flex: Callable[[], Any] | None = None
) -> dict[str, Comparison]:
    """Compare a wrapped model with a bare one of the same weights, by the name of each comparison.

    Both models are in bfloat16 afterwards.

    Args:
        model: wrapped, and proven by its self-test.
        bare: the same weights, never wrapped.
        prompt: one item.
        with_flex: builds the same with flex attention; None leaves that out.
    """
    subject = Subject(model, bare, prompt)
    made: dict[str, Comparison] = {}
    for name, maker in ON_A_PROMPT.items():
        made |= _made("", name, maker, subject)
    made |= _made("steps: ", "steps", steps, subject)
    absent = made["steps: steps"].absent if "steps: steps" in made else ""
    if absent:
        made["static cache"] = Comparison("static cache", None, 0.0, absent)
    else:
        made |= _made("static cache: ", "steps", lambda one: steps(one, "static"), subject)
    try:
        batch = _batch(subject)
    except Absent as why:
        made["batch"] = Comparison("batch", None, 0.0, str(why))
    else:
        for name, maker in ON_A_BATCH.items():
            if not (absent and name == "steps"):
                made |= _made("batch, steps: " if name == "steps" else "batch: ", name, maker, batch)
    if with_flex is not None:
        made |= _made("flex: ", "flex", lambda one: flex(one, with_flex), subject)
    return made | _made("bfloat16: ", "bfloat16", bfloat16, subject)


def _made(place: str, name: str, maker: Maker, subject: Subject) -> dict[str, Comparison]:
    try:
        found = maker(subject)
    except Absent as why:
        found = [Comparison(name, None, 0.0, str(why))]
    except Exception as error:  # a crash is a failure of ours, and is shown as one
        said = " ".join(str(error).split())
        found = [Comparison(name, None, 0.0, crash=f"{type(error).__name__}: {said[:160]}")]
    names = [name if place == f"{one.name}: " else f"{place}{one.name}" for one in found]
    return {full: replace(one, name=full) for full, one in zip(names, found, strict=True)}


def _batch(subject: Subject) -> Subject:
    """The same subject on two items of unequal lengths."""
    known = set(inspect.signature(subject.bare.forward).parameters)
    decoder = bool(subject.bare.config.is_encoder_decoder)
    said = []
    for stacked in (False, True):
        inputs = two_items(subject.prompt.inputs, known, decoder, stacked)
        try:
            with torch.no_grad():
                subject.bare(**inputs, use_cache=False)
        except Exception as error:  # whatever the model says
            said.append(f"{type(error).__name__}: {' '.join(str(error).split())[:160]}")
        else:
            return replace(subject, prompt=prompt_of(subject.model, inputs))
    raise Absent(f"the bare model refuses two items: {said[0]}")
