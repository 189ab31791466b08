"""Intervals and paired comparisons: how sure a number over a set of questions is.

Two things make the textbook formulas too sure of themselves here. Several questions may be asked about one
scene, and a random intervention is drawn several times for one question: such rows rise and fall together.
Everything that takes ``clusters`` counts them as the groups they are: rows with equal labels are one draw.
"""

from __future__ import annotations

import math
from collections.abc import Iterable
from statistics import NormalDist
from typing import Any, NamedTuple

import numpy as np

from lostattn.errors import InputError

Values = Iterable[Any]
"""A list, array or column of one dimension, one boolean or number per row."""

_BLOCK = 2**22  # numbers drawn at once by a bootstrap: 32 MiB


class Estimate(NamedTuple):
    """A number and its interval."""

    value: float
    low: float
    high: float


def wilson_interval(k: float | int, n: float | int, level: float | int = 0.95) -> tuple[float, float]:
    """The score interval of a proportion: ``k`` right answers of ``n`` independent ones.

        (p + z²/2n ± z sqrt(p(1 − p)/n + z²/4n²)) / (1 + z²/n),   p = k / n

    It stays inside [0, 1] and keeps its width where p is 0 or 1. From Wilson (1927), "Probable inference, the
    law of succession, and statistical inference". For rows that share scenes see `proportion_interval`.

    Args:
        k: how many were right, from 0 to ``n``; may be fractional, as may ``n``.
        n: how many there were, above 0.
        level: the coverage, between 0 and 1.

    Raises:
        InputError: ``n`` is not above 0, ``k`` is outside [0, n], or ``level`` is outside (0, 1).
    """
    _check_level(level)
    if not (math.isfinite(n) and n > 0):
        raise InputError(f"A proportion of n={n} answers has no interval. Pass n above 0.")
    if not 0 <= k <= n:
        raise InputError(f"k={k} of n={n} is not a proportion. Pass k between 0 and n.")
    z = NormalDist().inv_cdf((1 + level) / 2)
    p = k / n
    middle = p + z * z / (2 * n)
    half = z * math.sqrt(p * (1 - p) / n + z * z / (4 * n * n))
    scale = 1 + z * z / n
    # Rounding may leave 1e-17 where the exact bound is 0.
    low = 0.0 if k == 0 else max(0.0, (middle - half) / scale)
    high = 1.0 if k == n else min(1.0, (middle + half) / scale)
    return low, high


def proportion_interval(x: Values, clusters: Values | None = None, level: float | int = 0.95) -> Estimate:
    """A proportion with the score interval at its effective number of rows.

    Rows of one cluster are worth fewer independent ones. The effective number is p(1 − p) / v, where v is the
    variance of p between clusters (a ratio of sums, Cochran, "Sampling Techniques", 1977, §11), held between
    the number of clusters and the number of rows; where p is 0 or 1, it is the number of clusters. Without
    clusters this is `wilson_interval` exactly.

    Args:
        x: booleans, or numbers in [0, 1], one per row.
        clusters: a label per row, equal where rows hang together.
        level: the coverage, between 0 and 1.

    Raises:
        InputError: empty, NaN, outside [0, 1], or of unequal lengths.
    """
    _check_level(level)
    rows = _numbers("x", x)
    if rows.min() < 0 or rows.max() > 1:
        raise InputError(f"A proportion is made of values in [0, 1]; x goes from {rows.min()} to {rows.max()}.")
    sums, sizes = _by_cluster(rows, clusters)
    n_rows, n_groups = len(rows), len(sums)
    p = float(rows.mean())
    effective = float(n_rows)
    if n_groups < n_rows:
        effective = float(n_groups)
        if n_groups > 1 and 0 < p < 1:
            residuals = sums - p * sizes
            variance = n_groups / (n_groups - 1) * float(residuals @ residuals) / n_rows**2
            most = p * (1 - p) / variance if variance > 0 else math.inf
            effective = min(max(most, n_groups), n_rows)
    low, high = wilson_interval(p * effective, effective, level)
    return Estimate(p, low, high)


def mean_interval(
    x: Values, clusters: Values | None = None, n_boot: int = 2000, level: float | int = 0.95, seed: int = 0
) -> Estimate:
    """A mean with the percentile interval of a bootstrap over clusters.

    Whole clusters are drawn again with replacement, as many as there are. From Efron & Tibshirani, "An
    Introduction to the Bootstrap" (1993). The interval is somewhat narrow for fewer than some 30 clusters.
    One cluster tells nothing of the spread between clusters: its interval is NaN.

    Args:
        x: booleans or numbers, one per row.
        clusters: a label per row, equal where rows hang together; each row by itself where None.
        n_boot: how many times to draw.
        level: the coverage, between 0 and 1.
        seed: of the draws.

    Raises:
        InputError: empty, NaN, of unequal lengths, or ``n_boot`` below 1.
    """
    _check_level(level)
    rows = _numbers("x", x)
    sums, sizes = _by_cluster(rows, clusters)
    value = float(rows.mean())
    if len(sums) == 1:
        return Estimate(value, math.nan, math.nan)
    means = _bootstrap_means(sums, sizes, n_boot, seed)
    low, high = np.quantile(means, [(1 - level) / 2, (1 + level) / 2])
    return Estimate(value, float(low), float(high))


def paired_difference(
    a: Values,
    b: Values,
    clusters: Values | None = None,
    n_boot: int = 2000,
    level: float | int = 0.95,
    seed: int = 0,
) -> Estimate:
    """The mean of ``a − b`` over the same questions, with its bootstrap interval.

    What both conditions share (an easy question, a hard one) cancels before anything is averaged, so the
    interval is narrower than two separate ones suggest.

    Args:
        a: one value per question under the condition looked at.
        b: one value per question, in the same order, under the one it is compared with.
        clusters: a label per question, equal where questions share a scene.
        n_boot: how many times to draw.
        level: the coverage, between 0 and 1.
        seed: of the draws.

    Raises:
        InputError: empty, NaN, of unequal lengths, or ``n_boot`` below 1.
    """
    first, second = _pair(a, b)
    return mean_interval(first - second, clusters, n_boot=n_boot, level=level, seed=seed)


def mcnemar(a: Values, b: Values) -> float:
    """The exact two-sided p of "right answers are lost and gained equally often".

    Of the questions that one condition answers right and the other wrong, either side is as likely under
    the null hypothesis: a binomial with ½, doubled and held to 1. From McNemar (1947), "Note on the
    sampling error of the difference between correlated proportions or percentages". It takes questions to be
    independent; for those that share scenes, or several seeds, see `sign_flip`.

    Args:
        a: a boolean per question.
        b: a boolean per question, in the same order.

    Raises:
        InputError: empty, NaN, of unequal lengths, or not booleans (nor 0 and 1).
    """
    first, second = _pair(a, b)
    for name, values in (("a", first), ("b", second)):
        if not np.isin(values, (0.0, 1.0)).all():
            odd = values[~np.isin(values, (0.0, 1.0))][0]
            raise InputError(f"mcnemar compares right and wrong; {name} holds {odd}. Pass booleans.")
    lost, gained = int((first < second).sum()), int((first > second).sum())
    n = lost + gained
    ways = tail = 1
    for i in range(min(lost, gained)):
        ways = ways * (n - i) // (i + 1)
        tail += ways
    # Whole numbers until here, since 2**n leaves the range of a float near 1000 questions.
    return min(1.0, 2 * tail / 2**n)


def sign_flip(a: Values, b: Values, clusters: Values | None = None, n_draws: int = 9999, seed: int = 0) -> float:
    """The two-sided p of "a and b could be exchanged", drawn by flipping the sign of whole clusters.

    Counts the draws whose total difference is at least as far from 0 as the one seen, plus one for the seen
    one itself. With booleans and no clusters it draws what `mcnemar` works out.

    Args:
        a: one value per row under the condition looked at.
        b: one value per row, in the same order, under the one it is compared with.
        clusters: a label per row, equal where rows hang together.
        n_draws: how many times to flip; 1 / (n_draws + 1) is the smallest p.
        seed: of the flips.

    Raises:
        InputError: empty, NaN, of unequal lengths, or ``n_draws`` below 1.
    """
    first, second = _pair(a, b)
    _check_draws("n_draws", n_draws)
    sums, _ = _by_cluster(first - second, clusters)
    sums = sums[sums != 0]
    if not len(sums):
        return 1.0
    seen = abs(float(sums.sum()))
    # A sum in another order differs in its last bits, and ties must count as reached.
    slack = 1e-9 * float(np.abs(sums).sum())
    rng = np.random.default_rng(seed)
    reached = 0
    for count in _blocks(n_draws, len(sums)):
        signs = rng.integers(0, 2, size=(count, len(sums)), dtype=np.int8) * 2.0 - 1.0
        reached += int((np.abs(signs @ sums) >= seen - slack).sum())
    return (reached + 1) / (n_draws + 1)


def _bootstrap_means(sums: np.ndarray, sizes: np.ndarray, n_boot: int, seed: int) -> np.ndarray:
    """``n_boot`` means of clusters drawn with replacement; each is a ratio of sums, as sizes may differ."""
    _check_draws("n_boot", n_boot)
    rng = np.random.default_rng(seed)
    n = len(sums)
    means = []
    for count in _blocks(n_boot, n):
        drawn = rng.integers(0, n, size=(count, n))
        means.append(sums[drawn].sum(axis=1) / sizes[drawn].sum(axis=1))
    return np.concatenate(means)


def _blocks(draws: int, width: int) -> list[int]:
    """``draws`` cut into parts that fit in memory."""
    block = max(1, _BLOCK // width)
    return [min(block, draws - start) for start in range(0, draws, block)]


def _by_cluster(rows: np.ndarray, clusters: Values | None) -> tuple[np.ndarray, np.ndarray]:
    """The sum and the number of the rows of each cluster."""
    if clusters is None:
        return rows, np.ones(len(rows))
    labels = np.asarray(clusters)
    if labels.shape != rows.shape:
        raise InputError(
            f"clusters has the shape {labels.shape}, the values {rows.shape}. Pass one label for each row."
        )
    if any(label is None or label != label for label in labels.tolist()):
        raise InputError("clusters holds NaN or None. Give every row a label; a row by itself needs its own.")
    # As text, since labels of several types (a number here, a name there) cannot be sorted.
    _, group = np.unique(labels.astype(str), return_inverse=True)
    return np.bincount(group, weights=rows), np.bincount(group).astype(float)


def _pair(a: Values, b: Values) -> tuple[np.ndarray, np.ndarray]:
    first, second = _numbers("a", a), _numbers("b", b)
    if len(first) != len(second):
        raise InputError(
            f"a has {len(first)} values and b has {len(second)}: they cannot be paired. "
            "Pass the same questions in the same order."
        )
    return first, second


def _numbers(name: str, values: Values) -> np.ndarray:
    """``values`` as float64 [row], or an error that says what is wrong with them."""
    try:
        rows = np.asarray(values, dtype=float)
    except (TypeError, ValueError) as error:
        raise InputError(f"{name} holds something that is not a number ({error}). Pass booleans or numbers.") from error
    if rows.ndim != 1:
        raise InputError(f"{name} has the shape {rows.shape}. Pass one dimension, one value for each question.")
    if not len(rows):
        raise InputError(f"{name} is empty: nothing can be said of no questions. Pass at least one value.")
    if not np.isfinite(rows).all():
        bad = int((~np.isfinite(rows)).sum())
        raise InputError(f"{name} holds NaN or infinity in {bad} of {len(rows)} places. Leave those questions out.")
    return rows


def _check_level(level: float | int) -> None:
    if not 0 < level < 1:
        raise InputError(f"level={level} is not a coverage. Pass a number between 0 and 1, such as 0.95.")


def _check_draws(name: str, draws: int) -> None:
    if draws < 1:
        raise InputError(f"{name}={draws} draws nothing. Pass a whole number of at least 1.")
