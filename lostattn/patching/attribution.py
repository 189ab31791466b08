"""Attribution patching: every patch of a sweep estimated at once, from one gradient.

To first order, putting the clean value of a point into the corrupted run changes the metric by
``(clean - corrupted) · gradient``, the gradient being the corrupted run's. From Nanda (2023), "Attribution patching:
activation patching at industrial scale". With ``steps`` the gradient is averaged over runs between the two: runs whose
input goes from the corrupted to the clean one, as in Hanna et al. (2024), "Have faith in faithfulness" (EAP-IG), or
runs in which the point itself does, all else being the corrupted run's: the integrated gradients of Sundararajan et
al. (2017), "Axiomatic attribution for deep networks", on a node inside the model.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from lostattn.arguments import checked_call
from lostattn.cache.activation_cache import ActivationCache
from lostattn.errors import InputError
from lostattn.gradients import gradients
from lostattn.interventions.patch_rows import by_query, layout_of, matched_positions, point_names, row_edit, same_keys
from lostattn.model.lvlm import LVLM
from lostattn.patching.copies import Cell, Metric, Rows, metric_values
from lostattn.patching.sweeps import (
    Some,
    both_runs,
    cells_of,
    groups_of,
    result_row,
    same_number,
    single,
    swept_heads,
)
from lostattn.plan.checks import Layers
from lostattn.plan.intervention import Intervention
from lostattn.plan.program import Edit
from lostattn.plan.setting import Setting
from lostattn.points.names import is_square
from lostattn.prompt.batch import Prompt
from lostattn.run.calls import Remote

if TYPE_CHECKING:
    import pandas


START = "blocks.0.hook_resid_pre"


@checked_call
def attribute(
    model: LVLM,
    clean: Prompt | Any,
    corrupted: Prompt | Any,
    metric: Metric,
    points: str | Sequence[str] = ("resid_pre", "attn_out", "mlp_out"),
    layers: Layers = None,
    positions: str | Sequence[Any] | Mapping[str, Any] = "each",
    heads: Some = None,
    reduce: str = "none",
    steps: int = 0,
    along: str = "input",
    remote: Remote = False,
) -> pandas.DataFrame:
    """Estimate a whole sweep of patches: three forward passes and one backward, however many cells it has.

    Args:
        model: the model.
        clean: the prompts whose values are put in, as in :func:`lostattn.patching.sweep`.
        corrupted: those that they are put into.
        metric: as there; it must be differentiable.
        points: which points.
        layers: which layers.
        positions: ``"each"``, or token groups.
        heads: ``"each"``, some, ``{layer: heads}``, or None.
        reduce: ``"mean"`` for groups of unequal size.
        steps: 0 takes the gradient of the corrupted run; ``n`` averages it over ``n`` runs that go from the corrupted
            to the clean one in equal steps (one forward and one backward pass each).
        along: what goes that way, where there are steps. ``"input"``: the first stream, once for all cells.
            ``"node"``: each point in each layer by itself, at all its positions and heads (``steps`` passes for each
            of them). Its cells then add up to what patching the whole point does.
        remote: as in :func:`lostattn.gradients.gradients`.

    Returns:
        The table of :func:`lostattn.patching.sweep`, with the estimated effect and the value that it would lead to.

    When it is weak: where the metric is far from linear between the two values (saturated attention, large patches of
    early streams). Check what matters with :func:`lostattn.patching.sweep`.

    Raises:
        InputError: as :func:`lostattn.patching.sweep`; ``steps`` below 0, or above 0 for prompts of unequal layout;
            another word for ``along``.
    """
    import pandas as pd

    clean, corrupted = single(model._prompted(clean)), single(model._prompted(corrupted))
    same_number(clean, corrupted)
    if not isinstance(steps, int) or steps < 0:
        raise InputError(f"steps is {steps!r}; expected 0, or the number of runs to average over.")
    if along not in ("input", "node"):
        raise InputError(f"along is {along!r}; expected 'input' or 'node'.")
    asked = [points] if isinstance(points, str) else list(points)
    heads, layers = swept_heads(heads, layers)
    names = [(point, name) for point in asked for name in point_names(model.sites, point, layers)]
    cells = list(cells_of(model, names, groups_of(clean, corrupted, positions, reduce), heads))
    wanted = list(dict.fromkeys(name for _, name in names))
    kept = [*wanted, START] if steps and along == "input" else wanted
    (clean_logits, source), (corrupted_logits, base) = both_runs(model, clean, kept, corrupted, kept, remote)
    ends = metric_values(metric, clean_logits), metric_values(metric, corrupted_logits)
    slopes = _Slopes(model, clean, corrupted, metric, source, base, remote).of(wanted, steps, along)
    values = Rows(clean, corrupted, source, base, reduce)
    rows = []
    for cell in cells:
        shares = [_effect(cell, values, slopes[cell.name], b) for b in range(len(corrupted))]
        effect = torch.tensor(shares, dtype=torch.float64)
        if len(ends[1]) != len(effect):  # one number for all items: each adds its own share
            effect = effect.sum(0, keepdim=True)
        rows += [
            result_row(cell, i, ends, float(ends[1][i] + effect[i]), float(effect[i]), len(clean))
            for i in range(len(effect))
        ]
    table = pd.DataFrame(rows)
    table.attrs.update(model=model.name, clean=list(clean.ids), corrupted=list(corrupted.ids), steps=steps, along=along)
    return table


def _effect(cell: Cell, values: Rows, slope: Tensor, item: int) -> float:
    """``(clean - corrupted) · gradient`` over the rows and heads of a cell."""
    places, new, old = values.of(cell, item)
    change = new.double() - old.double()
    change = torch.where(new == old, torch.zeros_like(change), change)  # scores that no row may see: inf less inf
    product = change * slope[item, places].double()
    return float(product.sum() if cell.heads is None else product[:, list(cell.heads)].sum())


@dataclass(frozen=True, eq=False, repr=False)
class _Between(Intervention):
    """An edit that is compiled already: a point part of the way from one run to another."""

    edit: Edit

    def compile(self, setting: Setting) -> list[Edit]:
        """The edit itself."""
        return [self.edit]


@dataclass(frozen=True, eq=False)
class _Slopes:
    """Gradients at points of the corrupted run, or averaged over runs between it and the clean one."""

    model: LVLM
    clean: Prompt
    corrupted: Prompt
    metric: Metric
    source: ActivationCache
    base: ActivationCache
    remote: Remote

    def of(self, names: list[str], steps: int, along: str) -> dict[str, Tensor]:
        """The gradient at each point, positions on the second axis."""
        if not steps:
            return self._at(names, None)
        alphas = [(i + 0.5) / steps for i in range(steps)]  # midpoints: exact where the gradient is linear in between
        totals: dict[str, Tensor] = {}
        for moved, read in [(START, names)] if along == "input" else [(name, [name]) for name in names]:
            for alpha in alphas:
                for name, slope in self._at(read, self._between(moved, alpha)).items():
                    totals[name] = totals[name] + slope / steps if name in totals else slope / steps
        return totals

    def _at(self, names: list[str], edit: Intervention | None) -> dict[str, Tensor]:
        found = gradients(self.model, self.corrupted, self.metric, names, edit, self.remote)
        return {name: by_query(name, found[name]) for name in names}

    def _between(self, name: str, alpha: float) -> Intervention:
        """A point ``alpha`` of the way from the corrupted to the clean run, token by token."""
        new, old = by_query(name, self.source[name]), by_query(name, self.base[name])
        here, there = layout_of(self.corrupted.token_map), layout_of(self.clean.token_map)
        if is_square(name):
            same_keys(there, here, name)
        a, b = self.clean.token_map.real.cpu(), self.corrupted.token_map.real.cpu()
        items, places, values = [], [], []
        for i in range(len(self.corrupted)):
            come, go = matched_positions(there[i], a[i], here[i], b[i], "all")
            items.append(torch.full_like(go, i))
            places.append(go)
            first, last = old[i, go], new[i, come]
            # Scores that no row may see are -inf in both, and their difference is no number.
            values.append(torch.where(first == last, first, first + alpha * (last - first)))
        at, where, rows = torch.cat(items), torch.cat(places), torch.cat(values)
        return _Between(row_edit(name, b, at, where, rows, None, None))
