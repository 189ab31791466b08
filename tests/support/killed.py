"""A process that is killed at its n-th step on the disk, played in this one: it cleans nothing up."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from lostattn.files import publishing, recovery
from lostattn.files.staging import Stage

STEPS = ("replace", "rename", "link", "fsync", "mkdir", "chmod", "unlink")


class Killed(BaseException):
    """What SIGKILL would be, if it were an exception."""


def killed_at(step: int, work: Callable[[], object], exchanges: bool = True) -> bool:
    """Do work and end it before its ``step``-th operation on the disk; whether it got that far.

    ``exchanges`` says whether this disk can let two folders change names.
    """
    count = 0
    dead = False

    def before(operation: Callable[..., Any]) -> Callable[..., Any]:
        def counted(*arguments: Any, **keywords: Any) -> Any:
            nonlocal count, dead
            count += 1
            if dead or count == step:
                dead = True
                raise Killed
            return operation(*arguments, **keywords)

        return counted

    remove = Stage.remove
    with pytest.MonkeyPatch.context() as patch:
        for name in STEPS:
            patch.setattr(os, name, before(getattr(os, name)))
        exchange = publishing.exchange if exchanges else lambda one, other: False
        patch.setattr(publishing, "exchange", before(exchange))
        # The dead delete nothing; the lock goes when the handle is closed, as it goes with a process.
        patch.setattr(Stage, "remove", lambda stage: None if dead else remove(stage))
        try:
            work()
        except Killed:
            return True
        assert not dead, "the work went on after it was killed"
    return False


def stages(folder: Path) -> list[str]:
    """What writers left in a folder."""
    return [path.name for path in folder.iterdir() if path.name.endswith(".part")]


def settle(folder: Path) -> None:
    """Come by as the next writer does."""
    recovery.sweep(folder)
