"""The metrics written out from their definitions: one unbatched, unpadded state, a float64 SVD, and loops."""

from __future__ import annotations

import math

import torch
from torch import Tensor

EPS32 = 2.0**-23


def effective_rank(x: Tensor) -> float:
    sigma = torch.linalg.svdvals(x.double()).tolist()
    p = [s / sum(sigma) for s in sigma]
    return math.exp(-sum(q * math.log(q) for q in p if q > 0))


def innovations(before: Tensor, after: Tensor, tol: float) -> tuple[float, float]:
    x, y = before.double(), after.double()
    u, sigma, vh = torch.linalg.svd(x, full_matrices=False)
    r = int((sigma > tol * sigma[0]).sum())
    p_c = u[:, :r] @ u[:, :r].T
    p_r = vh[:r].T @ vh[:r]
    column = torch.linalg.norm(y - p_c @ y) / torch.linalg.norm(y)
    row = torch.linalg.norm(y - y @ p_r) / torch.linalg.norm(y)
    return float(column), float(row)


def rid(before: Tensor, after: Tensor, tol: float | None = None) -> dict[str, float]:
    column, row = innovations(before, after, max(before.shape) * EPS32 if tol is None else tol)
    delta_s = abs(effective_rank(after) - effective_rank(before)) / min(before.shape)
    delta_d = (column + row) / 2
    return {
        "delta_s": delta_s,
        "column_innovation": column,
        "row_innovation": row,
        "delta_d": delta_d,
        "rid": delta_s + delta_d,
    }


def row_entropy(x: Tensor, t: int, power: float) -> float:
    rows = x.double().tolist()
    length = [math.sqrt(sum(v * v for v in row)) for row in rows]
    weights = []
    for j in range(len(rows)):
        dot = sum(a * b for a, b in zip(rows[t], rows[j], strict=True))
        weights.append(max(0.0, (dot / (length[t] * length[j]) + 1) / 2) ** power)
    p = [w / sum(weights) for w in weights]
    return -sum(q * math.log(q) for q in p if q > 0)


def entropy_paper(x: Tensor) -> float:
    return sum(row_entropy(x, t, 1) for t in range(len(x))) / len(x)


def entropy_released(x: Tensor) -> float:
    return row_entropy(x, len(x) - 1, 8) / math.log(len(x))


def with_spectrum(n: int, d: int, sigma: Tensor, seed: int) -> Tensor:
    """A float64 matrix with given singular values and random singular vectors."""
    generator = torch.Generator().manual_seed(seed)
    k = len(sigma)
    u = torch.linalg.qr(torch.randn(n, k, dtype=torch.float64, generator=generator))[0]
    v = torch.linalg.qr(torch.randn(d, k, dtype=torch.float64, generator=generator))[0]
    return (u * sigma.double()) @ v.T


def random(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))
