"""Spectral complexity: how many directions a state really uses, and how an update changes that."""

from __future__ import annotations

from typing import NamedTuple

from jaxtyping import Bool, Float, Int
from torch import Tensor

from lostattn.arguments import checked_call
from lostattn.kernels import metrics as _kernels
from lostattn.metrics._checks import check_pair, check_state, check_tol


class Decomposition(NamedTuple):
    """What one state is made of; float64, computed once, for use wherever a single number is not enough."""

    singular_values: Float[Tensor, "*batch min_pos_d_model"]
    """``[*batch, min(pos, d_model)]``, descending; zero beyond the real rows of a padded state."""
    rank: Int[Tensor, "*batch"]
    """``[*batch]``: how many singular values are above ``tol · σ_max``."""
    norm: Float[Tensor, "*batch"]
    """``[*batch]``: the Frobenius norm."""
    gram: Float[Tensor, "*batch side side"]
    """``[*batch, side, side]``: ``x xᵀ`` where pos <= d_model, else ``xᵀ x``; padded rows are zero."""
    n_rows: Int[Tensor, "*batch"]
    """``[*batch]``: the real rows S."""
    by_svd: Bool[Tensor, "*batch"]
    """``[*batch]``: True where the Gram matrix was too coarse and a float64 SVD gave the singular values."""


@checked_call
def decompose(
    x: Float[Tensor, "*batch pos d_model"],
    mask: Bool[Tensor, "*batch pos"] | None = None,
    tol: float | int | None = None,
) -> Decomposition:
    """The singular values of a state and what else the metrics share, from one float64 Gram matrix.

    Args:
        x: the state, any floating dtype.
        mask: True at real tokens; padded rows take no part.
        tol: numerical rank counts ``σ > tol · σ_max``. None is ``max(S, H) · eps``, as in the paper's
            released code, with the eps of float64 for float64 states and of float32 for all others (which are
            decomposed in float32 there).

    Singular values come from eigenvalues, which square the condition number: a σ may be off by about
    ``4e-15 σ_max² / σ``, and those below ``6e-8 σ_max`` are noise. Where that could move the effective rank
    by more than 1e-7 of itself, or change the rank, a float64 SVD takes over (``by_svd``).

    Raises:
        InputError: x is empty, of a wrong kind or not finite in a real row; mask or tol cannot be.
    """
    check_state(x, "x", mask)
    check_tol(tol)
    parts = _kernels.decompose(x, mask, tol)
    return Decomposition(parts["sigma"], parts["rank"], parts["norm"], parts["gram"], parts["n_real"], parts["by_svd"])


@checked_call
def singular_values(
    x: Float[Tensor, "*batch pos d_model"], mask: Bool[Tensor, "*batch pos"] | None = None
) -> Float[Tensor, "*batch min_pos_d_model"]:
    """The singular values of a state, descending, float64; zero beyond the real rows of a padded one.

    Accurate as ``decompose`` says: well enough for sums over the spectrum, not for a single value below
    ``1e-8 σ_max``. Raises InputError as ``decompose`` does.
    """
    return decompose(x, mask).singular_values


@checked_call
def effective_rank(
    x: Float[Tensor, "*batch pos d_model"], mask: Bool[Tensor, "*batch pos"] | None = None
) -> Float[Tensor, "*batch"]:
    """``exp(-Σ p ln p)``, ``p_i = σ_i / Σσ``: the number of directions in use, from 1 to min(S, H); float64.

    Roy & Vetterli, "The effective rank" (EUSIPCO 2007): singular values, not their squares. A zero state
    gives 0.
    Raises InputError as ``decompose`` does.
    """
    return _kernels.effective_rank(decompose(x, mask).singular_values)


@checked_call
def spectral_change(
    before: Float[Tensor, "*batch pos d_model"],
    after: Float[Tensor, "*batch pos d_model"],
    mask: Bool[Tensor, "*batch pos"] | None = None,
) -> Float[Tensor, "*batch"]:
    """``ΔS = |eRank(X') − eRank(X)| / min(S, H)``, in [0, 1]; S counts real rows; float64.

    Raises InputError as ``decompose`` does, or where the two shapes differ.
    """
    check_pair(before, after, mask)
    first, second = _kernels.decompose(before, mask, None), _kernels.decompose(after, mask, None)
    change = _kernels.effective_rank(second["sigma"]) - _kernels.effective_rank(first["sigma"])
    return change.abs() / first["n_real"].clamp_max(before.shape[-1])
