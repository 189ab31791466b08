"""What some kernels add to plain attention: a soft cap, sinks, a bias of positions, against written-out definitions."""

from __future__ import annotations

import math
from types import SimpleNamespace

import bounds
import torch

from lostattn.kernels.attention import attention_scores, call_arguments, call_extras, sinks_of, softmax_rows

BATCH, HEADS, KV, QUERIES, KEYS, WIDTH = 2, 6, 3, 5, 7, 4


def tensors() -> tuple[torch.Tensor, torch.Tensor]:
    generator = torch.Generator().manual_seed(0)
    query = torch.randn(BATCH, HEADS, QUERIES, WIDTH, generator=generator, dtype=torch.float64)
    return query, torch.randn(BATCH, KV, KEYS, WIDTH, generator=generator, dtype=torch.float64)


def test_soft_cap_and_bias_act_before_the_mask():
    query, key = tensors()
    generator = torch.Generator().manual_seed(1)
    bias = torch.randn(1, HEADS, QUERIES, KEYS, generator=generator, dtype=torch.float64)
    rows = torch.tensor([1, 3, 4])
    extras = {"softcap": 1.7, "bias": bias, "sinks": None}
    found, _ = attention_scores(query, key, None, True, 0.3, rows, None, extras)
    few = bounds.sums(2 * WIDTH, torch.float64)  # a product over the width, a tangent, a sum
    for b in range(BATCH):
        for h in range(HEADS):
            for at, row in enumerate(rows.tolist()):
                for k in range(KEYS):
                    score = 0.3 * float(query[b, h, row] @ key[b, h // (HEADS // KV), k])
                    expected = 1.7 * math.tanh(score / 1.7) + float(bias[0, h, row, k])
                    if k > row + KEYS - QUERIES:
                        expected = float("-inf")
                    assert math.isclose(float(found[b, h, at, k]), expected, rel_tol=few, abs_tol=few)


def test_a_sink_takes_its_share_and_holds_nothing():
    generator = torch.Generator().manual_seed(2)
    scores = torch.randn(BATCH, HEADS, QUERIES, KEYS, generator=generator, dtype=torch.float64)
    scores[0, 1, 2] = float("-inf")
    sinks = torch.randn(HEADS, generator=generator, dtype=torch.float64)
    found = softmax_rows(scores, sinks)
    share = scores.exp() / (scores.exp().sum(-1, keepdim=True) + sinks.exp().reshape(1, -1, 1, 1))
    few = bounds.sums(KEYS + 1, torch.float64)
    bounds.close(found, share, few)
    assert float(found[0, 1, 2].sum()) == 0.0
    # A sink may differ by query; those of the rows at hand are taken.
    by_row = torch.randn(BATCH, HEADS, QUERIES, 1, generator=generator, dtype=torch.float64)
    rows = torch.tensor([0, 3])
    found_rows = softmax_rows(scores[:, :, rows], sinks_of({"sinks": by_row}, rows))
    whole = scores.exp() / (scores.exp().sum(-1, keepdim=True) + by_row.exp())
    bounds.close(found_rows, whole[:, :, rows], few)
    assert float(found[0, 0, 0].sum()) < 1.0


def test_the_names_under_which_kernels_are_given_more():
    sinks = torch.zeros(3)
    assert call_extras((), {"s_aux": sinks, "softcap": 30.0}) == {"softcap": 30.0, "sinks": sinks, "bias": None}
    assert call_extras((), {"sinks": sinks, "position_bias": sinks})["sinks"] is sinks


def test_eager_and_flex_attention_are_never_causal_by_themselves():
    """sdpa reads ``is_causal`` where no mask is given, and counts from the first key; flash counts from the last."""
    query, key = tensors()
    causal = {}
    for kernel in ("eager", "sdpa", "flex_attention", "flash_attention_2"):
        module = SimpleNamespace(is_causal=True, config=SimpleNamespace(_attn_implementation=kernel))
        causal[kernel] = call_arguments((module, query, key, key, None), {"scaling": 1.0})[-1]
    assert causal == {"eager": False, "sdpa": "first", "flex_attention": False, "flash_attention_2": True}
