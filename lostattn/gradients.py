"""Gradients of a number with respect to any hook point that can be edited.

At each point zeros are added that a gradient can be asked of; since they change nothing, theirs is the gradient of the
point itself, whatever view of the model's own tensor the point is.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import nnsight
import torch
from jaxtyping import Float
from torch import Tensor

from lostattn.cache import ActivationCache
from lostattn.errors import InputError, UnknownName, nearest
from lostattn.interventions.base import Intervention
from lostattn.kernels.passes import one_pass
from lostattn.kernels.workbench import add_probe, add_probe_rows
from lostattn.names import get_act_name
from lostattn.plan import Edit, write

if TYPE_CHECKING:
    from lostattn.model import LVLM
    from lostattn.prompt import Prompt

_SQUARE = ("attn.hook_pattern", "attn.hook_attn_scores")


@dataclass(frozen=True, eq=False, repr=False)
class Gradients(Mapping[str, Tensor]):
    """What a pass computed, and how a number of it depends on it.

    ``gradients["z", 3]`` has the shape of ``cache["z", 3]``.

    Attributes:
        cache: the values at the points.
        by_name: the gradients, by canonical name.
        logits: of the pass.
        value: the number, summed over items.
    """

    cache: ActivationCache
    by_name: dict[str, Tensor]
    logits: Float[Tensor, "batch pos d_vocab"]
    value: float

    def __getitem__(self, key: str | tuple[Any, ...]) -> Tensor:
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


def gradients(
    model: LVLM,
    prompt: Prompt | Any,
    metric: Callable[[Tensor], Tensor],
    names: str | Iterable[str],
    interventions: Intervention | None = None,
) -> Gradients:
    """Run a prompt and ask how a number depends on what was computed on the way.

    Args:
        model: the model, with its weights here.
        prompt: a prompt, or what ``model.prompt`` makes one of. Items do not depend on each other, so a metric of
            several gives each its own gradients.
        metric: ``logits [item, pos, d_vocab] -> [item]`` or one number; differentiable.
        names: the points, all of which can be edited; also of the vision tower and the projector.
        interventions: run with them; gradients are of the values after them.

    Raises:
        InputError: a point that cannot be edited, or a metric that depends on nothing.
        UnknownName: a name that nothing answers to.
    """
    prompt = model._prompted(prompt)
    asked = [names] if isinstance(names, str) else list(names)
    keys = list(dict.fromkeys(model.sites.editable(name) for name in asked))
    own = model._compiled(interventions, prompt)
    # A first pass says which shapes the points have.
    _, cache = model.run_with_cache(prompt, keys, interventions)
    probes = {name: torch.zeros_like(cache[name], requires_grad=True) for name in keys}
    edits = [Edit(name, *_kernel(name, probe)) for name, probe in probes.items()]
    program = write(model.sites, model.operations, (), [*own, *edits])
    with torch.enable_grad():
        with model.nn.trace(**model._inputs(prompt), use_cache=False) as tracer:
            found = nnsight.save(one_pass(model.nn, tracer, program, True, {}))
        logits = found["logits"]
        number = metric(logits).sum()
        if not number.requires_grad:
            raise InputError("the metric does not depend on the logits by anything that has a gradient.")
        made = torch.autograd.grad(number, list(probes.values()), allow_unused=True, materialize_grads=True)
    by_name = dict(zip(keys, (grad.detach() for grad in made), strict=True))
    return Gradients(cache, by_name, logits.detach(), float(number.detach()))


def _kernel(name: str, probe: Tensor) -> tuple[Callable[..., Any], dict[str, Any]]:
    return (add_probe_rows if name.endswith(_SQUARE) else add_probe), {"probe": probe}
