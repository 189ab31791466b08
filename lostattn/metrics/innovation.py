"""Subspace innovation and RID: how much of a state lies outside what was there before an update.

``X`` is the state before an update and ``X' = X + Δ`` the state after it; ``P_C`` and ``P_R`` project on the
column space of X (how tokens relate) and on its row space (directions of the model). Two facts worth knowing:

- ``X (I − P_R) = 0``, so what lies outside is the update's alone: ``X' (I − P_R) = Δ (I − P_R)``.
- A prompt of S tokens, S <= d_model, mostly has full row rank. Then ``P_C`` is the identity and the column
  term is exactly zero; RID comes from the row term and the spectrum.

Which singular values count as zero decides what 'full' means, so ``tol`` is a part of the definition. Below
full rank, the part of X under the tolerance counts as outside, in the first fact as well.
"""

from __future__ import annotations

from jaxtyping import Bool, Float
from torch import Tensor

from lostattn.arguments import checked_call
from lostattn.kernels import metrics as _kernels
from lostattn.metrics._checks import check_convention, check_pair, check_tol


def _discrepancy(before: Tensor, after: Tensor, tol: float | int | None, mask: Tensor | None) -> dict[str, Tensor]:
    check_pair(before, after, mask)
    check_tol(tol)
    first = _kernels.decompose(before, mask, tol)
    return _kernels.discrepancy(first, _kernels.support(first), _kernels.decompose(after, mask, tol))


@checked_call
def column_innovation(
    before: Float[Tensor, "*batch pos d_model"],
    after: Float[Tensor, "*batch pos d_model"],
    tol: float | int | None = None,
    mask: Bool[Tensor, "*batch pos"] | None = None,
) -> Float[Tensor, "*batch"]:
    """``‖(I − P_C(X)) X'‖_F / ‖X'‖_F`` in [0, 1], float64: relations between tokens that were not there.

    Exactly 0 where X has full row rank. Arguments, errors: as ``rid``.
    """
    return _discrepancy(before, after, tol, mask)["column_innovation"]


@checked_call
def row_innovation(
    before: Float[Tensor, "*batch pos d_model"],
    after: Float[Tensor, "*batch pos d_model"],
    tol: float | int | None = None,
    mask: Bool[Tensor, "*batch pos"] | None = None,
) -> Float[Tensor, "*batch"]:
    """``‖X' (I − P_R(X))‖_F / ‖X'‖_F`` in [0, 1], float64: directions of the model that were not in use.

    Exactly 0 where X has full column rank. Arguments, errors: as ``rid``.
    """
    return _discrepancy(before, after, tol, mask)["row_innovation"]


@checked_call
def subspace_innovation(
    before: Float[Tensor, "*batch pos d_model"],
    after: Float[Tensor, "*batch pos d_model"],
    tol: float | int | None = None,
    mask: Bool[Tensor, "*batch pos"] | None = None,
) -> Float[Tensor, "*batch"]:
    """``ΔD``: the mean of ``column_innovation`` and ``row_innovation``, in [0, 1], float64. Arguments: as
    ``rid``."""
    return _discrepancy(before, after, tol, mask)["delta_d"]


@checked_call
def rid(
    before: Float[Tensor, "*batch pos d_model"],
    after: Float[Tensor, "*batch pos d_model"],
    convention: str = "paper",
    tol: float | int | None = None,
    mask: Bool[Tensor, "*batch pos"] | None = None,
) -> Float[Tensor, "*batch"]:
    """``RID = ΔS + ΔD``, in [0, 2], float64: representation information discrepancy (arXiv 2605.05668).

    Args:
        before: X, the state that the update is judged against.
        after: X', the state with the update.
        convention: 'paper' or 'released'. The formula is the same; they differ in the X of an FFN. The paper
            takes the state that the FFN adds to, ``rid(resid_mid, resid_post)``; the released code takes the
            layer's input for both updates, ``rid(resid_pre, resid_post)``. Two states cannot tell which they
            are, so here the choice is the caller's; ``update_metrics`` and ``stream_metrics`` make it from
            the convention.
        tol: rank counts ``σ > tol · σ_max``; None is ``max(S, H) · eps`` (see ``decompose``).
        mask: True at real tokens; padded rows take no part.

    Raises:
        InputError: a state is empty, of a wrong kind or not finite in a real row, shapes differ, or mask, tol
            or convention cannot be.
    """
    check_convention(convention)
    return _discrepancy(before, after, tol, mask)["rid"]
