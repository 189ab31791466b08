"""The calls of :class:`LVLM`, written down: each takes what the method takes and gives the :class:`Call` it means."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Iterable, Sequence
from dataclasses import replace
from typing import Any

import torch

from lostattn.errors import InputError
from lostattn.plan.acting import SINGLE
from lostattn.plan.compiling import compile_edits
from lostattn.plan.hooks import FwdHook, hook_edits
from lostattn.plan.intervention import Composition, Intervention
from lostattn.plan.program import Edit, Reduction, last_step, write
from lostattn.points.hooked_model import HookedModel
from lostattn.points.reach import check_reached, reached_points
from lostattn.points.sites import NamesFilter
from lostattn.prompt.batch import Prompt
from lostattn.prompt.padded_logits import padded_ends
from lostattn.prompt.repeated import repeated
from lostattn.run.calls import Call, Reading
from lostattn.run.merged_settings import settled

RESULT = "attn.hook_result"


def cache_call(
    model: HookedModel,
    prompt: Prompt | Any,
    names_filter: NamesFilter = None,
    interventions: Intervention | None = None,
    device: str | torch.device | None = None,
    dtype: torch.dtype | None = None,
) -> Call:
    """:meth:`LVLM.run_with_cache`."""
    prompt = model._prompted(prompt)
    names = kept_names(model, prompt, names_filter)
    reading = Reading("cache", names, *_place(device, dtype), interventions=interventions)
    return pass_call(model, prompt, reading, names, compile_edits(model, interventions, prompt, steps=SINGLE))


def _place(device: str | torch.device | None, dtype: torch.dtype | None) -> tuple[str | None, str | None]:
    """Where and how to keep a cache, as words."""
    return None if device is None else str(device), None if dtype is None else str(dtype).removeprefix("torch.")


def kept_names(model: HookedModel, prompt: Prompt, names_filter: NamesFilter) -> tuple[str, ...]:
    """The points that a ``names_filter`` keeps of a pass on this prompt.

    Of a model without its weights, per-head results are made in the pass and travel; they count as kept where they are
    asked for, not where everything is: each takes as many times the room of z as there are heads.
    """
    names = model.sites.match(names_filter)
    if names_filter is None or callable(names_filter):
        names = reached_points(prompt, names)
    check_reached(prompt, names)
    if model.is_described_only and names_filter is None:
        names = tuple(name for name in names if not name.endswith(RESULT))
    return names


def made_there(model: HookedModel, names: Iterable[str]) -> list[str]:
    """Per-head results that the pass itself must make: those of a model without its weights."""
    return [name for name in names if name.endswith(RESULT)] if model.is_described_only else []


def hooks_call(
    model: HookedModel,
    prompt: Prompt | Any,
    fwd_hooks: Sequence[FwdHook | Any] = (),
    interventions: Intervention | None = None,
) -> Call:
    """:meth:`LVLM.run_with_hooks`."""
    prompt = model._prompted(prompt)
    edits = [*compile_edits(model, interventions, prompt, steps=SINGLE), *hook_edits(model.sites, fwd_hooks, prompt)]
    return pass_call(model, prompt, Reading("logits"), (), edits)


def measure_call(
    model: HookedModel,
    prompt: Prompt | Any,
    reductions: Sequence[Reduction],
    interventions: Intervention | None = None,
    logits: bool | str | None = None,
) -> Call:
    """:meth:`LVLM.measure` of one prompt; with ``logits`` (a bool, or ``"last"``) it gives those beside the numbers."""
    if not all(isinstance(reduction, Reduction) for reduction in reductions):
        raise InputError(f"reductions is {reductions!r}; expected reductions, as lostattn.reductions makes them.")
    prompt = model._prompted(prompt)
    edits = compile_edits(model, interventions, prompt, steps=SINGLE)
    if logits is None:
        return pass_call(model, prompt, Reading("numbers"), (), edits, reductions)
    return replace(pass_call(model, prompt, Reading("measures"), (), edits, reductions), logits=logits)


def generate_call(
    model: HookedModel,
    prompt: Prompt | Any,
    interventions: Intervention | None = None,
    max_new_tokens: int | None = None,
    names_filter: NamesFilter = None,
    device: str | torch.device | None = None,
    dtype: torch.dtype | None = None,
    **keywords: Any,
) -> Call:
    """:meth:`LVLM.generate`.

    Raises:
        InputError: settings that are not exact under interventions; see :mod:`lostattn.run.generation_settings`.
        UnknownName: settings that do not exist.
        InputError: items that are padded on the right.
    """
    prompt = model._prompted(prompt)
    _check_ends(prompt)
    names = () if names_filter is None else kept_names(model, prompt, names_filter)
    crossing = [name for name in names if model.sites.crosses(name)]
    if crossing:
        raise InputError(
            f"names_filter asks for {crossing[0]!r}, a point of cross-attention, whose keys do not grow with the text: "
            "keep other points, or use run_with_cache."
        )
    watched = bool(names) or (interventions is not None and interventions != Composition(()))
    settings = settled(model, prompt, max_new_tokens, keywords, watched)
    edits = compile_edits(model, interventions, prompt, settings.copies, settings.steps)
    run = repeated(prompt, settings.copies)
    program = write(model.sites, model.operations, names, edits, (), True, made_there(model, names), settings.caches)
    if "mm_encoder_outputs" in inspect.signature(model.hf.forward).parameters:
        # transformers then looks at the pictures before the prompt's pass begins, so before anything is embedded.
        program = sorted(
            program, key=lambda event: not event["once"] or (event["kind"] == "tensor" and event["elsewhere"])
        )
    to_transformers = dict(settings.keywords)
    if "hook_unembed" in names:
        to_transformers["logits_to_keep"] = 0  # of all positions, where transformers would make the last one's alone
    where = _place(device, dtype)
    reading = Reading("generation", names, *where, run.n_pos, len(run), settings.ends, interventions, counted(edits))
    until = last_step(program, edits) if program else None
    return Call(model._inputs(run), program, reading, generation=to_transformers, until=until, prompt=run)


def counted(edits: Iterable[Edit]) -> tuple[tuple[str, str], ...]:
    """Of the edits whose changes are counted, in the order of their numbers: the part they are of, and their point."""
    return tuple((edit.label, edit.name) for edit in edits if edit.number is not None)


def _check_ends(prompt: Prompt) -> None:
    """Refuse to go on from a padding token.

    Raises:
        InputError: an item ends before the last column.
    """
    padded = [i for i, end in enumerate(padded_ends(prompt)) if end < prompt.n_pos - 1]
    if padded:
        raise InputError(
            f"item {padded[0]} is padded on the right, and a generation goes on from the last column, which is its "
            "padding: pad inputs on the left (processor.tokenizer.padding_side = 'left'), or generate the items one by "
            "one, without their padding: [model.generate(one) for one in prompt]."
        )


def pass_call(
    model: HookedModel,
    prompt: Prompt,
    reading: Reading,
    names: Sequence[str],
    edits: Sequence[Edit],
    reductions: Sequence[Reduction] = (),
) -> Call:
    """One forward pass: taps, edits and reductions; the logits come along unless numbers alone are wanted."""
    reading = replace(reading, edits=counted(edits))
    program = write(model.sites, model.operations, names, edits, reductions, False, made_there(model, names))
    reading = replace(reading, last=padded_ends(prompt))
    return Call(model._inputs(prompt), program, reading, logits=reading.kind != "numbers", prompt=prompt)


# What may be sent without waiting, by the method's name.
CALLS: dict[str, Callable[..., Call]] = {
    "run_with_cache": cache_call,
    "run_with_hooks": hooks_call,
    "generate": generate_call,
    "measure": measure_call,
}
