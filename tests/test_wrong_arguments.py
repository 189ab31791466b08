"""Every public callable × kinds of wrong argument: nothing comes out but an error that says what was expected."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest
import wrong_arguments

SCRIPT = Path(__file__).parent / "support" / "wrong_arguments.py"


def table(*arguments: str) -> tuple[int, list[str]]:
    """How many calls were made, and those that ended in a raw error or in silence.

    In a process of its own, without the type checks of these tests: users run without them.
    """
    places = os.pathsep.join([str(SCRIPT.parent), str(SCRIPT.parents[2]), os.environ.get("PYTHONPATH", "")])
    command = [sys.executable, str(SCRIPT), *arguments]
    run = subprocess.run(command, capture_output=True, text=True, env={**os.environ, "PYTHONPATH": places}, check=False)
    if run.returncode:
        pytest.fail(run.stderr[-3000:])
    total = re.search(r"^all +(\d+)", run.stdout, re.MULTILINE)
    assert total is not None
    return int(total[1]), re.findall(r"^(?:raw|silent) .*", run.stdout, re.MULTILINE)


# What takes no arguments, what is written by hand into subclasses, and a tuple that the metrics give.
UNCHECKED = {"data.names", "zoo.names", "Intervention", "interventions.Source", "metrics.Decomposition"}


def test_every_public_callable_holds_its_arguments_to_its_signature():
    found = {name for name, value in wrong_arguments.callables().items() if not _is_checked(value)}
    assert found == UNCHECKED


def _is_checked(value) -> bool:
    function = value.__init__ if isinstance(value, type) else value
    return hasattr(getattr(function, "__func__", function), "__checked__")


def test_a_slice_of_the_wrong_arguments():
    n, wrong = table("--every=23")
    assert n > 900
    assert wrong == []


@pytest.mark.slow
def test_every_wrong_argument():
    n, wrong = table()
    assert n > 20_000
    assert wrong == []
