"""How well attribution patching follows true patching: the figure to have before an estimate is believed."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from lostattn.answers import metric
from lostattn.arguments import checked_call
from lostattn.data.question import Question
from lostattn.errors import InputError
from lostattn.model.lvlm import LVLM
from lostattn.patching.attribution import attribute
from lostattn.patching.sweeps import Some, sweep
from lostattn.plan.checks import Layers
from lostattn.run.batches import bar

if TYPE_CHECKING:
    import pandas


# What an estimate is called, and how it is made.
METHODS: dict[str, dict[str, Any]] = {
    "gradient": {"steps": 0},
    "along the input": {"steps": 5, "along": "input"},
    "along the node": {"steps": 5, "along": "node"},
}


@checked_call
def agreement(
    model: LVLM,
    clean: Sequence[Question],
    corrupted: Sequence[Question],
    points: str | Sequence[str] = ("attn_out", "mlp_out", "z"),
    layers: Layers = None,
    positions: str | Sequence[Any] = ("image", "question", "last"),
    heads: Some = "each",
    kind: str = "logit_difference",
    progress: bool = False,
) -> pandas.DataFrame:
    """Run true sweeps and their estimates on the same pairs, and correlate the effects over the cells of each sweep.

    Args:
        model: the model.
        clean: questions with answers.
        corrupted: the same questions, spoilt: :func:`lostattn.patching.another_scene`, ``corrupt``.
        points: which points; each is correlated by itself.
        layers: which layers.
        positions: token groups.
        heads: ``"each"``, some, ``{layer: heads}``, or None.
        kind: the metric; see :func:`lostattn.answers.metric`.
        progress: show a bar over the pairs.

    Returns:
        One row a pair, point and way of estimating: ``id, corrupted, point, method, cells, correlation, largest,
        error``. ``correlation`` is Pearson's over the cells (NaN where all effects are equal), ``largest`` the largest
        true effect, ``error`` the largest error of an estimate.

    Raises:
        InputError: unequally many questions, or none.
    """
    import numpy as np
    import pandas as pd

    if len(clean) != len(corrupted) or not len(clean):
        raise InputError(f"clean holds {len(clean)} questions, corrupted {len(corrupted)}; give one of each, at least.")
    rows = []
    pairs = list(zip(clean, corrupted, strict=True))
    with bar(len(pairs), "agreement", progress, unit="pair") as shown:
        for one, other in pairs:
            shown.update()
            asked = (model, model.prompt(one), model.prompt(other), metric(model, one, kind))
            cells = (points, layers, positions, heads)
            true = sweep(*asked, *cells)
            for method, how in METHODS.items():
                guess = attribute(*asked, *cells, **how)
                for point, group in true.groupby("point", sort=False):
                    estimate = guess.effect[group.index]
                    varies = group.effect.std() > 0 and estimate.std() > 0
                    rows.append(
                        {
                            "id": one.id,
                            "corrupted": other.id,
                            "point": point,
                            "method": method,
                            "cells": len(group),
                            "correlation": np.corrcoef(group.effect, estimate)[0, 1] if varies else float("nan"),
                            "largest": group.effect.abs().max(),
                            "error": (group.effect - estimate).abs().max(),
                        }
                    )
    table = pd.DataFrame(rows)
    table.attrs.update(model=model.name, kind=kind)
    return table
