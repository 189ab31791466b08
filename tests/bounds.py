"""How far two right results may lie apart: bounds from the arithmetic, the same rule on every processor.

Kernels add up in an order of their own (lanes, blocks, threads), so the last bits of a sum belong to the processor.
How far they can be from the exact sum does not. With ``u`` the unit roundoff of the dtype (half its ``eps``), a sum of
``n`` terms in any order, fused or not, is off by at most ``n·u·Σ|terms|`` (Higham, *Accuracy and Stability of
Numerical Algorithms*, 3.1); with roundings that do not conspire by ``λ·√n·u·Σ|terms|`` but for a chance of
``2·exp(-λ²/2)`` (Higham and Mary 2019, *A new approach to probabilistic rounding error analysis*). ``Σ|terms|`` against
the size of the sum is its conditioning.

Where that is too far to see a fault (a long sum, a pass through a whole model), the bound is measured: the plain
operation on this same machine against itself in double precision, times a stated factor.
"""

from __future__ import annotations

import torch
from torch import Tensor

LIKELY = 8.0  # λ: roundings go beyond it once in 4e13 sums
MEASURED = 4.0  # how much worse than one plain way of adding up another one may be


def unit(dtype: torch.dtype = torch.float32) -> float:
    """The unit roundoff: the largest relative error of one operation."""
    return torch.finfo(dtype).eps / 2


def sums(n: int, dtype: torch.dtype = torch.float32) -> float:
    """How far two sums of the same ``n`` terms may lie apart, as a share of the sum of the terms' sizes."""
    return 2 * min(n, LIKELY * n**0.5) * unit(dtype)


def beside(plain: Tensor, exact: Tensor) -> float:
    """How far another way to ``exact`` may lie from it, seeing how far the ``plain`` one on this machine is.

    ``exact`` is in double precision. One rounding of the largest value is always granted: the plain way may be lucky.
    """
    off = float((plain.double() - exact).abs().max())
    return MEASURED * max(off, unit(plain.dtype) * float(exact.abs().max()))
