"""The residual stream against plain hooks: what it began with and all updates make the final stream."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from lostattn.conformance.comparison import NEAR, Absent, Comparison, Subject, relative
from lostattn.points.stream_updates import stream_updates


def stream(subject: Subject, allowed: float = NEAR) -> list[Comparison]:
    """The stream before the first layer plus all updates, against what the bare model's final norm is given.

    A decoder that ends without a norm, or that joins the lanes of its stream before the norm, is held to what its last
    layer gives.
    """
    sites = subject.model.sites
    norm, last = sites.architecture.final_norm, sites.architecture.stack.blocks[-1].path
    given: list[Tensor] = []
    made: list[Tensor] = []

    def before(module: Any, args: Any, keywords: Any) -> None:
        given.append((args[0] if args else next(iter(keywords.values()))).detach().clone())

    def after(module: Any, args: Any, out: Any) -> None:
        made.append((out if isinstance(out, Tensor) else out[0]).detach().clone())

    hooks = [subject.bare.get_submodule(last).register_forward_hook(after)]
    if norm is not None:
        hooks.append(subject.bare.get_submodule(norm).register_forward_pre_hook(before, with_kwargs=True))
    try:
        with torch.no_grad():
            subject.bare(**subject.model._inputs(subject.prompt), use_cache=False)
    finally:
        for hook in hooks:
            hook.remove()
    seen = given if [x.shape for x in given] == [x.shape for x in made] else made
    if len(seen) != 1:
        raise Absent(f"the decoder's end runs {len(seen)} times in a pass")
    updates = stream_updates(sites)
    needs = {name for update in updates for name in update.needs}
    _, cache = subject.model.run_with_cache(subject.prompt, ["blocks.0.hook_resid_pre", *needs])
    total = cache.decompose_resid().sum(0)
    real = subject.prompt.token_map.real
    if total.shape[:2] == seen[0].shape[:2] == real.shape:
        total, seen[0] = total[real], seen[0][real]
    return [Comparison("updates add up", relative(total, seen[0]), allowed)]
