"""How far two right results may lie apart: bounds from the arithmetic, the same rule on every processor.

Kernels add up in an order of their own (lanes, blocks, threads), so the last bits of a sum belong to the processor.
How far they can be from the exact sum does not. With ``u`` the unit roundoff of the dtype (half its ``eps``), a sum of
``n`` terms in any order, fused or not, is off by at most ``n·u·Σ|terms|`` (Higham, *Accuracy and Stability of
Numerical Algorithms*, 3.1); with roundings that do not conspire by ``λ·√n·u·Σ|terms|`` but for a chance of
``2·exp(-λ²/2)`` (Higham and Mary 2019, *A new approach to probabilistic rounding error analysis*). ``Σ|terms|`` against
the size of the sum is its conditioning.

Where that is too far to see a fault (a long sum, a pass through a whole model), the bound is measured: the plain
operation on this same machine against itself in double precision, times a stated factor.

A bound is a *share*: of the sum of the terms' sizes, or of the largest value of what is compared. ``close`` compares.
Bits are compared (``torch.equal``) only where both sides are the same operations in the same shapes.
"""

from __future__ import annotations

import copy
import weakref
from collections.abc import Callable
from typing import Any

import numpy
import torch
from torch import Tensor, nn

LIKELY = 8.0  # λ: roundings go beyond it once in 4e13 sums
MEASURED = 4.0  # how much worse than one plain way of adding up another one may be
EDITED = 8.0  # the same for two passes, of which an edit may make one more sensitive than the one that was measured

# A number made of singular values that come from a Gram matrix in double precision, as a share of itself: √u is as much
# as such a matrix shows of the largest one; metrics are let through up to ten times that without an SVD, by an estimate
# to first order, which is granted ten times more.
SPECTRAL = 100 * (torch.finfo(torch.float64).eps / 2) ** 0.5


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


_twins: weakref.WeakKeyDictionary[nn.Module, nn.Module] = weakref.WeakKeyDictionary()


def depth(cfg: Any) -> float:
    """``passes`` by arithmetic alone, of a model's sizes: for one that has no twin in double precision.

    A layer has some eight sums (two norms, two maps into attention, scores and mixture, two of an FFN) of at most so
    many terms as its widest part. Where signs are mixed, partial sums grow as a walk does, so that each sum is off by
    ``√(n/2)·u`` of its usual size; the errors of all layers add up as squares, and the largest of many is ``λ`` times
    the usual one.
    """
    terms, layers = max(cfg.d_model, cfg.d_mlp or 0, cfg.d_vision or 0), cfg.n_layers + cfg.n_vision_layers
    return LIKELY * unit() * (terms / 2 * (8 * layers + 2)) ** 0.5


def passes(hf: Any, inputs: dict[str, Tensor]) -> float:
    """How far two single-precision passes of a model may lie apart, as a share of the largest value at any point.

    Measured on this machine: the model's own logits in single precision against those of a twin in double precision,
    which shows what the depth, the widths, and the weights (the conditioning of every softmax and norm on the way) make
    of one rounding. Two passes that do the same arithmetic in another order lie as far apart; ``EDITED`` is for edits,
    and for points where the largest value is nearer to the others than that of the logits is.
    """
    if hf not in _twins:
        # Not eager: it takes the softmax of a row that sees nothing in single precision, where the mask is infinite.
        config = copy.deepcopy(hf.config)
        twin = type(hf)._from_config(config, dtype=torch.float64, attn_implementation="sdpa").eval()
        twin.load_state_dict(hf.state_dict())
        _twins[hf] = twin
    exact = {name: value.double() if value.is_floating_point() else value for name, value in inputs.items()}
    with torch.no_grad():
        plain, truth = (model(**given, use_cache=False).logits for model, given in ((hf, inputs), (_twins[hf], exact)))
    real = inputs["attention_mask"].bool() if "attention_mask" in inputs else ...
    off, size = (plain.double() - truth)[real].abs().max(), truth[real].abs().max()
    return EDITED * max(float(off / size), unit())


def felt(function: Callable[..., Any], share: float, *states: Tensor) -> float:
    """By how much a number may be off that is made of states which are off by ``share``: its conditioning, measured.

    The states are moved at random by as much, three times; the number may be off by ``MEASURED`` times what it moves.
    """
    generator = torch.Generator().manual_seed(0)
    plain, most = _double(function(*states)), 0.0
    for _ in range(3):
        noise = [torch.rand(x.shape, generator=generator, dtype=torch.float64) * 2 - 1 for x in states]
        off = [(x.double() + share * _largest(x.double()) * n).to(x.dtype) for x, n in zip(states, noise, strict=True)]
        most = max(most, float((_double(function(*off)) - plain).abs().max()))
    return MEASURED * most


def spectra(n: int, condition: float = 1.0) -> float:
    """How far a number made of the singular values of ``n`` rows may lie from the exact one, in double precision.

    A solver's values are off by ``p(n)·u`` of the largest, with ``p`` growing modestly (*LAPACK Users' Guide*, 4.9): it
    is taken for ``10·n`` here. ``condition`` is the largest value over the smallest that counts, squared where they
    come from a Gram matrix.
    """
    return 10 * n * unit(torch.float64) * condition


def slope(of: Callable[[float], float], step: float, noise: float) -> tuple[float, float]:
    """The derivative of a function of one number at zero by central differences, and how far off it may be.

    Two steps, the narrow one half of the wide: the error of the narrow difference is a third of what the two differ by
    (Richardson), which is taken out; what is left goes with the fourth power of the step and is allowed as much as the
    two differ by. ``noise`` is how far off a value of the function may be by rounding.
    """
    wide, narrow = ((of(h) - of(-h)) / (2 * h) for h in (step, step / 2))
    return narrow + (narrow - wide) / 3, abs(narrow - wide) + 4 * noise / step


def sized_by(name: str) -> str:
    """The hook point whose largest value says how far a point's values may be off: its own, but for a pattern.

    A weight of a softmax moves by ``p·(δ - Σp·δ)``, so by no more than its scores do, which are larger than it.
    """
    return name.replace("hook_pattern", "hook_attn_scores")


def close(found: Any, expected: Any, share: float, size: Any = None, of: str = "") -> None:
    """Assert that tensors (or numbers) differ by at most ``share`` of the largest value expected, or of ``size``.

    ``size`` is for what is small because larger things cancel in it: a difference of logits is off as logits are. What
    is infinite must be so on both sides; tensors must be of one dtype.
    """
    if isinstance(found, Tensor) and isinstance(expected, Tensor):
        assert found.dtype == expected.dtype, (of, found.dtype, expected.dtype)
    found, expected = _double(found), _double(expected)
    allowed = share * _largest(expected if size is None else _double(size))
    torch.testing.assert_close(found, expected, rtol=0, atol=allowed, msg=lambda text: f"{of}: {text}" if of else text)


def moved(found: Any, other: Any, share: float, times: float = 10.0, size: Any = None) -> bool:
    """Whether something made a difference: ``times`` what ``close`` lets pass, so that it could not miss it."""
    found, other = _double(found), _double(other)
    return float((found - other).abs().max()) > times * share * _largest(other if size is None else _double(size))


def changed(after: Tensor, before: Tensor) -> Tensor:
    """Which rows ``[*, d]`` differ by more than sums of as many terms as a row is wide could: a mask ``[*]``."""
    return (after - before).abs().amax(-1) > sums(before.shape[-1], before.dtype) * _largest(before)


def _double(value: Any) -> Tensor:
    """Of a tensor, an array, a column of a table, a list or a number."""
    if isinstance(value, Tensor):
        return value.detach().double()
    return torch.from_numpy(numpy.array(value, dtype=numpy.float64))


def _largest(value: Tensor) -> float:
    finite = value[value.isfinite()]
    return float(finite.abs().max()) if finite.numel() else 0.0
