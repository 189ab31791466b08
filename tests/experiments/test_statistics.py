from __future__ import annotations

import math

import bounds
import numpy as np
import pytest
import torch

from lostattn.errors import InputError
from lostattn.experiments.statistics import (
    mcnemar,
    mean_interval,
    paired_difference,
    proportion_interval,
    sign_flip,
    wilson_interval,
)

# The same few operations in double precision, over at most 263 rows.
ROUNDED = {"rel": bounds.sums(263, torch.float64), "abs": bounds.sums(263, torch.float64)}

# Wilson's interval ---------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("k", "n", "low", "high"),
    [
        # The first four are the examples of Newcombe (1998), table I, method 3.
        (81, 263, 0.2553, 0.3662),
        (15, 148, 0.0624, 0.1605),
        (0, 20, 0.0, 0.1611),
        (1, 29, 0.0061, 0.1718),
        (29, 29, 0.8830, 1.0),
    ],
)
def test_wilson_interval_equals_the_published_values(k, n, low, high):
    assert wilson_interval(k, n) == pytest.approx((low, high), rel=0, abs=0.5e-4)  # of four decimals


def test_wilson_interval_at_another_level():
    # z = 1 for 68.27 %: p = 1/2, n = 3: middle 1/2, half sqrt(1/12 + 1/36)/(4/3) = 1/4.
    level = math.erf(1 / math.sqrt(2))
    assert wilson_interval(1.5, 3, level=level) == pytest.approx((0.25, 0.75), **ROUNDED)


def test_wilson_interval_covers_what_it_says():
    rng = np.random.default_rng(3)
    n, p = 41, 0.9
    covered = 0
    for k in rng.binomial(n, p, size=2000):
        low, high = wilson_interval(int(k), n)
        covered += low <= p <= high
    assert 0.93 < covered / 2000 < 0.98


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ((0, 0), r"n=0 answers has no interval. Pass n above 0"),
        ((5, 3), r"k=5 of n=3 is not a proportion"),
        ((-1, 3), r"k=-1 of n=3 is not a proportion"),
        ((math.nan, 3), r"k=nan of n=3 is not a proportion"),
        ((1, 3, 95), r"level=95 is not a coverage. Pass a number between 0 and 1"),
    ],
)
def test_wilson_interval_refuses(arguments, message):
    with pytest.raises(InputError, match=message):
        wilson_interval(*arguments)


# Proportions of rows that hang together ------------------------------------------------------------


def test_proportion_of_independent_rows_is_wilsons():
    x = [True] * 81 + [False] * 182
    estimate = proportion_interval(x)
    assert estimate.value == pytest.approx(81 / 263, **ROUNDED)
    assert (estimate.low, estimate.high) == wilson_interval(81, 263)
    assert proportion_interval(x, clusters=range(263)) == estimate


def test_copies_of_a_row_add_nothing():
    x = np.array([True, False, True, True, False, True, False])
    once = proportion_interval(np.repeat(x, 11), clusters=np.repeat(np.arange(7), 11))
    # p = 4/7; residuals of the clusters ±(1 − p), p times 11; v = 7/6 · 11²·(4·(3/7)² + 3·(4/7)²) / 77²
    p, v = 4 / 7, 7 / 6 * (4 * (3 / 7) ** 2 + 3 * (4 / 7) ** 2) / 49
    n = max(p * (1 - p) / v, 7)
    assert n == 7  # p(1 − p)/v is 6: held at the number of clusters
    assert (once.low, once.high) == pytest.approx(wilson_interval(p * n, n), **ROUNDED)


def test_clusters_that_balance_are_worth_all_their_rows():
    # Each scene has one right and one wrong: nothing varies between scenes.
    estimate = proportion_interval([1, 0] * 13, clusters=np.repeat(np.arange(13), 2))
    assert (estimate.low, estimate.high) == pytest.approx(wilson_interval(13, 26), **ROUNDED)


def test_scenes_of_unequal_size_by_hand():
    x = [1, 1, 1, 1, 0, 1, 1, 0, 0, 1, 1]
    scenes = ["a"] * 4 + ["b"] * 2 + ["c"] * 3 + ["d"] * 2
    p = 8 / 11  # right per scene: 4 of 4, 1 of 2, 1 of 3, 2 of 2
    residuals = [4 - 4 * p, 1 - 2 * p, 1 - 3 * p, 2 - 2 * p]
    v = 4 / 3 * sum(r * r for r in residuals) / 11**2
    n = p * (1 - p) / v
    assert 4 < n < 11
    estimate = proportion_interval(x, scenes)
    assert (estimate.low, estimate.high) == pytest.approx(wilson_interval(p * n, n), **ROUNDED)


def test_all_right_in_three_scenes_is_three_answers():
    estimate = proportion_interval([True] * 15, clusters=["a", "b", "c"] * 5)
    assert estimate.value == 1.0
    assert (estimate.low, estimate.high) == wilson_interval(3, 3)


def test_proportion_interval_of_shared_scenes_covers_where_the_plain_one_does_not():
    rng = np.random.default_rng(11)
    scenes, each, runs = 53, 5, 600
    labels = np.repeat(np.arange(scenes), each)
    clustered = plain = 0
    for _ in range(runs):
        ease = rng.beta(1.4, 0.6, size=scenes)  # mean 0.7; answers of a scene correlate by 1/3
        x = rng.random(scenes * each) < np.repeat(ease, each)
        estimate, naive = proportion_interval(x, labels), proportion_interval(x)
        clustered += estimate.low <= 0.7 <= estimate.high
        plain += naive.low <= 0.7 <= naive.high
    assert 0.92 < clustered / runs < 0.985
    assert plain / runs < 0.88


def test_proportion_refuses_what_is_not_one():
    with pytest.raises(InputError, match=r"values in \[0, 1\]; x goes from 0.0 to 3.0"):
        proportion_interval([0, 3, 1])


# Means and paired differences ----------------------------------------------------------------------


def test_mean_interval_of_a_constant_is_a_point():
    assert mean_interval([0.25] * 7) == (0.25, 0.25, 0.25)


def test_mean_interval_of_two_values_by_hand():
    # Of the four equally likely draws of {0, 1}, the means are 0, ½, ½, 1: the 10 % and 90 % points are 0
    # and 1, the 30 % and 70 % points ½.
    assert mean_interval([0.0, 1.0], level=0.8) == (0.5, 0.0, 1.0)
    assert mean_interval([0.0, 1.0], level=0.4) == (0.5, 0.5, 0.5)


def test_mean_interval_weighs_clusters_by_their_rows():
    # Clusters {1, 1, 1} and {5}: drawn twice each gives 1 or 5, mixed 8/4 = 2 (and not 3, the mean of means).
    estimate = mean_interval([1.0, 1.0, 1.0, 5.0], clusters=["x", "x", "x", "y"], level=0.4)
    assert estimate == (2.0, 2.0, 2.0)


def test_mean_interval_agrees_with_the_normal_one():
    x = np.random.default_rng(5).gamma(2.0, 3.0, size=1009)
    _, low, high = mean_interval(x, n_boot=4000)
    half = 1.959964 * x.std(ddof=1) / math.sqrt(len(x))
    # The 2.5 % point of 4,000 draws, where the normal density is 0.0584, three standard errors either way.
    off = 3 * math.sqrt(0.025 * 0.975 / 4000) / 0.0584 / 1.959964 * half
    assert low == pytest.approx(x.mean() - half, abs=off)
    assert high == pytest.approx(x.mean() + half, abs=off)


def test_mean_interval_repeats_with_its_seed_and_in_blocks(monkeypatch):
    x = np.random.default_rng(0).normal(size=37)
    first = mean_interval(x, seed=4)
    assert mean_interval(x, seed=4) == first
    assert mean_interval(x, seed=5) != first
    # Cut into many blocks, the same draws come one after the other.
    monkeypatch.setattr("lostattn.experiments.statistics._BLOCK", 37 * 3)
    assert mean_interval(x, seed=4) == first


def test_one_cluster_has_no_interval():
    value, low, high = mean_interval([1.0, 2.0, 6.0], clusters=["s", "s", "s"])
    assert value == 3.0 and math.isnan(low) and math.isnan(high)


def test_copies_of_a_cluster_do_not_narrow_the_mean():
    x = np.random.default_rng(2).normal(size=29)
    once = mean_interval(x)
    copied = mean_interval(np.repeat(x, 7), clusters=np.repeat(np.arange(29), 7))
    naive = mean_interval(np.repeat(x, 7))
    assert copied.high - copied.low == pytest.approx(once.high - once.low, rel=0.1)
    assert naive.high - naive.low < 0.5 * (once.high - once.low)


def test_paired_difference_by_hand():
    a = [True, True, False, True]
    b = [False, True, False, False]
    estimate = paired_difference(a, b)
    assert estimate.value == 0.5  # (1 + 0 + 0 + 1) / 4
    assert estimate.low == 0.0 and estimate.high == 1.0  # four draws of {1, 0, 0, 1} with 2/16 at either end
    backwards = paired_difference(b, a)
    assert backwards == pytest.approx((-0.5, -1.0, 0.0), **ROUNDED)


def test_paired_difference_cancels_what_both_share():
    rng = np.random.default_rng(8)
    ease = rng.normal(scale=10.0, size=101)
    a, b = ease + 0.5 + 0.01 * rng.normal(size=101), ease
    estimate = paired_difference(a, b)
    assert 0.49 < estimate.low < estimate.value < estimate.high < 0.51


def test_paired_difference_covers_what_it_says_in_shared_scenes():
    rng = np.random.default_rng(21)
    scenes, each, runs = 47, 3, 400
    labels = np.repeat(np.arange(scenes), each)
    clustered = plain = 0
    for run in range(runs):
        effect = np.repeat(rng.normal(0.3, 1.0, size=scenes), each) + rng.normal(0, 0.5, size=scenes * each)
        base = rng.normal(size=scenes * each)
        estimate = paired_difference(base + effect, base, labels, n_boot=400, seed=run)
        naive = paired_difference(base + effect, base, n_boot=400, seed=run)
        clustered += estimate.low <= 0.3 <= estimate.high
        plain += naive.low <= 0.3 <= naive.high
    assert 0.91 < clustered / runs < 0.98
    assert plain / runs < 0.85


# Tests of "no difference" --------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("lost", "gained", "p"),
    [
        (0, 0, 1.0),
        (1, 1, 1.0),  # 2 · (1 + 2)/4, held to 1
        (0, 5, 2 / 32),
        (5, 0, 2 / 32),
        (2, 7, 2 * (1 + 9 + 36) / 512),
    ],
)
def test_mcnemar_by_hand(lost, gained, p):
    a = [True] * 3 + [False] * 2 + [True] * gained + [False] * lost
    b = [True] * 3 + [False] * 2 + [False] * gained + [True] * lost
    assert mcnemar(a, b) == p
    assert sign_flip(a, b, n_draws=20000) == pytest.approx(p, abs=4 * math.sqrt(0.25 / 20000))  # four standard errors


def test_mcnemar_of_many_questions_stays_a_number():
    n = 3001
    a = np.arange(2 * n) < n + 60
    p = mcnemar(a, ~a)  # n + 60 against n − 60: z = 2·60/sqrt(2n) = 1.549
    # The normal approximation of a symmetric binomial with continuity correction is off by the order of 1/n.
    assert p == pytest.approx(math.erfc((120 - 1) / math.sqrt(2 * n) / math.sqrt(2)), rel=1 / n)


def test_mcnemar_wants_right_and_wrong():
    with pytest.raises(InputError, match="compares right and wrong; b holds 0.5. Pass booleans"):
        mcnemar([True, False], [1.0, 0.5])


def test_sign_flip_counts_a_scene_once():
    # Five questions of one scene that all change are one change: it could as well have gone the other way.
    a, b = [True] * 5, [False] * 5
    assert sign_flip(a, b, clusters=["s"] * 5) == 1.0
    assert mcnemar(a, b) == 2 / 32


def test_sign_flip_is_uniform_when_nothing_differs():
    rng = np.random.default_rng(17)
    labels = np.repeat(np.arange(23), 2)
    p = [
        sign_flip(np.repeat(rng.normal(size=23), 2), np.zeros(46), labels, n_draws=199, seed=run) for run in range(400)
    ]
    assert 0.02 < np.mean(np.array(p) <= 0.05) < 0.09
    assert np.mean(p) == pytest.approx(0.5, abs=4 * math.sqrt(1 / 12 / 400))  # four standard errors of a uniform mean


# Bad input -----------------------------------------------------------------------------------------


@pytest.mark.parametrize("compare", [paired_difference, mcnemar, sign_flip])
def test_pairs_are_checked(compare):
    with pytest.raises(InputError, match=r"a has 3 values and b has 2: they cannot be paired"):
        compare([1, 0, 1], [1, 0])
    with pytest.raises(InputError, match=r"a is empty: nothing can be said of no questions"):
        compare([], [])
    with pytest.raises(InputError, match=r"b holds NaN or infinity in 1 of 2 places. Leave those questions out"):
        compare([1, 0], [1, math.nan])


@pytest.mark.parametrize("interval", [mean_interval, proportion_interval])
def test_rows_are_checked(interval):
    with pytest.raises(InputError, match=r"x is empty"):
        interval([])
    with pytest.raises(InputError, match=r"x holds NaN or infinity in 2 of 3 places"):
        interval([math.nan, 0.0, math.inf])
    with pytest.raises(InputError, match=r"x has the shape \(2, 1\). Pass one dimension"):
        interval([[1], [0]])
    with pytest.raises(InputError, match=r"x holds something that is not a number"):
        interval(["yes", "no"])
    with pytest.raises(InputError, match=r"clusters has the shape \(2,\), the values \(3,\)"):
        interval([1, 0, 1], clusters=["s", "t"])
    with pytest.raises(InputError, match=r"clusters holds NaN or None"):
        interval([1, 0], clusters=["s", None])
    with pytest.raises(InputError, match=r"level=0 is not a coverage"):
        interval([1, 0], level=0)


def test_draws_are_checked():
    with pytest.raises(InputError, match=r"n_boot=0 draws nothing"):
        mean_interval([1, 0], n_boot=0)
    with pytest.raises(InputError, match=r"n_draws=0 draws nothing"):
        sign_flip([1, 0], [0, 0], n_draws=0)
