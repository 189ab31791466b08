"""Attention mass, entropy and sinks on literal patterns."""

from __future__ import annotations

import math

import bounds
import metric_definitions as definitions
import pytest
import torch

from lostattn import metrics

# Sums over at most three keys, in double precision.
NEAR = {"rel": 0, "abs": bounds.sums(3, torch.float64)}
# Two heads, three queries, three keys: one rests on the first key, one on itself.
PATTERN = torch.tensor(
    [
        [[1.0, 0.0, 0.0], [0.75, 0.25, 0.0], [0.5, 0.25, 0.25]],
        [[1.0, 0.0, 0.0], [0.0, 1.0, 0.0], [0.125, 0.125, 0.75]],
    ]
)


def test_mass() -> None:
    keys = torch.tensor([False, True, True])
    found = metrics.attention_mass(PATTERN, keys)
    assert found.tolist() == [[0, 0.25, 0.5], [0, 1, 0.875]]
    assert metrics.attention_mass(PATTERN.bfloat16(), keys).tolist() == found.tolist()
    rest = metrics.attention_mass(PATTERN, ~keys)
    assert (found + rest).tolist() == [[1, 1, 1], [1, 1, 1]]


def test_entropy() -> None:
    found = metrics.attention_entropy(PATTERN)
    quarter = -(0.75 * math.log(0.75) + 0.25 * math.log(0.25))
    assert found[0].tolist() == pytest.approx([0, quarter, 1.5 * math.log(2)], **NEAR)
    # Over the last two keys, brought back to one: no weight, one key only, half and half.
    cut = metrics.attention_entropy(PATTERN, torch.tensor([False, True, True]))
    assert cut[0].tolist() == pytest.approx([0, 0, math.log(2)], **NEAR)
    even = metrics.attention_entropy(torch.full((2, 3, 5, 7), 1 / 7))
    assert even.flatten().tolist() == pytest.approx([math.log(7)] * 30, rel=0, abs=bounds.sums(7))  # 1/7 is in single


def test_sinks() -> None:
    assert metrics.sink_mass(PATTERN).tolist() == [[1, 0.75, 0.5], [1, 0, 0.125]]
    assert metrics.sink_mass(PATTERN, k=2).tolist() == [[1, 1, 0.75], [1, 1, 0.25]]
    # Mean weight over the queries that may see the key: (3/4, 1/4, 1/4) and (3/8, 9/16, 3/4).
    assert metrics.sink_positions(PATTERN).tolist() == [[True, False, False], [True, True, True]]
    assert metrics.sink_positions(PATTERN, 0.24).tolist() == [[True, True, True], [True, True, True]]
    assert metrics.sink_positions(PATTERN, 0.5).tolist() == [[True, False, False], [False, True, True]]
    # Over all queries: (3/4, 1/6, 1/12) and (3/8, 3/8, 1/4).
    every = metrics.sink_positions(PATTERN, 0.3, causal=False)
    assert every.tolist() == [[True, False, False], [True, True, False]]
    # The last query alone.
    assert metrics.sink_positions(PATTERN[:, -1:], 0.4).tolist() == [
        [True, False, False],
        [False, False, True],
    ]


@pytest.mark.parametrize("queries", [5, 1])
def test_padding_equals_cropping(queries: int) -> None:
    scores = definitions.random(2, 3, 5, 5).masked_fill(torch.ones(5, 5).triu(1).bool(), -torch.inf)
    scores[1, :, :, :2] = -torch.inf
    pattern = scores.softmax(-1)[..., -queries:, :]
    mask = torch.ones(2, 5, dtype=torch.bool)
    mask[1, :2] = False
    # A padded query row holds whatever the kernel left there, NaN among it.
    keys = torch.tensor([[True, True, True, False, False]]).expand(2, 5)
    cropped = pattern[1, :, -min(3, queries) :, 2:]
    pairs = [
        (metrics.attention_mass(pattern, keys, mask), metrics.attention_mass(cropped, keys[1, 2:])),
        (metrics.attention_entropy(pattern, mask=mask), metrics.attention_entropy(cropped)),
        (metrics.attention_entropy(pattern, keys, mask), metrics.attention_entropy(cropped, keys[1, 2:])),
        (metrics.sink_mass(pattern, 2, mask), metrics.sink_mass(cropped, 2)),
    ]
    for padded, alone in pairs:
        bounds.close(padded[1, :, -min(3, queries) :], alone, bounds.sums(5, torch.float64), size=[math.log(5), 1.0])
        assert padded[1, :, : max(0, queries - 3)].abs().sum() == 0
    for causal in (True, False):
        found = metrics.sink_positions(pattern, 0.4, mask, causal=causal)
        assert found[1, :, 2:].tolist() == metrics.sink_positions(cropped, 0.4, causal=causal).tolist()
        assert not found[1, :, :2].any()
