"""What sources draw, on literal cells: exact where it can be, by moments and by seeds where it is random."""

from __future__ import annotations

import math

import bounds
import pytest
import torch
from torch import Tensor

from lostattn.interventions.sources import spread
from lostattn.kernels import edits, priors


def here(step: int = 0, **memory) -> dict:
    return {"step": step, "rows": torch.arange(2), "memory": memory}


def cells(batch=2, heads=3, rows=2, keys=7, chosen=slice(2, 5)) -> Tensor:
    out = torch.zeros(batch, heads, rows, keys, dtype=torch.bool)
    out[..., chosen] = True
    return out


def gaussian_scores(x: Tensor, chosen: Tensor, seeds: list[int], step: int = 0) -> Tensor:
    params = {"seeds": seeds}
    return edits.replace_scores(x, chosen, here(step), priors.gaussian, params, 1.0, "moments", None)


def test_gaussian_scores_match_both_moments_row_by_row():
    generator = torch.Generator().manual_seed(0)
    x = torch.randn(2, 3, 5, 53, generator=generator) * torch.tensor([1.0, 2.0, 5.0])[None, :, None, None] - 4
    chosen = cells(rows=5, keys=53, chosen=slice(3, 44))
    out = gaussian_scores(x, chosen, [1, 2])
    old, new = x[..., 3:44].double(), out[..., 3:44].double()
    few = bounds.sums(41)  # moments over so many keys in single precision
    bounds.close(new.mean(-1), old.mean(-1), few, size=x)
    bounds.close(new.std(-1, correction=0), old.std(-1, correction=0), few, size=x)
    assert torch.equal(out[~chosen], x[~chosen])
    # No trace of the old values is left: their correlation with the new is that of chance.
    a, b = old - old.mean(-1, keepdim=True), new - new.mean(-1, keepdim=True)
    correlation = (a * b).mean() / (a.square().mean() * b.square().mean()).sqrt()
    assert abs(float(correlation)) < 4 / math.sqrt(a.numel())


def test_gaussian_is_drawn_from_the_moments_of_each_row():
    x = torch.zeros(1, 1, 2, 5003)
    x[0, 0, 0, ::2] = 2.0  # mean 1, deviation 1
    x[0, 0, 1] = 7.0
    drawn = priors.gaussian(x, torch.ones_like(x, dtype=torch.bool), here(), [3])
    assert abs(float(drawn[0, 0, 0].mean()) - 1) < 4 / math.sqrt(5003)
    assert abs(float(drawn[0, 0, 0].std()) - 1) < 4 / math.sqrt(2 * 5003)
    assert (drawn[0, 0, 1] == 7).all()


@pytest.mark.parametrize("kernel", [priors.gaussian, lambda x, c, h, seeds: priors.dirichlet(x, c, h, seeds, False)])
def test_seeds_steps_heads_and_rows_draw_apart(kernel):
    x, chosen = torch.rand(2, 3, 2, 7, generator=torch.Generator().manual_seed(0)), cells()
    first = kernel(x, chosen, here(), [10, 20])
    inside = first[chosen].reshape(2, 3, 2, 3)
    assert torch.equal(first, kernel(x, chosen, here(), [10, 20]))
    assert not torch.equal(first[0], kernel(x, chosen, here(), [11, 20])[0])
    assert torch.equal(first[1], kernel(x, chosen, here(), [11, 20])[1])
    assert not torch.equal(inside, kernel(x, chosen, here(1), [10, 20])[chosen].reshape(2, 3, 2, 3))
    x[:] = x[0, 0, 0]  # equal moments, so that only the draws can differ
    inside = kernel(x, chosen, here(), [10, 20])[chosen].reshape(2, 3, 2, 3)
    assert len({tuple(row) for row in inside.reshape(-1, 3).tolist()}) == 2 * 3 * 2


@pytest.mark.parametrize("shared", [None, False, True])
def test_an_items_draw_knows_neither_its_padding_nor_its_neighbours(shared):
    def draw(x, chosen, seeds):
        if shared is None:
            return priors.gaussian(x, chosen, here(), seeds)
        return priors.dirichlet(x, chosen, here(), seeds, shared)

    x = torch.rand(2, 3, 2, 7, generator=torch.Generator().manual_seed(0))
    chosen = cells()
    chosen[0, ..., 4] = False  # the neighbour has other keys
    both = draw(x, chosen, [10, 20])
    alone = draw(x[1:, ..., 1:], chosen[1:, ..., 1:], [20])  # one column of padding less
    # Sums over more columns may round elsewhere; another draw would be far off.
    kept = chosen[1:, ..., 1:]
    bounds.close(both[1:, ..., 1:][kept], alone[kept], bounds.sums(both.shape[-1]))


def test_a_head_draws_the_same_whichever_other_heads_are_chosen():
    x = torch.rand(1, 3, 2, 7, generator=torch.Generator().manual_seed(0))
    all_heads = priors.gaussian(x, cells(1), here(), [10])
    one = cells(1)
    one[:, [0, 2]] = False
    assert torch.equal(priors.gaussian(x, one, here(), [10])[one], all_heads[one])


@pytest.mark.parametrize("shared", [False, True])
def test_dirichlet_lies_on_the_simplex(shared):
    x, chosen = torch.zeros(2, 3, 2, 7), cells()
    out = priors.dirichlet(x, chosen, here(), [1, 2], shared)
    assert (out[~chosen] == 0).all() and (out >= 0).all()
    bounds.close(out.sum(-1), torch.ones(2, 3, 2), bounds.sums(out.shape[-1]))
    rows = {tuple(row) for row in out[0].reshape(6, 7).tolist()}
    assert len(rows) == (1 if shared else 6)
    assert not torch.equal(out[0], out[1])


def test_dirichlet_of_equal_shares_has_its_mean_and_variance():
    n, keys = 4001, 5
    chosen = torch.ones(1, 1, n, keys, dtype=torch.bool)
    out = priors.dirichlet(torch.zeros(1, 1, n, keys), chosen, here(), [4], False)[0, 0].double()
    variance = (keys - 1) / (keys**2 * (keys + 1))
    assert (out.mean(0) - 1 / keys).abs().max() < 4.5 * math.sqrt(variance / n)
    assert (out.var(0) / variance - 1).abs().max() < 0.15
    # uniform on the simplex: P(share < t) = 1 - (1 - t)^(keys - 1)
    assert abs(float((out[:, 0] < 0.1).double().mean()) - (1 - 0.9**4)) < 4.5 * math.sqrt(0.25 / n)


def test_uniform_shares_one_out_over_the_keys_that_a_row_sees():
    chosen = cells(1, 1, 2, 7)
    chosen[0, 0, 1, 4] = False
    out = priors.uniform(torch.zeros(1, 1, 2, 7), chosen, here())
    third = 1 / 3
    assert torch.equal(out[0, 0], torch.tensor([[0, 0, third, third, third, 0, 0], [0, 0, 0.5, 0.5, 0, 0, 0.0]]))


def test_given_values_are_laid_on_the_prompt_and_generated_keys_get_nothing():
    values = torch.arange(5.0)[None, None, None]
    out = priors.given_prior(torch.zeros(1, 2, 1, 7), None, here(2), values)
    assert out.tolist() == [[[[0.0, 1.0, 2.0, 3.0, 4.0, 0.0, 0.0]]]]


def test_given_rows_are_taken_where_the_pass_is():
    values = torch.arange(25.0).reshape(1, 1, 5, 5)
    out = priors.given_prior(torch.zeros(1, 2, 2, 5), None, {**here(), "rows": torch.tensor([1, 4])}, values)
    assert torch.equal(out, values[:, :, [1, 4]])


def test_spread_by_key_by_item_and_by_head():
    mask = torch.tensor([[False, True, False, True], [True, True, False, False]])
    one = spread(torch.tensor([5.0, 6.0]), mask)
    assert one[:, 0, 0].tolist() == [[0, 5, 0, 6], [5, 6, 0, 0]]
    two = spread(torch.tensor([[5.0, 6.0], [7.0, 8.0]]), mask)
    assert two[:, 0, 0].tolist() == [[0, 5, 0, 6], [7, 8, 0, 0]]
    three = spread(torch.arange(12.0).reshape(2, 3, 2), mask)
    assert three[:, :, 0].tolist() == [
        [[0, 0, 0, 1], [0, 2, 0, 3], [0, 4, 0, 5]],
        [[6, 7, 0, 0], [8, 9, 0, 0], [10, 11, 0, 0]],
    ]


def test_remembered_numbers_stand_at_the_image_tokens():
    mask = torch.tensor([[False, True, True, False], [True, False, True, False]])
    out = priors.remembered_prior(torch.zeros(2, 3, 1, 5), None, here(p=torch.tensor([1.0, 2.0, 3.0, 4.0])), "p", mask)
    assert out[:, 0, 0].tolist() == [[0, 1, 2, 0, 0], [3, 0, 4, 0, 0]]


def test_vision_is_averaged_over_heads_and_queries_without_the_class_token():
    x = torch.tensor(
        [
            [
                [[0.5, 0.25, 0.25], [0.0, 0.75, 0.25], [0.5, 0.5, 0.0]],
                [[0.2, 0.4, 0.4], [0.6, 0.2, 0.2], [0.1, 0.1, 0.8]],
            ]
        ]
    )
    state = here()
    index = torch.tensor([[1], [2]])
    assert priors.observe_vision(x, None, state, "p", (1, 3), index, None, None, None, None) is x
    # key 1: (0.25 + 0.75 + 0.5 + 0.4 + 0.2 + 0.1) / 6; key 2: (0.25 + 0.25 + 0 + 0.4 + 0.2 + 0.8) / 6
    bounds.close(state["memory"]["p"], torch.tensor([2.2 / 6, 1.9 / 6]), bounds.sums(7))


def test_vision_groups_are_merged_by_their_largest_and_put_in_order():
    # Two windows of four patches that do not see each other, in the tower's order; one head.
    first = torch.tensor([0.1, 0.2, 0.3, 0.4]).expand(4, 4)
    second = torch.tensor([0.7, 0.1, 0.1, 0.1]).expand(4, 4)
    x = torch.block_diag(first, second)[None, None]
    state = here()
    index = torch.tensor([[4, 5, 6, 7], [0, 1, 2, 3]])
    priors.observe_vision(x, None, state, "p", (1, 8), index, None, None, None, None)
    bounds.close(state["memory"]["p"], torch.tensor([0.7, 0.4]), bounds.sums(7))


def test_a_token_may_be_made_of_fewer_patches_than_others_or_of_shares_of_them():
    x = torch.tensor([0.1, 0.2, 0.3, 0.4]).expand(1, 1, 4, 4)
    state, index = here(), torch.tensor([[0, -1], [2, 3]])
    priors.observe_vision(x, None, state, "p", (1, 4), index, None, None, None, None)
    bounds.close(state["memory"]["p"], torch.tensor([0.1, 0.4]), bounds.sums(7))
    weights = torch.tensor([[1.0, 0.0], [0.75, 0.25]])
    priors.observe_vision(x, None, state, "p", (1, 4), index, weights, None, None, None)
    bounds.close(state["memory"]["p"], torch.tensor([0.1, 0.325]), bounds.sums(7))


def test_tiles_share_what_they_are_given_and_others_keep_their_numbers():
    first, second = torch.tensor([0.1, 0.2, 0.7]), torch.tensor([0.5, 0.25, 0.25])
    x = torch.stack([first, second, first])[:, None, None].expand(3, 2, 3, 3)
    state, index = here(), torch.tensor([[1], [2], [4], [7]])  # the first place of each tile is no token's
    group, share = torch.tensor([0, 0, 1, -1]), torch.tensor([2 / 3, 1 / 3])
    priors.observe_vision(x, None, state, "p", (3, 3), index, None, None, group, share)
    bounds.close(state["memory"]["p"], torch.tensor([2 / 3 * 2 / 9, 2 / 3 * 7 / 9, 1 / 3, 0.2]), bounds.sums(7))


def test_queries_that_stand_for_nothing_are_left_out():
    x = torch.tensor([[0.2, 0.8, 0.0], [0.6, 0.4, 0.0], [0.0, 0.5, 0.5]])[None, None]
    state, index, queries = here(), torch.tensor([[0], [1]]), torch.tensor([[True, True, False]])
    priors.observe_vision(x, None, state, "p", (1, 3), index, None, queries, None, None)
    bounds.close(state["memory"]["p"], torch.tensor([0.4, 0.6]), bounds.sums(7))


def test_a_tower_of_another_shape_is_refused():
    x = torch.rand(1, 1, 5, 5)
    with pytest.raises(ValueError, match=r"1 sequences of 5 places; expected \(2, 4\)"):
        priors.observe_vision(x, None, here(), "p", (2, 4), torch.tensor([[0]]), None, None, None, None)


def test_keys_of_cross_attention_are_the_same_at_every_step():
    values = torch.tensor([1.0, 2.0, 3.0])[None, None, None]
    assert priors.given_prior(torch.zeros(1, 2, 1, 3), None, here(2), values, grows=False)[0, 0, 0].tolist() == [
        1,
        2,
        3,
    ]
    mask = torch.tensor([[False, True, True]])
    left = here(2, p=torch.tensor([5.0, 6.0]))
    out = priors.remembered_prior(torch.zeros(1, 2, 1, 3), None, left, "p", mask, grows=False)
    assert out[0, 0, 0].tolist() == [0, 5, 6]
