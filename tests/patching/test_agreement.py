"""The figure that says how far an estimate can be believed, against the two tables that it is made from."""

from __future__ import annotations

import bounds
import numpy as np
import pytest

from lostattn import answers, patching
from lostattn.cli import main
from lostattn.errors import InputError

pytestmark = pytest.mark.slow


def test_it_correlates_the_sweep_with_its_estimates(tiny_llava, shapes_questions) -> None:
    clean = list(shapes_questions.only("colour")[:2])
    corrupted = [patching.corrupt(q, "noise", strength=90, seed=1) for q in clean]
    cells = (["z", "mlp_out"], [1, 3], ["image", "last"], "each")
    table = patching.agreement(tiny_llava, clean, corrupted, *cells)
    assert (
        len(table) == 2 * 2 * 3
        and (table.cells == table.point.map({"z": 4 * tiny_llava.cfg.n_heads, "mlp_out": 4})).all()
    )
    one, other = (tiny_llava.prompt(q) for q in (clean[1], corrupted[1]))
    metric = answers.metric(tiny_llava, clean[1])
    true = patching.sweep(tiny_llava, one, other, metric, *cells)
    estimate = patching.attribute(tiny_llava, one, other, metric, *cells, steps=5, along="node")
    heads = true.point == "z"
    row = table[(table.id == clean[1].id) & (table.point == "z") & (table.method == "along the node")]
    expected = np.corrcoef(true.effect[heads], estimate.effect[heads])[0, 1]
    # The same sweep of the same pair, in passes of other sizes: effects are off as logits are.
    logits = tiny_llava(one)[:, -1]
    share = bounds.passes(tiny_llava.hf, one.inputs)
    gap = (true.effect - estimate.effect)[heads].abs().max()
    bounds.close(row.error.item(), gap, 2 * share, size=logits)
    bounds.close(row.largest.item(), true.effect[heads].abs().max(), share, size=logits)
    # A correlation moves by at most twice what its variables move by, as a share of their spread.
    spread = min(true.effect[heads].std(), estimate.effect[heads].std())
    bounds.close(row.correlation.item(), expected, 2 * share, size=logits / spread)
    with pytest.raises(InputError, match="clean holds 2 questions, corrupted 1"):
        patching.agreement(tiny_llava, clean, corrupted[:1])


def test_the_command_writes_what_it_found(tmp_path, capsys, monkeypatch) -> None:
    few = patching.agreement
    monkeypatch.setattr(patching, "agreement", lambda *a, **k: few(*a, points="mlp_out", layers=[2, 3]))
    assert main(["agreement", "tiny-llava", "--n", "1", "--out", str(tmp_path / "a.csv")]) == 0
    said = capsys.readouterr().out
    assert "along the node" in said and "scene" in said and (tmp_path / "a.parquet").is_file()
