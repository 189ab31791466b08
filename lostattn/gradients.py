"""Gradients of a number with respect to any hook point that can be edited, in the pass that makes the number.

At each point zeros are added that a gradient can be asked of; since they change nothing, theirs is the gradient of the
point itself, whatever view of the model's own tensor the point is.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor

from lostattn.arguments import checked_call
from lostattn.cache.activation_cache import ActivationCache, Key
from lostattn.errors import InputError, UnknownName, nearest
from lostattn.kernels.passes import slopes_of
from lostattn.kernels.workbench import add_probe, add_probe_rows
from lostattn.plan.acting import SINGLE
from lostattn.plan.compiling import compile_edits
from lostattn.plan.intervention import Intervention
from lostattn.plan.program import Edit
from lostattn.points.hooked_model import HookedModel
from lostattn.points.names import get_act_name, is_square
from lostattn.points.reach import check_reached
from lostattn.points.sites import NamesFilter
from lostattn.prompt.batch import Prompt
from lostattn.prompt.padded_logits import ending_last, with_ends
from lostattn.remote.dispatch import carry_out
from lostattn.remote.session import run_there
from lostattn.run.calls import Call, Raw, Reading, Remote
from lostattn.run.local import open_forward, running
from lostattn.run.make_calls import hooks_call, kept_names, pass_call
from lostattn.run.reading import touched_in


@checked_call
@dataclass(frozen=True, eq=False, repr=False)
class Gradients(Mapping[str, Tensor]):
    """What a pass computed, and how a number of it depends on it.

    ``gradients["z", 3]`` has the shape of ``cache["z", 3]``.

    Attributes:
        cache: the values at the points, and the gradients too (``cache.grad("z", 3)``).
        by_name: the gradients, by canonical name.
        logits: of the pass.
        value: the number, summed over items.
    """

    cache: ActivationCache
    by_name: dict[str, Tensor]
    logits: Float[Tensor, "batch pos d_vocab"]
    value: float

    def __getitem__(self, key: Key) -> Tensor:
        name = key if isinstance(key, str) else get_act_name(*key)
        if name not in self.by_name:
            raise UnknownName(f"no gradient of {name!r} was asked for.{nearest(name, self.by_name)}")
        return self.by_name[name]

    def __iter__(self) -> Iterator[str]:
        return iter(self.by_name)

    def __len__(self) -> int:
        return len(self.by_name)

    def __repr__(self) -> str:
        return f"Gradients of {self.value:.4g} at {len(self)} points: {', '.join(list(self)[:3])}, …"


@checked_call
def gradients(
    model: HookedModel,
    prompt: Prompt | Any,
    metric: Callable[[Tensor], Tensor],
    names: str | Iterable[str],
    interventions: Intervention | None = None,
    remote: Remote = False,
) -> Gradients:
    """Run a prompt and ask how a number depends on what was computed on the way: one forward pass, one backward.

    Args:
        model: the model.
        prompt: a prompt, or what ``model.prompt`` makes one of. Items do not depend on each other, so a metric of
            several gives each its own gradients.
        metric: ``logits [item, pos, d_vocab] -> [item]`` or one number; differentiable. One of :mod:`lostattn.answers`,
            for example.
        names: the points, all of which can be edited; also of the vision tower and the projector.
        interventions: run with them; gradients are of the values after them.
        remote: as in :meth:`lostattn.LVLM.run_with_cache`, as two jobs: the first brings the logits, of which the
            metric is taken here; the second follows its gradient back. So the metric may be any function of yours.

    Raises:
        InputError: a point that cannot be edited, or a metric that depends on nothing.
        UnknownName: a name that nothing answers to.
        JobFailed: the service runs this key's requests in a sandbox, where there are no gradients; the message says so.
    """
    prompt = model._prompted(prompt)
    asked = [names] if isinstance(names, str) else list(names)
    if not asked:
        raise InputError("names is empty; expected a hook point, or several.")
    keys = list(dict.fromkeys(model.sites.editable(name) for name in asked))
    check_reached(prompt, keys)
    return _pass_and_back(model, prompt, metric, keys, keys, interventions, remote)


@checked_call
def run_with_gradients(
    model: HookedModel,
    prompt: Prompt | Any,
    metric: Callable[[Tensor], Tensor],
    names_filter: NamesFilter = None,
    interventions: Intervention | None = None,
    remote: Remote = False,
) -> tuple[Float[Tensor, "batch pos d_vocab"], ActivationCache]:
    """:meth:`lostattn.LVLM.run_with_cache` with ``backward=``: the values that it keeps, and their gradients.

    Raises:
        InputError: points are named of which none has a gradient; otherwise as :func:`gradients`.
    """
    prompt = model._prompted(prompt)
    names = kept_names(model, prompt, names_filter)
    keys, refusals = [], []
    for name in names:
        if names_filter is None and is_square(name):
            continue  # a [query, key] matrix a head and layer, which keeping everything never costs
        try:
            keys.append(model.sites.editable(name))
        except InputError as error:
            refusals.append(error)
    if not keys:
        raise refusals[0] if refusals else InputError("names_filter accepts no point, so nothing has a gradient.")
    found = _pass_and_back(model, prompt, metric, names, keys, interventions, remote)
    return found.logits, found.cache


def _pass_and_back(
    model: HookedModel,
    prompt: Prompt,
    metric: Callable[[Tensor], Tensor],
    names: Sequence[str],
    keys: Sequence[str],
    interventions: Intervention | None,
    remote: Remote,
) -> Gradients:
    """One pass that keeps ``names``, and the gradients of ``keys``."""
    if not callable(metric):
        raise InputError(f"the metric is {metric!r}; expected a function of the logits, such as la.answers.metric(…).")
    probing = [Edit(name, add_probe_rows if is_square(name) else add_probe, {"name": name}) for name in keys]
    edits = [*compile_edits(model, interventions, prompt, steps=SINGLE), *probing]
    call = pass_call(model, prompt, Reading("raw"), names, edits)
    if remote is False:
        with running(model):
            raw, value = _here(model, call, metric)
    else:
        raw, value = _there(model, call, metric, interventions, remote)
    by_name = {name: raw["slopes"][name].detach() for name in keys}
    kept = {name: _detached(found) for name, found in raw["kept"].items()}
    kept |= {f"{name}_grad": grad for name, grad in by_name.items()}
    cache = ActivationCache(kept, tuple(names), model.sites, model.hf, prompt, {"backward": value}, True, interventions)
    cache.touched = touched_in(call.reading, raw)
    return Gradients(cache, by_name, with_ends(raw["logits"].detach(), call.reading.last), value)


def _here(model: HookedModel, call: Call, metric: Callable[[Tensor], Tensor]) -> tuple[Raw, float]:
    """The metric is taken of the pass itself, and followed back through it."""
    shared: dict[str, Any] = {"probes": {}}
    with torch.enable_grad():
        raw: Raw = open_forward(model.nn, call.plain(), shared)
        number = _number(metric, with_ends(raw["logits"], call.reading.last))
        raw["slopes"] = slopes_of(number, shared["probes"], torch.ones(()))
    return raw, float(number.detach())


def _there(
    model: HookedModel,
    call: Call,
    metric: Callable[[Tensor], Tensor],
    interventions: Intervention | None,
    remote: Remote,
) -> tuple[Raw, float]:
    """The metric is taken here, of the logits of a first pass; a second one follows its gradient back."""
    bare = carry_out(model, hooks_call(model, call.prompt, (), interventions), remote)
    logits = bare.as_subclass(Tensor).detach().requires_grad_()
    with torch.enable_grad():
        number = _number(metric, with_ends(logits, call.reading.last))
        (slope,) = torch.autograd.grad(number, logits)
    (raw,) = run_there(model, [replace(call, slope=slope)], remote)
    return raw, float(number.detach())


def _number(metric: Callable[[Tensor], Tensor], logits: Tensor) -> Float[Tensor, ""]:
    """The metric, summed over items."""
    made = metric(ending_last(logits))
    if not isinstance(made, Tensor):
        raise InputError(f"the metric gave {type(made).__name__}; expected a tensor: one number, or one an item.")
    number = made.sum()
    if not number.requires_grad:
        raise InputError("the metric does not depend on the logits by anything that has a gradient.")
    return number


def _detached(value: Any) -> Any:
    if isinstance(value, dict):
        return {name: _detached(part) for name, part in value.items()}
    return value.detach() if isinstance(value, Tensor) else value
