"""Models described without their weights: what still needs them says so."""

from __future__ import annotations

from typing import Any

from torch import nn

from lostattn.errors import InputError


def with_weights(root: nn.Module, path: str) -> Any:
    """A module of a model, whose weights are about to be read.

    Raises:
        InputError: the model is described without them (``la.load(id, remote=True)``).
    """
    module = root.get_submodule(path)
    if any(parameter.is_meta for parameter in module.parameters()):
        raise InputError(
            f"this needs the weights of {path!r}, and the model is described without them: load it with its weights, "
            "la.load(id). Passes, metrics and per-head results are made on the service and need none here."
        )
    return module
