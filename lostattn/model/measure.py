"""Passes over a data set: questions come in batch by batch, numbers go out, and nothing else stays."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from lostattn import answers
from lostattn.answers.choices import choices_of
from lostattn.errors import InputError, nearest
from lostattn.model.answer_scores import score_choices
from lostattn.plan.intervention import Intervention
from lostattn.plan.program import Reduction
from lostattn.plan.touch_record import Touched, said_nowhere
from lostattn.points.hooked_model import HookedModel
from lostattn.prompt.batch import Prompt
from lostattn.prompt.padded_logits import ending_last
from lostattn.reductions import InPass, let_go, updates
from lostattn.remote.dispatch import log, raw_of
from lostattn.run.batches import EMPTY, in_batches, passes_bar
from lostattn.run.calls import Remote
from lostattn.run.make_calls import measure_call
from lostattn.run.reading import read, touched_in

if TYPE_CHECKING:
    import pandas

OfLogits = Callable[..., Tensor]
Metrics = str | Sequence[str] | Mapping[str, Any]
NAMED: dict[str, Callable[[], InPass]] = {"updates": updates}


def measure_data(
    model: HookedModel,
    data: Iterable[Any],
    metrics: Metrics,
    interventions: Intervention | None = None,
    batch_size: int = 32,
    progress: bool = False,
    remote: Remote = False,
) -> pandas.DataFrame:
    """The table of :meth:`lostattn.LVLM.measure` over a data set."""
    import pandas as pd

    asked = _sorted_out(metrics)
    columns: dict[str, list[Any]] = {}
    acted: dict[str, int] = {}
    length = 0
    with passes_bar(model, data, batch_size, "measuring", progress) as bar:
        for batch in in_batches(data, batch_size):
            prompt = batch if isinstance(batch, Prompt) else model.prompt(batch)
            found, touched = _of_batch(model, batch, prompt, asked, interventions, remote)
            for part, cells in ({} if touched is None else touched.cells).items():
                acted[part] = acted.get(part, 0) + cells
            _extend(columns, found, len(prompt), length)
            length += len(prompt)
            bar.update()
    if not length:
        raise InputError(EMPTY)
    table = pd.DataFrame(columns)
    table.attrs.update(model=model.name, n=length, batch_size=batch_size)
    if interventions is not None:
        nowhere = [part for part, cells in acted.items() if not cells]
        table.attrs |= {"interventions": interventions.to_json(), "touched": acted, "acted_nowhere": nowhere}
        if nowhere:
            log.warning("%s", said_nowhere(nowhere))
    return table


_Asked = tuple[dict[str, str], dict[str, OfLogits], dict[str, InPass]]


def _of_batch(
    model: HookedModel, batch: Any, prompt: Prompt, asked: _Asked, interventions: Intervention | None, remote: Remote
) -> tuple[dict[str, Any], Touched | None]:
    """The columns of one batch, and where the interventions acted."""
    kinds, functions, inside = asked
    judges, whole_answers = _judges(model, batch, kinds)
    found: dict[str, Any] = _about(batch, prompt)
    if whole_answers:
        scores = score_choices(model, prompt, whole_answers, interventions, remote)
        found |= {name: scores.value(kind) for name, kind in kinds.items()}
        if not functions and not inside:
            return found, scores.touched
    reductions = {name: _renamed(one.make(model, prompt), name) for name, one in inside.items()}
    flat = [reduction for own in reductions.values() for reduction in own]
    if interventions is None:  # an edit may read again what a reduction has read
        flat = let_go(flat)
    logits: bool | str = True if functions else "last" if judges else False
    call = measure_call(model, prompt, flat, interventions, logits)
    raw = raw_of(model, call, remote)
    kept, whole = read(call.reading, model, raw, prompt)
    seen: Any = None if whole is None else ending_last(whole)
    found |= {name: judge(seen) for name, judge in judges.items()}
    found |= {name: _called(function, seen, batch, name) for name, function in functions.items()}
    for name, own in reductions.items():
        found |= inside[name].read(name, {r.name.removeprefix(f"{name}/"): kept[r.name] for r in own})
    return found, touched_in(call.reading, raw)


def _sorted_out(metrics: Metrics) -> _Asked:
    """Kinds of answer metrics, functions of logits, and what is reduced inside the pass; each by its column."""
    named: Mapping[str, Any]
    if isinstance(metrics, str):
        named = {metrics: metrics}
    elif isinstance(metrics, Mapping):
        named = metrics
    elif isinstance(metrics, Sequence) and all(isinstance(name, str) for name in metrics):
        named = {name: name for name in metrics}
    else:
        raise InputError(
            f"metrics is {metrics!r}; expected names, {{column: name, function of logits or la.reductions.…}}, or a "
            "list of reductions for a single prompt."
        )
    if not named:
        raise InputError("metrics is empty; name at least one, such as 'logit_difference'.")
    known = (*answers.KINDS, *NAMED)
    kinds: dict[str, str] = {}
    functions: dict[str, OfLogits] = {}
    inside: dict[str, InPass] = {}
    for column, one in named.items():
        if isinstance(one, str) and one in NAMED:
            inside[column] = NAMED[one]()
        elif isinstance(one, str):
            if one not in answers.KINDS:
                raise InputError(f"no metric is called {one!r}; there are {', '.join(known)}.{nearest(one, known)}")
            kinds[column] = one
        elif isinstance(one, InPass):
            inside[column] = one
        elif callable(one):
            functions[column] = one
        else:
            raise InputError(f"the metric {column!r} is {one!r}; expected a name, a function, or la.reductions.….")
    if sum(one.frees for one in inside.values()) > 1:
        raise InputError("metrics holds 'updates' more than once; measure them one after the other.")
    return kinds, functions, dict(sorted(inside.items(), key=lambda pair: pair[1].frees))


def _renamed(reductions: list[Reduction], column: str) -> list[Reduction]:
    """Names of their own, so that two columns may reduce the same points."""
    return [replace(reduction, name=f"{column}/{reduction.name}") for reduction in reductions]


def _judges(
    model: HookedModel, batch: Any, kinds: Mapping[str, str]
) -> tuple[dict[str, answers.AnswerMetric], list[answers.Choices]]:
    """The answer metrics of one batch; where an answer has several tokens, the choices to score instead."""
    if not kinds:
        return {}, []
    bare = isinstance(batch, Prompt) or any(not getattr(one, "answer", "") for one in batch)
    if bare:
        raise InputError(
            f"{', '.join(map(repr, kinds.values()))} judge right answers, and the data hold none; give questions with "
            "an .answer, or a function of the logits."
        )
    against = [kind for kind in kinds.values() if kind in answers.COMPARING]
    whole = choices_of(model, batch, None if against else [[one.answer] for one in batch])
    if any(len(ids) > 1 for own in whole for ids in own.tokens):
        if "logit" in kinds.values():
            raise InputError("'logit' is of one token, and an answer has several; measure 'log_probability'.")
        return {}, whole
    base = answers.metric(model, batch, against[0] if against else "probability")
    judges = {
        column: answers.AnswerMetric(kind, base.right, base.wrong if kind in answers.COMPARING else None)
        for column, kind in kinds.items()
    }
    return judges, []


def _called(function: OfLogits, logits: Tensor, batch: Any, name: str) -> Tensor:
    """A function of the logits, or of the logits and the questions."""
    takes_both = _n_arguments(function) == 2
    found = function(logits, batch) if takes_both else function(logits)
    if not isinstance(found, Tensor) or found.dim() != 1 or len(found) != len(logits):
        got = tuple(found.shape) if isinstance(found, Tensor) else type(found).__name__
        raise InputError(f"the metric {name!r} gave {got} for {len(logits)} items; expected [{len(logits)}].")
    return found


def _n_arguments(function: OfLogits) -> int:
    """How many arguments a function must be given."""
    try:
        parameters = inspect.signature(function).parameters.values()
    except ValueError:  # of a builtin
        return 1
    positional = (inspect.Parameter.POSITIONAL_ONLY, inspect.Parameter.POSITIONAL_OR_KEYWORD)
    return sum(p.kind in positional and p.default is p.empty for p in parameters)


def _about(batch: Any, prompt: Prompt) -> dict[str, Any]:
    """The columns that say which item a row is about."""
    found: dict[str, Any] = {"id": list(prompt.ids)}
    if not isinstance(batch, Prompt) and all(hasattr(one, "kind") and hasattr(one, "group") for one in batch):
        found |= {"kind": [one.kind for one in batch], "scene": [one.group for one in batch]}
    return found


def _extend(columns: dict[str, list[Any]], found: Mapping[str, Any], n: int, length: int) -> None:
    """Put a batch's numbers under those before; a column that a batch lacks has no value there."""
    for name, values in found.items():
        own = columns.setdefault(name, [None] * length)
        own += values.detach().to("cpu", torch.float64).tolist() if isinstance(values, Tensor) else values
    for own in columns.values():
        own += [None] * (length + n - len(own))
