"""From what a caller asks for to the plain edits of one pass: compiled against a model and a prompt, and checked."""

from __future__ import annotations

import itertools
from collections.abc import Iterable
from dataclasses import replace
from typing import Any

from lostattn.architecture.structure import Architecture
from lostattn.errors import InputError
from lostattn.plan.acting import check_acts
from lostattn.plan.intervention import Composition, Intervention
from lostattn.plan.program import Edit
from lostattn.plan.setting import Setting
from lostattn.points.hooked_model import HookedModel
from lostattn.points.names import split_block
from lostattn.points.reach import check_reached
from lostattn.prompt.batch import Prompt
from lostattn.prompt.repeated import repeated


def compile_edits(
    model: HookedModel,
    interventions: Intervention | None,
    prompt: Prompt,
    copies: int = 1,
    steps: int | None = None,
) -> list[Edit]:
    """The edits that interventions mean on this model and prompt, in the order given.

    With ``copies`` they are those of a batch in which each item of the prompt stands so often, one after another; the
    interventions name positions of the prompt as it is. ``steps`` is how many passes a generation makes at the most,
    ``SINGLE`` of a pass that is none; where it is not said, no part is refused for acting at no step that comes.

    Raises:
        InputError: what is given is no intervention; a point that cannot be edited, or that this prompt does not reach;
            queries that see none of their keys; a part that cannot act at the steps or positions that there are.
    """
    if interventions is None:
        return []
    if not isinstance(interventions, Intervention):
        raise InputError(
            f"interventions is {type(interventions).__name__}; expected an intervention such as "
            "la.KnockOut('last', 'image'), or several joined with +."
        )
    run = repeated(prompt, copies)
    edits: list[Edit] = []
    for label, part, setting in _parts(interventions, Setting(model.sites, model.hf, run, given=prompt, copies=copies)):
        own = part.compile(setting)
        if steps is not None:
            check_acts(label, own, steps)
        edits += [replace(edit, label=label) for edit in own]
    numbers = itertools.count()
    edits = [edit if edit.watches else replace(edit, number=next(numbers)) for edit in edits]
    for edit in edits:
        model.sites.editable(edit.name)
    check_reached(run, [edit.name for edit in edits])
    check_seen(run, edits, model.hf, model.architecture)
    return edits


def _parts(interventions: Intervention, setting: Setting) -> list[tuple[str, Intervention, Setting]]:
    """The parts of a sum, each under a name of its own."""
    if not isinstance(interventions, Composition):
        return [(_said(interventions), interventions, setting)]
    said = [_said(part) for part in interventions.parts]
    again = [said[: i + 1].count(one) for i, one in enumerate(said)]
    labels = [one if n == 1 else f"{one} ({n})" for one, n in zip(said, again, strict=True)]
    return [(labels[i], part, setting.numbered(i)) for i, part in enumerate(interventions.parts)]


def _said(part: Intervention) -> str:
    """A part as it is written; one that holds what cannot be written by its class."""
    try:
        return repr(part)
    except InputError:
        return type(part).__name__


def check_seen(prompt: Prompt, edits: Iterable[Edit], model: Any, architecture: Architecture) -> None:
    """Refuse edits of attention from queries that all stand before their keys: in a causal layer nothing would change.

    Layers that look both ways, or may (a prompt that marks its picture for it), are let pass.

    Raises:
        InputError: in no item does any of the queries see any of the keys.
    """
    if "token_type_ids" in prompt.inputs:
        return
    judged = set()
    for edit in edits:
        pair = (id(edit.queries), id(edit.keys))
        if edit.queries is None or edit.keys is None or edit.queries[1] or edit.keys[1] is None or pair in judged:
            continue
        place = split_block(edit.name)
        if place is None or place[0] != "blocks" or not _causal(model, architecture, place[1]):
            continue
        judged.add(pair)
        queries, keys = edit.queries[0], edit.keys[0].to(edit.queries[0].device)
        both = queries.any(-1) & keys.any(-1)
        n = queries.shape[-1]
        last = n - 1 - queries.flip(-1).int().argmax(-1)
        if both.any() and not (both & (last >= keys.int().argmax(-1))).any():
            raise InputError(
                f"the edit of {edit.name!r} is about queries that all stand before their keys, and a query sees only "
                "what comes before it, so nothing would change. Did you mean them the other way round? Choose keys "
                "that stand before some of the queries."
            )


def _causal(model: Any, architecture: Architecture, layer: int) -> bool:
    """Whether a layer says that its attention looks back only."""
    block = model.get_submodule(architecture.stack.blocks[layer].path)
    said = [module.is_causal for module in block.modules() if hasattr(module, "is_causal")]
    return bool(said) and all(said)
