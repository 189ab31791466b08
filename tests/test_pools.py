"""Pools drawn in one streaming pass: rows that are really there, the same whatever the batches, and used again."""

from __future__ import annotations

from pathlib import Path

import bounds
import pytest
import torch

from lostattn import Ablate
from lostattn.errors import InputError, UnknownName
from lostattn.pools import Pool, collect_pool

POINTS = ("attn_out", "z")


@pytest.fixture(scope="module")
def share(tiny_qwen, shapes_questions) -> float:
    """How far the rows of a batch may lie from those of passes alone."""
    return bounds.passes(tiny_qwen.hf, tiny_qwen.prompt(shapes_questions[:4]).inputs)


def distances(a: torch.Tensor, b: torch.Tensor) -> torch.Tensor:
    return torch.cdist(a.double(), b.double(), compute_mode="donot_use_mm_for_euclid_dist")


@pytest.fixture(scope="module")
def collected(tiny_qwen, shapes_questions) -> Pool:
    """Forty rows of the image tokens of nine questions, whose pictures are of several sizes."""
    return collect_pool(tiny_qwen, iter(shapes_questions[:9]), POINTS, [1, 4], "image", 40, seed=3, batch_size=4)


def test_rows_are_those_of_single_passes_and_even_over_the_data(
    tiny_qwen, shapes_questions, collected: Pool, share: float
) -> None:
    every: dict[str, list[torch.Tensor]] = {name: [] for name in collected.rows}
    owners = []
    for i, question in enumerate(shapes_questions[:9]):
        prompt = tiny_qwen.prompt(question)
        _, cache = tiny_qwen.run_with_cache(prompt, list(every))
        mask = prompt.token_map["image"]
        owners += [i] * int(mask.sum())
        for name in every:
            every[name].append(cache[name][mask].flatten(1))
    assert collected.count == len(owners) > 2 * len(collected) == 80
    whole = {name: torch.cat(rows) for name, rows in every.items()}
    gaps = distances(collected["attn_out", 4], whole["blocks.4.hook_attn_out"])
    found = gaps.argmin(-1)
    # No row twice: questions that share a scene have equal rows, and no more of them are drawn than there are.
    drawn = collected["attn_out", 4]
    same = (
        share * float(whole["blocks.4.hook_attn_out"].abs().max()) * drawn.shape[-1] ** 0.5
    )  # as far as equal rows are
    assert ((distances(drawn, drawn) < same).sum(-1) <= (gaps < 2 * same).sum(-1)).all()
    for name, rows in whole.items():  # one token at every point
        bounds.close(collected[name].flatten(1), rows[found], share)
    assert len({owners[i] for i in found.tolist()}) >= 6
    assert collected["z", 1].shape == (40, tiny_qwen.cfg.n_heads, tiny_qwen.cfg.d_head)


def test_the_draw_is_the_same_whatever_the_batches(tiny_qwen, shapes_questions, collected: Pool, share) -> None:
    args = (POINTS, [1, 4], "image", 40)
    again = collect_pool(tiny_qwen, shapes_questions[:9], *args, seed=3, batch_size=9)
    for name in collected.rows:
        bounds.close(again[name], collected[name], share)
    other = collect_pool(tiny_qwen, shapes_questions[:9], *args, seed=4, batch_size=9)
    assert bounds.moved(other["z", 1], collected["z", 1], share, times=1e3)
    few = collect_pool(tiny_qwen, shapes_questions[:2], "z", 1, "last", 40)
    assert len(few) == few.count == 2


def test_only_rows_that_may_stay_come_back(tiny_qwen, shapes_questions, monkeypatch: pytest.MonkeyPatch) -> None:
    sizes = []
    measure = tiny_qwen.measure

    def watched(*args, **kwargs):
        found = measure(*args, **kwargs)
        sizes.append(max(len(rows) for rows in found.values()))
        return found

    monkeypatch.setattr(tiny_qwen, "measure", watched)
    collect_pool(tiny_qwen, shapes_questions[:8], "z", 1, "all", 5, batch_size=2)
    assert len(sizes) == 4 and max(sizes) <= 5 and sum(sizes) < 20


def test_a_pool_is_kept_and_used_to_ablate(tiny_qwen, shapes_questions, collected: Pool, tmp_path: Path) -> None:
    back = Pool.load(collected.save(tmp_path / "pool"))
    assert back.count == collected.count and back.meta == collected.meta and len(back) == 40
    prompt = tiny_qwen.prompt(shapes_questions[11])
    edit = back.ablate("attn", [1, 4], positions="image", seed=5) + back.ablate("head", 1, 3, to="mean")
    _, cache = tiny_qwen.run_with_cache(prompt, interventions=edit)
    _, plain = tiny_qwen.run_with_cache(prompt)
    image = prompt.token_map["image"][0]
    for layer in (1, 4):
        rows = cache["attn_out", layer][0]
        assert distances(rows[image], collected["attn_out", layer]).amin(-1).max() == 0
        assert len({tuple(row) for row in rows[image].tolist()}) > 5
    assert distances(cache["attn_out", 4][0][~image], collected["attn_out", 4]).amin(-1).min() > 0
    pool = collected["z", 1][:, 3]
    bounds.close(cache["z", 1][0, :, 3], pool.mean(0).expand(prompt.n_pos, -1), bounds.sums(len(pool)), size=pool)
    assert torch.equal(cache["z", 1][0, :, 2], plain["z", 1][0, :, 2])
    assert edit.parts[0] == Ablate("attn", 1, None, "image", "resample", collected["attn_out", 1], 5)
    with pytest.raises(UnknownName, match="no rows of 'blocks.2.hook_attn_out' were collected"):
        back.ablate("attn", 2)
    with pytest.raises(InputError, match="what is 'neuron'; expected one of"):
        back.ablate("neuron", 1)
    with pytest.raises(InputError, match="size is 0; expected at least one row"):
        collect_pool(tiny_qwen, shapes_questions[:2], size=0)
    with pytest.raises(InputError, match="the data set is empty"):
        collect_pool(tiny_qwen, [])


def test_rows_come_back_from_where_the_model_is(tiny_llava, shapes_questions) -> None:
    here = collect_pool(tiny_llava, shapes_questions[:3], "z", 2, "image", 7, batch_size=2)
    there = collect_pool(tiny_llava, shapes_questions[:3], "z", 2, "image", 7, batch_size=2, remote="local")
    assert torch.equal(there["z", 2], here["z", 2])
