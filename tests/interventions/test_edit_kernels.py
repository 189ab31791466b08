"""The edits on literal matrices: one batch, two heads, two rows, five keys, of which keys 1, 2, 3 are chosen."""

from __future__ import annotations

import math

import bounds
import pytest
import torch
from torch import Tensor

from lostattn.kernels import edits

KEYS = torch.tensor([False, True, True, True, False])
WEIGHTS = torch.tensor(
    [
        [[0.1, 0.2, 0.3, 0.1, 0.3], [0.5, 0.1, 0.1, 0.2, 0.1]],
        [[0.2, 0.2, 0.2, 0.2, 0.2], [0.7, 0.0, 0.0, 0.0, 0.3]],
    ]
)[None]
SCORES = torch.tensor(
    [
        [[1.0, 2.0, 4.0, 6.0, -1.0], [0.0, -3.0, 0.0, 3.0, 5.0]],
        [[3.0, 3.0, 3.0, 3.0, 3.0], [2.0, 1.0, 0.0, -1.0, 9.0]],
    ]
)[None]
CELLS = KEYS[None, None, None, :]
FEW = bounds.sums(5)  # sums over at most five keys
HERE = {"step": 0, "rows": torch.tensor([0, 1]), "memory": {}}


def values(x, cells, here, new: Tensor) -> Tensor:
    return new


def replaced(new, mix=1.0, keep_mass=True, x=WEIGHTS, cells=CELLS) -> Tensor:
    return edits.replace_weights(x, cells, HERE, values, {"new": torch.as_tensor(new)}, mix, keep_mass)


def scored(new, mix=1.0, align="moments", percentiles=None, x=SCORES, cells=CELLS) -> Tensor:
    return edits.replace_scores(x, cells, HERE, values, {"new": torch.as_tensor(new)}, mix, align, percentiles)


def test_weights_share_out_the_mass_of_the_row():
    out = replaced([9.0, 1.0, 0.0, 3.0, 9.0])  # a quarter, nothing, three quarters
    expected = torch.tensor(
        [
            [[0.1, 0.15, 0.0, 0.45, 0.3], [0.5, 0.1, 0.0, 0.3, 0.1]],
            [[0.2, 0.15, 0.0, 0.45, 0.2], [0.7, 0.0, 0.0, 0.0, 0.3]],
        ]
    )[None]
    bounds.close(out, expected, FEW)
    assert torch.equal(out[..., [0, 4]], WEIGHTS[..., [0, 4]])  # the other columns, to the bit


def test_weights_as_they_are():
    out = replaced([9.0, 1.0, 0.0, 3.0, 9.0], keep_mass=False)
    assert torch.equal(out[0, 1, 0], torch.tensor([0.2, 1.0, 0.0, 3.0, 0.2]))


def test_weights_below_zero_are_cut_before_they_share():
    out = replaced([0.0, -5.0, 1.0, 1.0, 0.0])
    bounds.close(out[0, 0, 0], torch.tensor([0.1, 0.0, 0.3, 0.3, 0.3]), FEW)


def test_a_draw_of_nothing_leaves_the_weights():
    assert torch.equal(replaced([0.0] * 5), WEIGHTS)


@pytest.mark.parametrize("keep_mass", [True, False])
def test_mix_zero_changes_no_bit_and_half_is_half(keep_mass):
    new = [9.0, 1.0, 0.0, 3.0, 9.0]
    assert torch.equal(replaced(new, mix=0.0, keep_mass=keep_mass), WEIGHTS)
    half = replaced(new, mix=0.5, keep_mass=keep_mass)
    bounds.close(half, (WEIGHTS + replaced(new, keep_mass=keep_mass)) / 2, FEW)


def test_cells_may_differ_by_head_and_row():
    cells = torch.zeros(1, 2, 2, 5, dtype=torch.bool)
    cells[0, 0, 1, [0, 2]] = True
    out = replaced([1.0, 1.0, 2.0, 1.0, 1.0], cells=cells)
    expected = WEIGHTS.clone()
    expected[0, 0, 1] = torch.tensor([0.2, 0.1, 0.4, 0.2, 0.1])
    bounds.close(out, expected, FEW)
    assert torch.equal(out[~cells], WEIGHTS[~cells])


def test_scores_take_the_moments_of_what_they_replace():
    out = scored([7.0, 0.0, 0.0, 3.0, 7.0])  # mean 1, deviations -1, -1, 2, standard deviation sqrt(2)
    unit = [-1 / math.sqrt(2), -1 / math.sqrt(2), math.sqrt(2)]
    first = [4 + math.sqrt(8 / 3) * u for u in unit]  # 2, 4, 6: mean 4, variance 8/3
    bounds.close(out[0, 0, 0], torch.tensor([1.0, *first, -1.0]), FEW)
    second = [math.sqrt(6) * u for u in unit]  # -3, 0, 3: mean 0, variance 6
    bounds.close(out[0, 0, 1], torch.tensor([0.0, *second, 5.0]), FEW)
    bounds.close(out[0, 1, 0], torch.full((5,), 3.0), FEW)  # no spread to take


def test_scores_of_the_released_scale():
    out = scored([0.0, 0.1, 0.2, 0.3, 0.0], align="released")
    # the mean of the prior is 0.2, that of the scores 4: times 4 / 0.4
    bounds.close(out[0, 0, 0], torch.tensor([1.0, 1.0, 2.0, 3.0, -1.0]), FEW)
    bounds.close(out[0, 0, 1, 1:4], torch.zeros(3), FEW, size=SCORES)  # |mean| of -3, 0, 3 is nothing
    half = scored([0.0, 0.1, 0.2, 0.3, 0.0], align="released", mix=0.5)
    bounds.close(half[0, 0, 0, 1:4], torch.tensor([1.5, 3.0, 4.5]), FEW)


def test_scores_of_negative_mean_are_scaled_by_its_size():
    out = scored([0.0, 0.1, 0.2, 0.3, 0.0], align="released", x=-SCORES)
    bounds.close(out[0, 0, 0, 1:4], torch.tensor([1.0, 2.0, 3.0]), FEW)


@pytest.mark.parametrize("align", ["moments", "released"])
def test_scores_mixed_by_nothing_change_no_bit(align):
    assert torch.equal(scored([0.0, 0.1, 0.2, 0.3, 0.0], mix=0.0, align=align), SCORES)


@pytest.mark.parametrize("align", ["moments", "released"])
def test_scores_knocked_out_before_stay_out(align):
    gone = SCORES.clone()
    gone[..., 2] = -torch.inf
    out = scored([0.0, 1.0, 5.0, 3.0, 0.0], align=align, x=gone)
    assert not out.isnan().any()
    assert (out[..., 2] == -torch.inf).all()
    assert not torch.equal(out, gone)


def test_heads_between_percentiles_of_the_other_columns():
    # Means over columns 0 and 4 of the last row: 1, 2, 3, 10; quantiles over four heads lie at 0.3 -> 1.9, 0.9 -> 7.9.
    x = torch.zeros(1, 4, 1, 5)
    for head, mean in enumerate([1.0, 2.0, 3.0, 10.0]):
        x[0, head, 0, [0, 4]] = torch.tensor([mean - 1, mean + 1])
    x[..., 1:4] = 50.0  # of no account
    chosen = edits.heads_between(x, CELLS.expand_as(x), 0.3, 0.9)
    assert chosen[0, :, 0, 0].tolist() == [False, True, True, False]
    assert edits.heads_between(x, CELLS.expand_as(x), 0.0, 1.0).all()


def test_heads_left_out_are_judged_by_the_same_columns():
    x = torch.zeros(1, 4, 1, 5)
    for head, mean in enumerate([1.0, 2.0, 3.0, 10.0]):
        x[0, head, 0, [0, 4]] = mean
    x[..., 1:4] = 50.0
    cells = CELLS.expand_as(x).clone()
    cells[:, [0, 3]] = False
    assert edits.heads_between(x, cells, 0.3, 0.9)[0, :, 0, 0].tolist() == [False, True, True, False]


def test_unseen_columns_do_not_count_in_the_choice_of_heads():
    x = torch.tensor([[1.0, 9.0], [2.0, 9.0], [3.0, 9.0]])[None, :, None, :]
    padded = torch.cat([torch.full((1, 3, 1, 2), -torch.inf), x], -1)
    cells = torch.tensor([False, False, False, True]).expand(1, 3, 1, 4)
    chosen = edits.heads_between(padded, cells, 0.3, 0.9)
    assert chosen.flatten().tolist() == [False, True, False]


def test_scale_and_block():
    assert torch.equal(edits.scale_cells(WEIGHTS, CELLS, HERE, 3.0)[..., 1:4], WEIGHTS[..., 1:4] * 3)
    assert torch.equal(edits.scale_cells(WEIGHTS, CELLS, HERE, 3.0)[..., [0, 4]], WEIGHTS[..., [0, 4]])
    blocked = edits.block_cells(SCORES, CELLS, HERE)
    assert (blocked[..., 1:4] == -torch.inf).all()
    assert torch.equal(blocked[..., [0, 4]], SCORES[..., [0, 4]])


# Activations: two items of four positions, the first two of item 1 padding; two heads of three numbers.
ACTIVE = torch.arange(48.0).reshape(2, 4, 2, 3)
REAL = (torch.tensor([[True] * 4, [False, False, True, True]]), True)


def ablated(x=ACTIVE, step=0, memory=None, **given) -> Tensor:
    here = {"step": step, "memory": {} if memory is None else memory}
    defaults = {"positions": REAL, "real": REAL, "heads": None, "seeds": [5, 6], "reference": None, "slot": "s"}
    return edits.ablate(x, here, **{"to": "zero", **defaults, **given})


def test_zero_at_chosen_positions_and_heads():
    second = (torch.tensor([[False, True, False, False], [False, False, False, True]]), False)
    out = ablated(positions=second, heads=(1,))
    expected = ACTIVE.clone()
    expected[0, 1, 1] = 0
    expected[1, 3, 1] = 0
    assert torch.equal(out, expected)


def test_mean_is_over_the_real_positions_of_the_item():
    out = ablated(to="mean")
    assert torch.equal(out[0], torch.arange(6.0).reshape(1, 2, 3).expand(4, 2, 3) + 9)  # rows 0, 6, 12, 18
    assert torch.equal(out[1, 2:], torch.arange(6.0).reshape(1, 2, 3).expand(2, 2, 3) + 39)  # rows 36, 42
    assert torch.equal(out[1, :2], ACTIVE[1, :2])  # padding stays


def test_mean_at_a_decoding_step_is_the_prompts():
    memory: dict = {}
    ablated(to="mean", memory=memory)
    out = ablated(x=torch.full((2, 1, 2, 3), -7.0), to="mean", step=1, memory=memory)
    assert torch.equal(out[0, 0], torch.arange(6.0).reshape(2, 3) + 9)
    assert torch.equal(out[1, 0], torch.arange(6.0).reshape(2, 3) + 39)


def test_a_pool_kept_at_the_prefill_serves_a_later_first_step():
    here: dict = {"step": 0, "memory": {}}
    assert edits.keep_pool(ACTIVE, here, REAL, "s") is ACTIVE
    out = ablated(x=torch.full((2, 1, 2, 3), -7.0), to="mean", step=1, memory=here["memory"])
    assert torch.equal(out[0, 0], torch.arange(6.0).reshape(2, 3) + 9)


def test_mean_and_resample_of_a_reference():
    reference = torch.stack([torch.zeros(2, 3), torch.full((2, 3), 4.0)])
    assert (ablated(to="mean", reference=reference)[0] == 2).all()
    out = ablated(to="resample", reference=reference)
    assert set(out[0].unique().tolist()) <= {0.0, 4.0}
    late = ablated(x=torch.ones(2, 1, 2, 3), to="mean", reference=reference, step=3)  # without a prefill before it
    assert (late == 2).all()


def test_resample_takes_whole_real_rows_of_the_item_by_its_seed():
    out = ablated(to="resample")
    for item, rows in ((0, range(4)), (1, range(2, 4))):
        for pos in rows:
            assert any(torch.equal(out[item, pos], ACTIVE[item, r]) for r in rows)
    assert torch.equal(out, ablated(to="resample"))
    other = [ablated(to="resample", seeds=[s, s + 1]) for s in range(20, 26)]
    assert any(not torch.equal(out, o) for o in other)
    # Item 1 draws the same without its padding and without its neighbour.
    alone = edits.ablate(
        ACTIVE[1:, 2:],
        {"step": 0, "memory": {}},
        to="resample",
        positions=(torch.ones(1, 2, dtype=torch.bool), True),
        real=(torch.ones(1, 2, dtype=torch.bool), True),
        heads=None,
        seeds=[6],
        reference=None,
        slot="s",
    )
    assert torch.equal(alone, out[1:, 2:])


def noised(x, step=0, std=None, seeds=(5, 6), positions=REAL, real=REAL) -> Tensor:
    return edits.noise_update(x, {"step": step, "memory": {}}, positions, real, std, list(seeds))


def test_noise_has_the_moments_of_the_items_own_update():
    generator = torch.Generator().manual_seed(0)
    x = torch.randn(2, 101, 97, generator=generator) * torch.tensor([3.0, 0.5])[:, None, None] + 2.0
    real = (torch.ones(2, 101, dtype=torch.bool), True)
    out = noised(x, positions=real, real=real)
    for item in range(2):
        n = x[item].numel()
        spread = float(x[item].std(correction=0))
        assert abs(float(out[item].mean() - x[item].mean())) < 4 * spread / math.sqrt(n)
        assert abs(float(out[item].std(correction=0)) / spread - 1) < 4 / math.sqrt(2 * n)
        assert not torch.equal(out[item], x[item])
    fixed = noised(x, std=0.25, positions=real, real=real)
    assert abs(float(fixed.mean())) < 4 * 0.25 / math.sqrt(fixed.numel())
    assert abs(float(fixed.std()) / 0.25 - 1) < 4 / math.sqrt(2 * fixed.numel())
    assert (noised(x, std=0.0, positions=real, real=real) == 0).all()


def test_noise_by_seed_step_padding_and_neighbour():
    x = ACTIVE.flatten(2)
    out = noised(x)
    assert torch.equal(out, noised(x))
    assert not torch.equal(out[0], noised(x, seeds=(7, 8))[0])
    assert torch.equal(out[1, :2], x[1, :2])  # padding is left alone
    two = (torch.ones(1, 2, dtype=torch.bool), True)
    assert torch.equal(noised(x[1:, 2:], seeds=(6,), positions=two, real=two), out[1:, 2:])
    first, second = (noised(x[:, :1], step=step) for step in (1, 2))
    assert not torch.equal(first, second)


def test_noise_at_some_positions_draws_as_at_all():
    last = (torch.tensor([[False, False, False, True]] * 2), True)
    x = ACTIVE.flatten(2)
    out = noised(x, positions=last)
    assert torch.equal(out[:, 3], noised(x)[:, 3])
    assert torch.equal(out[:, :3], x[:, :3])
