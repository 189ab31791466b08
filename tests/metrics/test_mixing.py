"""Token-mixing entropy and MixIG, both conventions, against loops written from the definition."""

from __future__ import annotations

import math

import bounds
import metric_definitions as definitions
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from lostattn import metrics

# Cosines of at most 23 numbers, to the eighth power, and sums with logarithms over at most 11 rows. Terms cancel where
# an entropy is small, so it is off by a share of one, and so is a difference of two.
NEAR = {"rel": 0, "abs": 8 * bounds.sums(23 + 11, torch.float64)}


def test_worked_by_hand() -> None:
    # Cosines 1, 0, -1 give weights 1, 1/2, 0. Two orthogonal rows: p = 2/3, 1/3 for either.
    entropy = math.log(3) - 2 / 3 * math.log(2)
    x = torch.tensor([[2.0, 0.0, 0.0], [0.0, 5.0, 0.0]])
    assert float(metrics.token_mixing_entropy(x)) == pytest.approx(entropy, **NEAR)
    # Opposite rows do not see each other; equal rows see each other fully.
    x = torch.tensor([[2.0, 0.0], [-3.0, 0.0]])
    assert float(metrics.token_mixing_entropy(x)) == pytest.approx(0, **NEAR)
    assert float(metrics.token_mixing_entropy(torch.ones(7, 3))) == pytest.approx(math.log(7), **NEAR)
    assert float(metrics.token_mixing_entropy(torch.ones(7, 3), "released")) == pytest.approx(1, **NEAR)
    # Released, last row of two orthogonal ones: weights 1 and 2**-8.
    p = 1 / (1 + 2**-8)
    expected = -(p * math.log(p) + (1 - p) * math.log(1 - p)) / math.log(2)
    x = torch.tensor([[2.0, 0.0], [0.0, 5.0]])
    assert float(metrics.token_mixing_entropy(x, "released")) == pytest.approx(expected, **NEAR)
    assert float(metrics.mixig(x, torch.ones(2, 2), "released")) == pytest.approx(1 - expected, **NEAR)


@pytest.mark.parametrize("shape", [(5, 7), (7, 5), (2, 3), (11, 2)])
def test_both_conventions_against_the_definition(shape: tuple[int, int]) -> None:
    before, after = definitions.random(*shape, seed=1) + 0.5, definitions.random(*shape, seed=2)
    for convention, define in (
        ("paper", definitions.entropy_paper),
        ("released", definitions.entropy_released),
    ):
        found = metrics.token_mixing_entropy(before, convention)
        assert float(found) == pytest.approx(define(before), **NEAR)
        gain = metrics.mixig(before, after, convention)
        assert float(gain) == pytest.approx(define(after) - define(before), **NEAR)


def test_each_setting_by_itself() -> None:
    x = definitions.random(5, 7) + 0.5
    mean = [sum(definitions.row_entropy(x, t, power) for t in range(5)) / 5 for power in (1, 3)]
    last = definitions.row_entropy(x, 4, 1)
    assert float(metrics.token_mixing_entropy(x, power=3)) == pytest.approx(mean[1], **NEAR)
    assert float(metrics.token_mixing_entropy(x, rows="last")) == pytest.approx(last, **NEAR)
    assert float(metrics.token_mixing_entropy(x, normalise=True)) == pytest.approx(mean[0] / math.log(5), **NEAR)
    undone = metrics.token_mixing_entropy(x, "released", power=1, normalise=False, rows="all")
    assert float(undone) == pytest.approx(mean[0], **NEAR)


@pytest.mark.parametrize("left", [True, False])
@pytest.mark.parametrize("convention", ["paper", "released"])
@pytest.mark.parametrize("d_model", [3, 23])
def test_padding_equals_cropping(left: bool, convention: str, d_model: int) -> None:
    x = definitions.random(2, 3, 11, d_model, seed=5)
    mask = torch.ones(2, 3, 11, dtype=torch.bool)
    mask[1, 2, slice(0, 6) if left else slice(5, 11)] = False
    x[~mask] = float("nan")
    found = metrics.token_mixing_entropy(x, convention, mask)
    assert found.shape == (2, 3)
    for i in range(2):
        for j in range(3):
            alone = metrics.token_mixing_entropy(x[i, j][mask[i, j]], convention)
            assert found[i, j].item() == pytest.approx(float(alone), **NEAR)


@settings(max_examples=25, deadline=None)
@given(n=st.sampled_from([2, 3, 5]), d=st.sampled_from([2, 7]), seed=st.integers(0, 10**6))
def test_bounds_and_invariances(n: int, d: int, seed: int) -> None:
    x = definitions.random(n, d, seed=seed).double()
    lengths = definitions.random(n, 1, seed=seed + 1).double().abs() + 0.1
    order = torch.randperm(n, generator=torch.Generator().manual_seed(seed))
    rotation = torch.linalg.qr(definitions.random(d, d, seed=seed + 2).double())[0]
    value = float(metrics.token_mixing_entropy(x))
    assert 0 <= value <= math.log(n) + NEAR["abs"]
    assert 0 <= float(metrics.token_mixing_entropy(x, "released")) <= 1 + NEAR["abs"]
    for same in (x * lengths, x[order], x @ rotation):
        assert float(metrics.token_mixing_entropy(same)) == pytest.approx(value, **NEAR)
    assert float(metrics.mixig(x, x)) == 0


def test_one_token_a_zero_row_and_bfloat16() -> None:
    assert float(metrics.token_mixing_entropy(torch.ones(1, 3))) == 0
    assert float(metrics.token_mixing_entropy(torch.ones(1, 3), "released")) == 0
    # A zero row has cosine 0 with all, itself too: an even spread.
    assert float(metrics.token_mixing_entropy(torch.zeros(3, 2))) == pytest.approx(math.log(3), **NEAR)
    x = definitions.random(5, 7).bfloat16()
    assert float(metrics.token_mixing_entropy(x)) == pytest.approx(definitions.entropy_paper(x), **NEAR)
