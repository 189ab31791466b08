"""Effective rank and spectral change against hand-computed matrices, SVDs and invariances."""

from __future__ import annotations

import math

import bounds
import metric_definitions as definitions
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from lostattn import metrics

# Matrices of at most five rows whose singular values lie within a factor of three.
BY_HAND = bounds.spectra(5, 3**2)


def accuracy(x: torch.Tensor, power: int = 2) -> float:
    """How far a number of its spectrum may be off, as a share of itself, which comes from its Gram matrix."""
    sigma = torch.linalg.svdvals(x.double())
    return bounds.spectra(len(sigma), float(sigma[0] / sigma[-1]) ** power)


def test_effective_rank_of_matrices_worked_by_hand() -> None:
    # Two equal singular values: 2. Values 3 and 1: p = 3/4, 1/4, so exp(H) = 4 / 3**(3/4).
    assert float(metrics.effective_rank(torch.eye(2, 3))) == pytest.approx(2, rel=BY_HAND)
    x = torch.tensor([[0.0, 3.0, 0.0], [1.0, 0.0, 0.0]])
    assert float(metrics.effective_rank(x)) == pytest.approx(4 / 3**0.75, rel=BY_HAND)
    assert metrics.singular_values(x).tolist() == pytest.approx([3, 1], rel=BY_HAND)
    # One direction only, then none.
    line = torch.outer(torch.arange(1.0, 4), torch.ones(5))
    assert float(metrics.effective_rank(line)) == pytest.approx(1, rel=bounds.SPECTRAL)
    assert float(metrics.effective_rank(torch.zeros(2, 3))) == 0


def test_spectral_change_worked_by_hand() -> None:
    before, after = torch.eye(2, 3), torch.tensor([[3.0, 0.0, 0.0], [0.0, 1.0, 0.0]])
    expected = (2 - 4 / 3**0.75) / 2
    assert float(metrics.spectral_change(before, after)) == pytest.approx(expected, rel=BY_HAND)
    assert float(metrics.spectral_change(after, before)) == pytest.approx(expected, rel=BY_HAND)


@pytest.mark.parametrize("shape", [(7, 13), (13, 7), (1, 5), (5, 1), (11, 11), (131, 149)])
def test_against_the_definition(shape: tuple[int, int]) -> None:
    x = definitions.random(*shape, seed=3)
    assert float(metrics.effective_rank(x)) == pytest.approx(definitions.effective_rank(x), rel=accuracy(x))
    parts = metrics.decompose(x)
    assert parts.norm.item() == pytest.approx(float(x.double().norm()), rel=bounds.sums(x.numel(), torch.float64))
    assert parts.rank.item() == min(shape)
    bounds.close(parts.singular_values, torch.linalg.svdvals(x.double()), accuracy(x, 1))


def test_batches_are_the_single_matrices() -> None:
    x = definitions.random(2, 3, 5, 7)
    together = metrics.effective_rank(x)
    assert together.shape == (2, 3)
    for i in range(2):
        for j in range(3):
            assert together[i, j].item() == pytest.approx(definitions.effective_rank(x[i, j]), rel=accuracy(x[i, j]))


@settings(max_examples=25, deadline=None)
@given(
    n=st.sampled_from([2, 3, 5]),
    d=st.sampled_from([2, 7, 11]),
    scale=st.floats(1e-6, 1e6),
    seed=st.integers(0, 10**6),
)
def test_scale_and_rotation_leave_it_alone(n: int, d: int, scale: float, seed: int) -> None:
    x = definitions.random(n, d, seed=seed).double()
    rotation = torch.linalg.qr(definitions.random(d, d, seed=seed + 1).double())[0]
    value = float(metrics.effective_rank(x))
    assert 1 - bounds.SPECTRAL <= value <= min(n, d) * (1 + bounds.SPECTRAL)
    assert float(metrics.effective_rank(x * scale)) == pytest.approx(value, rel=bounds.SPECTRAL)
    assert float(metrics.effective_rank(x @ rotation)) == pytest.approx(value, rel=bounds.SPECTRAL)


@pytest.mark.parametrize("left", [True, False])
@pytest.mark.parametrize("d_model", [3, 7, 23])
def test_padding_equals_cropping(left: bool, d_model: int) -> None:
    x = definitions.random(2, 11, d_model, seed=5)
    mask = torch.ones(2, 11, dtype=torch.bool)
    pad = slice(0, 6) if left else slice(5, 11)
    mask[1, pad] = False
    x[1, pad] = float("nan")
    parts = metrics.decompose(x, mask)
    for i in range(2):
        alone = metrics.decompose(x[i][mask[i]])
        assert metrics.effective_rank(x, mask)[i].item() == pytest.approx(
            float(metrics.effective_rank(x[i][mask[i]])), rel=accuracy(x[i][mask[i]])
        )
        assert parts.rank[i] == alone.rank
        k = alone.singular_values.numel()
        bounds.close(parts.singular_values[i, :k], alone.singular_values, accuracy(x[i][mask[i]], 1))
        assert parts.singular_values[i, k:].abs().sum() == 0
    # S in ΔS counts real rows.
    after = x.flip(-1) * torch.linspace(1, 2, d_model)
    alone = definitions.rid(x[1][mask[1]], after[1][mask[1]])
    assert metrics.spectral_change(x, after, mask)[1].item() == pytest.approx(alone["delta_s"], rel=bounds.SPECTRAL)


def test_bfloat16_is_its_float64_value() -> None:
    x = definitions.random(5, 7).bfloat16()
    value = metrics.effective_rank(x)
    assert value.dtype == torch.float64
    assert float(value) == pytest.approx(definitions.effective_rank(x.double()), rel=accuracy(x))


def test_rank_tolerance() -> None:
    x = definitions.with_spectrum(5, 7, torch.tensor([1.0, 0.1, 1e-3, 1e-5, 1e-9]), seed=1)
    assert metrics.decompose(x, tol=0.01).rank == 2
    assert metrics.decompose(x, tol=1e-4).rank == 3
    # 1e-9 is out of a Gram matrix' sight, so this rank is an SVD's.
    assert metrics.decompose(x, tol=1e-7).rank == 4
    assert metrics.decompose(x, tol=1e-10).rank == 5
    assert bool(metrics.decompose(x, tol=1e-10).by_svd)
    # The default follows the dtype: 7 * eps is 8e-7 of float32, 2e-15 of float64, and float32 for bfloat16.
    assert metrics.decompose(x).rank == 5
    assert metrics.decompose(torch.diag(torch.tensor([1.0, 1e-6, 1e-8]))).rank == 2
    assert metrics.decompose(torch.diag(torch.tensor([1.0, 1e-6, 1e-8])).bfloat16()).rank == 2
    assert metrics.decompose(torch.diag(torch.tensor([1.0, 1e-6, 1e-8])).double()).rank == 3


@pytest.mark.parametrize("smallest", [1e-2, 1e-4, 1e-6, 1e-8, 1e-10, 1e-13])
@pytest.mark.parametrize("shape", [(29, 47), (47, 29)])
def test_accuracy_does_not_depend_on_the_conditioning(smallest: float, shape: tuple[int, int]) -> None:
    sigma = torch.logspace(0, math.log10(smallest), 29, dtype=torch.float64)
    x = definitions.with_spectrum(*shape, sigma, seed=2)
    assert float(metrics.effective_rank(x)) == pytest.approx(definitions.effective_rank(x), rel=bounds.SPECTRAL)
    # One large value over a low plateau: the shape of a state with an attention sink.
    sigma = torch.full((29,), smallest, dtype=torch.float64)
    sigma[0] = 1
    x = definitions.with_spectrum(*shape, sigma, seed=2)
    excess = definitions.effective_rank(x) - 1
    assert float(metrics.effective_rank(x)) - 1 == pytest.approx(excess, rel=bounds.SPECTRAL, abs=bounds.spectra(29))


def test_repeated_tokens_are_seen_as_zero_directions() -> None:
    # Many equal rows give many zero singular values, which a Gram matrix blurs to 1e-8 each.
    x = definitions.random(3, 31)[torch.arange(17) % 3]
    parts = metrics.decompose(x)
    assert parts.rank == 3 and bool(parts.by_svd)
    assert float(metrics.effective_rank(x)) == pytest.approx(definitions.effective_rank(x), rel=bounds.SPECTRAL)


def test_an_ill_conditioned_matrix_does_not_disturb_its_batch() -> None:
    good = definitions.random(5, 11).double()
    bad = definitions.with_spectrum(5, 11, torch.tensor([1.0, 1e-3, 1e-6, 1e-9, 1e-12]), seed=4)
    parts = metrics.decompose(torch.stack([good, bad]), tol=1e-5)
    assert parts.by_svd.tolist() == [False, True]
    assert parts.rank.tolist() == [5, 2]
    value = metrics.effective_rank(torch.stack([good, bad]))
    assert value.tolist() == pytest.approx(
        [definitions.effective_rank(good), definitions.effective_rank(bad)], rel=bounds.SPECTRAL
    )
