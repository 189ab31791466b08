"""Some of a set: whole groups, balanced as the set is, by seed."""

from __future__ import annotations

import random
from collections import Counter
from pathlib import Path

import pytest
from benchmark_files import write_parquet

from lostattn import data
from lostattn.data import scoring
from lostattn.data.public.drawing import draw
from lostattn.errors import InputError


@pytest.mark.parametrize("seed", range(40))
def test_groups_are_whole_and_no_more_than_asked_for(seed: int) -> None:
    rng = random.Random(seed)
    sizes = [(rng.randint(1, 6), rng.choice("abc")) for _ in range(rng.randint(1, 30))]
    groups = [str(g) for g, (size, _) in enumerate(sizes) for _ in range(size)]
    kinds = [kind for size, kind in sizes for _ in range(size)]
    n = rng.randint(min(size for size, _ in sizes), len(groups))
    drawn = draw(groups, kinds, n, seed)
    assert drawn == sorted(set(drawn)) and drawn == draw(groups, kinds, n, seed)
    taken = Counter(groups[i] for i in drawn)
    assert all(count == sizes[int(group)][0] for group, count in taken.items())
    assert len(drawn) <= n
    room = n - len(drawn)
    assert all(size > room for g, (size, _) in enumerate(sizes) if str(g) not in taken), "what fits is taken"


def test_single_questions_are_drawn_exactly_and_in_proportion() -> None:
    kinds = ["a"] * 50 + ["b"] * 30 + ["c"] * 20
    drawn = draw([str(i) for i in range(100)], kinds, 10, seed=3)
    assert Counter(kinds[i] for i in drawn) == {"a": 5, "b": 3, "c": 2}
    assert drawn != draw([str(i) for i in range(100)], kinds, 10, seed=4)


def test_every_group_is_drawn_sometimes() -> None:
    groups, kinds = [str(i // 2) for i in range(20)], ["k"] * 20
    met = {groups[i] for seed in range(60) for i in draw(groups, kinds, 4, seed)}
    assert met == set(groups)


def test_pictures_of_pope_are_drawn_whole(tmp_path: Path) -> None:
    path = write_parquet("pope", "all", tmp_path)
    drawn = data.load("pope", split="random", n=14, seed=1, path=path)
    assert len(drawn) == 12 and set(Counter(q.cluster for q in drawn).values()) == {6}
    assert Counter(q.answer for q in drawn) == {"yes": 6, "no": 6}
    assert drawn == data.load("pope", split="random", n=14, seed=1, path=path)
    seeds = {tuple(q.id for q in data.load("pope", split="random", n=6, seed=s, path=path)) for s in range(12)}
    assert len(seeds) > 1
    every = data.load("pope", split="all", n=36, seed=0, path=path)
    assert Counter(q.kind for q in every) == {"adversarial": 12, "popular": 12, "random": 12}
    with pytest.raises(InputError, match="5 questions were asked for, and 6 are drawn together"):
        data.load("pope", split="random", n=5, path=path)
    with pytest.raises(InputError, match="there are 24 such questions; 25 were asked for"):
        data.load("pope", split="random", n=25, path=path)


def test_sets_that_must_be_right_together_stay_whole(tmp_path: Path) -> None:
    path = write_parquet("3dsrbench", "flip_circular", tmp_path)
    for seed in range(4):
        drawn = data.load("3dsrbench", split="flip_circular", n=13, seed=seed, path=path)
        assert len(drawn) == 12, "8 + 4, or 4 + 4 + 4"
        oracle = scoring.scores(drawn, [q.answer for q in drawn])
        assert oracle.query("score == 'flip_circular' and part == 'all'")["value"].item() == 1.0
    with pytest.raises(InputError, match="score whole sets"):
        scoring.scores(drawn[1:], [q.answer for q in drawn[1:]])


def test_kinds_are_chosen_before_the_draw(tmp_path: Path) -> None:
    path = write_parquet("vmcbench", "dev", tmp_path)
    drawn = data.load("vmcbench", split="dev", n=2, kinds=["ChartQA"], path=path)
    assert [q.kind for q in drawn] == ["ChartQA"] * 2
    with pytest.raises(InputError, match="has no questions of kind 'PieQA' there; it has SEEDBench"):
        data.load("vmcbench", split="dev", n=1, kinds=["PieQA"], path=path)
