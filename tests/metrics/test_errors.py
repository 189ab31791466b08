"""Bad input is refused where it is given, with what came, what was expected and what to do."""

from __future__ import annotations

import re
import subprocess
import sys

import pytest
import torch

from lostattn import metrics
from lostattn.errors import InputError
from lostattn.metrics import _checks

X = torch.ones(3, 5)
PATTERN = torch.full((2, 3, 3), 1 / 3)


def says(text: str):
    return pytest.raises(InputError, match=re.escape(text))


def test_values_that_are_not_finite_are_located() -> None:
    x = torch.ones(2, 3, 5)
    x[1, 2, 4] = float("nan")
    with says("x[1, 2, 4] is nan, and 1 of its values are not finite"):
        metrics.effective_rank(x)
    with says("after[1, 2, 4] is nan"):
        metrics.rid(torch.ones(2, 3, 5), x)
    x[1, 0, 0] = float("-inf")
    with says("states[2][1, 0, 0] is -inf, and 2 of its values"):
        metrics.update_metrics(torch.ones(2, 3, 5), torch.ones(2, 3, 5), x)
    mask = torch.tensor([[True, True, True], [False, True, False]])
    assert metrics.effective_rank(x, mask).isfinite().all()
    # Infinities that cancel in a sum are infinities still.
    with says("x[0, 0] is inf"):
        metrics.token_mixing_entropy(torch.tensor([[float("inf"), -float("inf")]]))


def test_empty_states() -> None:
    for shape in ((0, 5), (3, 0), (0, 3, 5)):
        with says(f"x has shape {shape}, so it is empty"):
            metrics.effective_rank(torch.ones(shape))


def test_masks() -> None:
    with says("mask is False at every position of batch element (1,), so no row is left"):
        metrics.effective_rank(torch.ones(2, 3, 5), torch.tensor([[True] * 3, [False] * 3]))
    with says("mask is False at every position, so no row is left"):
        metrics.rid(X, X, mask=torch.zeros(3, dtype=torch.bool))
    with says("mask is torch.int64; expected a boolean tensor [*batch, pos], True at real tokens"):
        _checks.check_state(X, mask=torch.ones(3, dtype=torch.int64))
    with says("mask has shape (5,); x needs (3,), that is [*batch, pos]"):
        _checks.check_state(X, mask=torch.ones(5, dtype=torch.bool))


def test_kinds_and_shapes() -> None:
    with says("x has dtype torch.int64; expected a floating-point state"):
        _checks.check_state(torch.ones(3, 5, dtype=torch.int64))
    with says("x has shape (5,); expected [*batch, pos, d_model]"):
        _checks.check_state(torch.ones(5))
    with says("before has shape (3, 5) and after (3, 7)"):
        _checks.check_pair(X, torch.ones(3, 7), None)
    with says("before is on cpu and after on meta"):
        _checks.check_same(X, torch.ones(3, 5, device="meta"), ("before", "after"))


def test_settings() -> None:
    for call in (metrics.rid, metrics.mixig):
        with says("convention='code'; expected 'paper' or 'released'"):
            call(X, X, "code")
    with says("tol is nan; expected a finite number"):
        metrics.row_innovation(X, X, float("nan"))
    for tol in (-0.1, 1.0):
        with says(f"tol={tol!r}; expected a share of the largest singular value in [0, 1)"):
            metrics.row_innovation(X, X, tol)
    with says("rows='first'; expected 'all'"):
        metrics.token_mixing_entropy(X, rows="first")
    with says("power is inf; expected a finite number"):
        metrics.token_mixing_entropy(X, power=float("inf"))
    for power in (0.0, -1.0):
        with says(f"power={power!r}; expected a positive number"):
            metrics.token_mixing_entropy(X, power=power)


def test_streams() -> None:
    with says("states holds 1; expected at least two"):
        metrics.stream_metrics([X])
    with says("states holds 4, that is 3 updates; under convention='released' they come in pairs"):
        metrics.stream_metrics([X] * 4, "released")


def test_patterns() -> None:
    with says("pattern[1, 2, 0] is -1.0; expected weights after the softmax"):
        bad = PATTERN.clone()
        bad[1, 2, 0] = -1
        metrics.attention_entropy(bad)
    with says("pattern has 3 queries and 2 keys"):
        metrics.sink_mass(PATTERN[..., :2])
    with says("pattern has shape (2, 0, 3), so it is empty"):
        metrics.sink_mass(PATTERN[:, :0])
    with says("k=4; expected from 1 to the 3 keys"):
        metrics.sink_mass(PATTERN, 4)
    with says("threshold=1.5; expected a weight between 0 and 1"):
        metrics.sink_positions(PATTERN, 1.5)
    with says("keys is torch.int64 of shape (3,); expected torch.bool of shape (3,), that is [*batch, key]"):
        _checks.check_keys(torch.ones(3, dtype=torch.int64), PATTERN)
    with says("pattern is (3, 3) of torch.float32; expected floating-point [*batch, head, query, key]"):
        _checks.check_pattern(PATTERN[0])
    with says("mask has shape (2,); pattern needs (3,), that is [*batch, key]"):
        _checks.check_pattern(PATTERN, torch.ones(2, dtype=torch.bool))


@pytest.mark.slow
def test_without_the_type_checker_the_functions_refuse_by_themselves() -> None:
    # The suite runs under a type checker that would speak first; users do not.
    script = """
import torch
from lostattn import metrics
from lostattn.errors import InputError
x = torch.ones(3, 5)
for call in (
    lambda: metrics.effective_rank(x.long()),
    lambda: metrics.effective_rank(x[0]),
    lambda: metrics.effective_rank(x.tolist()),
    lambda: metrics.effective_rank(x, [True] * 3),
    lambda: metrics.rid(x, x[:2]),
    lambda: metrics.mixig(x, x[:2]),
    lambda: metrics.effective_rank(x, torch.ones(2, dtype=torch.bool)),
    lambda: metrics.stream_metrics([x, x, x[:2]]),
    lambda: metrics.attention_mass(x[None, :, :3], torch.ones(2, dtype=torch.bool)),
):
    try:
        call()
    except InputError as error:
        print(error)
    else:
        raise SystemExit("not refused")
"""
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    lines = done.stdout.splitlines()
    assert len(lines) == 9
    assert lines[7].startswith("states[0] has shape (3, 5) and states[2] (2, 5)")
