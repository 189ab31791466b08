"""The residual stream against plain hooks: what it began with and all updates make the final stream."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from lostattn.conformance.comparison import NEAR, Absent, Comparison, Subject, relative


def stream(subject: Subject, allowed: float = NEAR) -> list[Comparison]:
    """The stream before the first layer plus all updates, against the input of the bare model's final norm."""
    architecture = subject.model.architecture
    if architecture.final_norm is None:
        raise Absent("no final norm was found")
    seen: list[Tensor] = []

    def note(module: Any, args: Any, keywords: Any) -> None:
        seen.append((args[0] if args else next(iter(keywords.values()))).detach().clone())

    hook = subject.bare.get_submodule(architecture.final_norm).register_forward_pre_hook(note, with_kwargs=True)
    try:
        with torch.no_grad():
            subject.bare(**subject.model._inputs(subject.prompt), use_cache=False)
    finally:
        hook.remove()
    if len(seen) != 1:
        raise Absent(f"the final norm runs {len(seen)} times in a pass")
    points = ("hook_resid_pre", "hook_resid_mid", "hook_resid_post", "hook_attn_out", "hook_mlp_out")
    _, cache = subject.model.run_with_cache(subject.prompt, lambda name: name.endswith(points))
    real = subject.prompt.token_map.real
    total = cache.decompose_resid().sum(0)
    return [Comparison("updates add up", relative(total[real], seen[0][real]), allowed)]
