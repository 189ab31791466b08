"""Column and row innovation and RID against hand-computed matrices, SVDs and the algebra."""

from __future__ import annotations

import bounds
import metric_definitions as definitions
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from lostattn import metrics
from lostattn.kernels import metrics as _kernels

# Matrices of at most five rows whose singular values lie within a factor of five.
BY_HAND = bounds.spectra(5, 5**2)


def close(found: dict[str, torch.Tensor], expected: dict[str, float], rel: float = bounds.SPECTRAL) -> None:
    for name, value in expected.items():  # what is exactly zero here is a rounding of the definition's SVD
        assert float(found[name]) == pytest.approx(value, rel=rel, abs=bounds.spectra(149)), name


def all_of(before: torch.Tensor, after: torch.Tensor, tol: float | None = None, mask=None):
    return {
        "delta_s": metrics.spectral_change(before, after, mask),
        "column_innovation": metrics.column_innovation(before, after, tol, mask),
        "row_innovation": metrics.row_innovation(before, after, tol, mask),
        "delta_d": metrics.subspace_innovation(before, after, tol, mask),
        "rid": metrics.rid(before, after, tol=tol, mask=mask),
    }


def test_worked_by_hand() -> None:
    # X spans the first two axes of a three-dimensional stream; the update adds 4 along the third to each row
    # of length 3: outside is 4/5 of every row. σ stays 3 in one direction, sqrt(9 + 2·16) in the other.
    before = torch.tensor([[3.0, 0.0, 0.0], [0.0, 3.0, 0.0]])
    after = before + torch.tensor([0.0, 0.0, 4.0])
    sigma = torch.tensor([41**0.5, 3.0], dtype=torch.float64)
    p = sigma / sigma.sum()
    delta_s = (2 - float((-(p * p.log()).sum()).exp())) / 2
    close(
        all_of(before, after),
        {
            "column_innovation": 0,
            "row_innovation": 0.8,
            "delta_d": 0.4,
            "delta_s": delta_s,
            "rid": delta_s + 0.4,
        },
        rel=BY_HAND,
    )
    # Transposed: three tokens in two dimensions; the new relation between tokens is the column term.
    close(all_of(before.T, after.T), {"column_innovation": 0.8, "row_innovation": 0, "delta_d": 0.4}, rel=BY_HAND)
    # Rank one: both terms. X = e1 e1ᵀ, X' = X + e2 e2ᵀ; half of ‖X'‖² = 2 is outside on either side.
    one, two = torch.zeros(2, 3), torch.zeros(2, 3)
    one[0, 0] = two[0, 0] = two[1, 1] = 1
    close(
        all_of(one, two),
        {"column_innovation": 0.5**0.5, "row_innovation": 0.5**0.5, "delta_s": 0.5, "rid": 0.5 + 0.5**0.5},
        rel=BY_HAND,
    )


@pytest.mark.parametrize("shape", [(7, 13), (13, 7), (1, 5), (5, 1), (131, 149)])
@pytest.mark.parametrize("size", [1e-3, 0.3, 30.0])
def test_against_the_definition(shape: tuple[int, int], size: float) -> None:
    before = definitions.random(*shape, seed=1)
    after = before + size * definitions.random(*shape, seed=2)
    close(all_of(before, after), definitions.rid(before, after))


@pytest.mark.parametrize("shape", [(11, 17), (17, 11)])
@pytest.mark.parametrize("size", [1e-6, 0.3])
def test_below_full_rank_against_the_definition(shape: tuple[int, int], size: float) -> None:
    sigma = torch.tensor([5.0, 3.0, 2.0, 1.0, 0.5, 1e-9, 1e-9], dtype=torch.float64)
    before = definitions.with_spectrum(*shape, sigma, seed=3)
    after = before + size * definitions.random(*shape, seed=4).double()
    close(all_of(before, after, tol=1e-4), definitions.rid(before, after, tol=1e-4))


def test_the_part_under_the_tolerance_counts_as_outside() -> None:
    # The state itself, unchanged: what its own small directions hold is outside, at a tolerance of 0.1.
    before = torch.diag(torch.tensor([4.0, 3.0, 0.3]))
    expected = 0.3 / (16 + 9 + 0.09) ** 0.5
    close(
        all_of(before, before, tol=0.1),
        {"column_innovation": expected, "row_innovation": expected, "delta_s": 0},
    )
    close(all_of(before, before, tol=0.01), {"column_innovation": 0, "row_innovation": 0})
    # An update inside a direction that counts only at the finer tolerance.
    after = torch.diag(torch.tensor([4.0, 3.0, 4.0]))
    assert float(metrics.row_innovation(before, after, tol=0.1)) == pytest.approx(4 / 41**0.5, rel=BY_HAND)
    assert float(metrics.row_innovation(before, after, tol=0.01)) == 0


def test_the_default_tolerance_is_the_released_one() -> None:
    # max(S, H) * eps(float32) = 5 * 2**-23 = 6e-7: a singular value of 5e-7 is out, one of 7e-7 is in.
    after = torch.eye(3, 5)
    for small, row in ((5e-7, 1 / 3**0.5), (7e-7, 0.0)):
        before = torch.diag(torch.tensor([1.0, 1.0, small])) @ torch.eye(3, 5)
        assert float(metrics.column_innovation(before, after)) == pytest.approx(row, rel=0, abs=bounds.SPECTRAL)
        assert float(metrics.row_innovation(before, after)) == pytest.approx(row, rel=0, abs=bounds.SPECTRAL)


@settings(max_examples=25, deadline=None)
@given(n=st.sampled_from([2, 3, 5]), d=st.sampled_from([2, 7, 11]), seed=st.integers(0, 10**6))
def test_what_the_algebra_says(n: int, d: int, seed: int) -> None:
    before = definitions.random(n, d, seed=seed).double()
    delta = definitions.random(n, d, seed=seed + 1).double()
    # Nothing new in the same state.
    assert float(metrics.rid(before, before)) == 0
    # An update inside the row space leaves no row innovation.
    mixing = definitions.random(n, n, seed=seed + 2).double()
    assert float(metrics.row_innovation(before, before + mixing @ before)) == pytest.approx(0, abs=bounds.SPECTRAL)
    # The residual of X' is that of Δ.
    after = before + delta
    outside = metrics.row_innovation(before, after) * after.norm()
    p_r = torch.linalg.pinv(before) @ before
    size = float((delta - delta @ p_r).norm())
    assert float(outside) == pytest.approx(size, rel=0, abs=bounds.SPECTRAL * float(after.norm()))
    # With no more tokens than dimensions and full rank, the column term is zero, exactly; likewise the row
    # term.
    if n <= d:
        assert float(metrics.column_innovation(before, after)) == 0
    if d <= n:
        assert float(metrics.row_innovation(before, after)) == 0
    assert 0 <= float(metrics.rid(before, after)) <= 2


@pytest.mark.parametrize("rank", [2, 5])
@pytest.mark.parametrize("d_model", [3, 7, 23])
@pytest.mark.parametrize("left", [True, False])
def test_padding_equals_cropping(left: bool, d_model: int, rank: int) -> None:
    before = definitions.random(2, 11, 11, seed=5)[..., :rank] @ definitions.random(2, rank, d_model, seed=6)
    after = before + definitions.random(2, 11, d_model, seed=7)
    mask = torch.ones(2, 11, dtype=torch.bool)
    pad = slice(0, 6) if left else slice(5, 11)
    mask[1, pad] = False
    before[1, pad], after[1, pad] = float("inf"), 1e30
    found = all_of(before, after, tol=1e-4, mask=mask)
    for i in range(2):
        expected = definitions.rid(before[i][mask[i]], after[i][mask[i]], tol=1e-4)
        close({name: value[i] for name, value in found.items()}, expected)


def test_full_rank_padding_takes_the_fast_path_exactly() -> None:
    before, after = definitions.random(2, 7, 13), definitions.random(2, 7, 13, seed=1)
    mask = torch.ones(2, 7, dtype=torch.bool)
    mask[0, :3] = False
    # Padded rows are zero rows of a Gram matrix; they must not cost the Cholesky factor.
    assert _kernels.support(_kernels.decompose(before, mask, None))["factor"] is not None
    found = all_of(before, after, mask=mask)
    assert found["column_innovation"].tolist() == [0, 0]
    close({k: v[0] for k, v in found.items()}, definitions.rid(before[0, 3:], after[0, 3:]))


@pytest.mark.parametrize("smallest", [1e-3, 1e-5, 1e-7, 1e-9, 1e-12])
@pytest.mark.parametrize("shape", [(19, 31), (31, 19)])
@pytest.mark.parametrize("size", [1.0, 1e-3])
def test_ill_conditioned_states(smallest: float, shape: tuple[int, int], size: float) -> None:
    sigma = torch.logspace(0, float(torch.tensor(smallest).log10()), 19, dtype=torch.float64)
    before = definitions.with_spectrum(*shape, sigma, seed=8)
    after = before + size * definitions.random(*shape, seed=9).double() / 31
    for tol in (2e-4, smallest / 10):
        close(all_of(before, after, tol=tol), definitions.rid(before, after, tol=tol))


def test_a_sink_token_and_a_small_update() -> None:
    # One row a thousand times the others, and an update mostly inside the row space.
    before = definitions.random(23, 37, seed=10).double()
    before[0] *= 1000
    inside = definitions.random(23, 23, seed=11).double() @ before
    after = before + 1e-3 * inside / inside.norm(dim=-1, keepdim=True) + 1e-6 * definitions.random(23, 37, seed=12)
    for tol in (None, 2e-4, 0.01):
        expected = definitions.rid(before, after, tol=37 * 2.0**-52 if tol is None else tol)
        assert float(metrics.row_innovation(before, after, tol)) == pytest.approx(
            expected["row_innovation"], rel=bounds.SPECTRAL
        )
        assert float(metrics.column_innovation(before, after, tol)) == pytest.approx(
            expected["column_innovation"], rel=bounds.SPECTRAL, abs=bounds.spectra(37)
        )


def test_zero_states() -> None:
    x = definitions.random(3, 5)
    # Nothing before: everything is new. Nothing after: nothing is outside.
    assert float(metrics.subspace_innovation(torch.zeros(3, 5), x)) == pytest.approx(1, rel=BY_HAND)
    assert float(metrics.subspace_innovation(x, torch.zeros(3, 5))) == 0


def test_bfloat16_and_the_convention() -> None:
    before, after = definitions.random(5, 7).bfloat16(), definitions.random(5, 7, seed=1).bfloat16()
    expected = definitions.rid(before.double(), after.double())
    close(all_of(before, after), expected)
    # Two states do not tell what the conventions differ in; the layer decides that (test_updates.py).
    assert metrics.rid(before, after, "released") == metrics.rid(before, after, "paper")


def test_gradients_are_left_alone() -> None:
    before = definitions.random(5, 7).requires_grad_()
    assert not metrics.rid(before, before * 2 + 1).requires_grad
