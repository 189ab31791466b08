"""Weights that are not where the model is: kept by accelerate on the CPU or the disk, or not there at all."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from typing import Any

import torch
from torch import nn

from lostattn.errors import InputError
from lostattn.weights.stand_in import stand_in


def hooks_of(module: nn.Module) -> list[Any]:
    """The hooks that accelerate runs around one module, those inside another hook too."""
    hook = module.__dict__.get("_hf_hook")
    return [] if hook is None else list(getattr(hook, "hooks", (hook,)))


def keeps_weights(module: nn.Module) -> bool:
    """Whether a hook of accelerate brings a module's weights for each call and takes them away again."""
    return any(getattr(hook, "offload", False) for hook in hooks_of(module))


def is_described_only(root: nn.Module) -> bool:
    """Whether a model is its structure alone: weights on the meta device that no hook would bring."""
    return any(p.is_meta for p in root.parameters()) and not any(keeps_weights(m) for m in root.modules())


def device_of(root: nn.Module) -> torch.device:
    """Where a model takes its inputs: where its first weights are, or are brought to for a call."""
    for module in root.modules():
        for hook in hooks_of(module):
            if getattr(hook, "offload", False) and hook.execution_device is not None:
                return torch.device(hook.execution_device)
        for parameter in module.parameters(recurse=False):
            if not parameter.is_meta:
                return parameter.device
    return torch.device("cpu")


@contextmanager
def naming_a_device(root: nn.Module) -> Iterator[None]:
    """While what reads a model's map of devices, to know where the model is, takes its first entry for torch's.

    accelerate's own map may begin with ``"disk"``, and a model whose weights it was only asked to keep elsewhere
    (``cpu_offload``) has none, so that it would be moved.
    """
    known = vars(root)
    if is_described_only(root) or not ("hf_device_map" in known or any(keeps_weights(m) for m in root.modules())):
        yield
        return
    said = {"hf_device_map": known["hf_device_map"]} if "hf_device_map" in known else {}
    known["hf_device_map"] = {"": str(device_of(root))}
    try:
        yield
    finally:
        del known["hf_device_map"]
        known.update(said)


@contextmanager
def fetched(root: nn.Module, path: str) -> Iterator[nn.Module]:
    """A module of a model while its weights are at hand, on the device on which it runs.

    Raises:
        InputError: the model is described without them (``la.load(id, remote=True)``).
    """
    module, above = root, []
    for name in path.split(".") if path else ():
        above.append(module)
        module = module.get_submodule(name)
    with ExitStack() as stack:
        for holder in (*above, *module.modules()):
            for hook in hooks_of(holder):
                covers = holder not in above or getattr(hook, "place_submodules", False)
                if getattr(hook, "offload", False) and covers:
                    stack.enter_context(_brought(hook, holder))
        if any(parameter.is_meta for parameter in module.parameters()):
            raise InputError(
                f"this needs the weights of {path!r}, and the model is described without them: load it with its "
                "weights, la.load(id). Passes, metrics and per-head results are made on the service and need none here."
            )
        yield module


@contextmanager
def _brought(hook: Any, module: nn.Module) -> Iterator[None]:
    """What a hook brings, for longer than a call: meanwhile calls neither bring it nor take it away."""
    hook.pre_forward(module)
    hook.offload = False
    try:
        yield
    finally:
        hook.offload = True
        hook.post_forward(module, None)


def with_weights(root: nn.Module, path: str, described: bool = False) -> Any:
    """A module of a model, whose weights are about to be read.

    Where accelerate keeps them elsewhere, a copy of the module that has them.

    Args:
        root: the model.
        path: of the module.
        described: of a model that is described without weights, give the module as it is.

    Raises:
        InputError: the model is described without them.
    """
    if described and is_described_only(root):
        return root.get_submodule(path)
    away = any(parameter.is_meta for parameter in root.get_submodule(path).parameters())
    with fetched(root, path) as module:
        return stand_in(module, as_stored=True) if away else module
