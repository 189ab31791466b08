"""Forward passes of a model, counted, and ended where a test wants it."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

from torch import nn
from torch.nn.modules.module import register_module_forward_pre_hook


class Counted:
    """How many passes a model has made; at ``last`` it is interrupted."""

    def __init__(self, last: int | None) -> None:
        self.n = 0
        self.last = last


@contextmanager
def counted(model: nn.Module, last: int | None = None) -> Iterator[Counted]:
    """Count the calls of a model, each step of a generation among them; after ``last`` of them Ctrl-C is pressed."""
    passes = Counted(last)

    def before(module: nn.Module, _: object) -> None:
        if module is model:
            if passes.n == passes.last:
                raise KeyboardInterrupt
            passes.n += 1

    handle = register_module_forward_pre_hook(before)
    try:
        yield passes
    finally:
        handle.remove()
