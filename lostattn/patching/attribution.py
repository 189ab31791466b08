"""Attribution patching: every patch of a sweep estimated at once, from one gradient.

To first order, putting the clean value of a point into the corrupted run changes the metric by
``(clean - corrupted) · gradient``, the gradient being the corrupted run's. From Nanda (2023), "Attribution patching:
activation patching at industrial scale". With ``steps`` the gradient is averaged over runs whose input goes from the
corrupted to the clean one, as in Hanna et al. (2024), "Have faith in faithfulness" (EAP-IG).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from lostattn.errors import InputError
from lostattn.gradients import gradients
from lostattn.interventions.base import Intervention, Layers
from lostattn.interventions.patch_rows import by_query, matched, point_names, row_edit
from lostattn.patching.copies import Cell, Metric, Rows, measured
from lostattn.patching.sweeps import cells_of, groups_of, result_row, same_number, single
from lostattn.plan import Edit

if TYPE_CHECKING:
    import pandas

    from lostattn.cache import ActivationCache
    from lostattn.interventions.setting import Setting
    from lostattn.model import LVLM
    from lostattn.prompt import Prompt

START = "blocks.0.hook_resid_pre"


def attribute(
    model: LVLM,
    clean: Prompt | Any,
    corrupted: Prompt | Any,
    metric: Metric,
    points: str | Sequence[str] = ("resid_pre", "attn_out", "mlp_out"),
    layers: Layers = None,
    positions: str | Sequence[Any] | Mapping[str, Any] = "each",
    heads: str | Sequence[int] | None = None,
    reduce: str = "none",
    steps: int = 0,
) -> pandas.DataFrame:
    """Estimate a whole sweep of patches: two forward passes and one backward, however many cells it has.

    Args:
        model: the model, with its weights here.
        clean: the prompts whose values are put in, as in :func:`lostattn.patching.sweep`.
        corrupted: those that they are put into.
        metric: as there; it must be differentiable.
        points: which points.
        layers: which layers.
        positions: ``"each"``, or token groups.
        heads: ``"each"``, some, or None.
        reduce: ``"mean"`` for groups of unequal size.
        steps: 0 takes the gradient of the corrupted run; ``n`` averages it over ``n`` runs whose first stream goes from
            the corrupted to the clean one in equal steps (one forward and one backward pass each).

    Returns:
        The table of :func:`lostattn.patching.sweep`, with the estimated effect and the value that it would lead to.

    When it is weak: where the metric is far from linear between the two values (saturated attention, large patches of
    early streams). Check what matters with :func:`lostattn.patching.sweep`.

    Raises:
        InputError: as :func:`lostattn.patching.sweep`; ``steps`` below 0, or above 0 for prompts of unequal layout.
    """
    import pandas as pd

    clean, corrupted = single(model._prompted(clean)), single(model._prompted(corrupted))
    same_number(clean, corrupted)
    if not isinstance(steps, int) or steps < 0:
        raise InputError(f"steps is {steps!r}; expected 0, or the number of runs to average over.")
    asked = [points] if isinstance(points, str) else list(points)
    names = [(point, name) for point in asked for name in point_names(model.sites, point, layers)]
    cells = list(cells_of(model, names, groups_of(clean, corrupted, positions, reduce), heads))
    wanted = list(dict.fromkeys(name for _, name in names))
    kept = [*wanted, START] if steps else wanted
    clean_logits, source = model.run_with_cache(clean, kept)
    corrupted_logits, base = model.run_with_cache(corrupted, kept)
    ends = measured(metric, clean_logits), measured(metric, corrupted_logits)
    slopes = _slopes(model, clean, corrupted, metric, wanted, steps, source, base)
    values = Rows(clean, corrupted, source, base, reduce)
    rows = []
    for cell in cells:
        effect = torch.tensor([_effect(cell, values, slopes[cell.name], b) for b in range(len(corrupted))])
        if len(ends[1]) != len(effect):  # one number for all items: each adds its own share
            effect = effect.sum(0, keepdim=True)
        rows += [
            result_row(cell, i, ends, float(ends[1][i] + effect[i]), float(effect[i]), len(clean))
            for i in range(len(effect))
        ]
    table = pd.DataFrame(rows)
    table.attrs.update(model=model.name, clean=list(clean.ids), corrupted=list(corrupted.ids), steps=steps)
    return table


def _effect(cell: Cell, values: Rows, slope: Tensor, item: int) -> float:
    """``(clean - corrupted) · gradient`` over the rows and heads of a cell."""
    places, new, old = values.of(cell, item)
    change = new.double() - old.double()
    change = torch.where(new == old, torch.zeros_like(change), change)  # scores that no row may see: inf less inf
    product = change * slope[item, places].double()
    return float(product.sum() if cell.heads is None else product[:, list(cell.heads)].sum())


def _slopes(
    model: LVLM,
    clean: Prompt,
    corrupted: Prompt,
    metric: Metric,
    names: list[str],
    steps: int,
    source: ActivationCache,
    base: ActivationCache,
) -> dict[str, Tensor]:
    """The gradient at each point, positions on the second axis; averaged over the runs where there are several."""
    if not steps:
        found = gradients(model, corrupted, metric, names)
        return {name: by_query(name, found[name]) for name in names}
    alphas = [(i + 0.5) / steps for i in range(steps)]  # midpoints: exact where the gradient is linear in between
    totals: dict[str, Tensor] = {}
    for alpha in alphas:
        found = gradients(model, corrupted, metric, names, _between(clean, corrupted, source, base, alpha))
        for name in names:
            slope = by_query(name, found[name]) / steps
            totals[name] = totals[name] + slope if name in totals else slope
    return totals


@dataclass(frozen=True, eq=False, repr=False)
class _Start(Intervention):
    """An edit that is compiled already: the first stream part of the way from one run to another."""

    edit: Edit

    def compile(self, setting: Setting) -> list[Edit]:
        """The edit itself."""
        return [self.edit]


def _between(
    clean: Prompt, corrupted: Prompt, source: ActivationCache, base: ActivationCache, alpha: float
) -> Intervention:
    """The first stream ``alpha`` of the way from the corrupted to the clean one, token by token."""
    from lostattn.interventions.patch_rows import layout_of

    new, old = source[START], base[START]
    a, b = clean.token_map.real.cpu(), corrupted.token_map.real.cpu()
    items, places, values = [], [], []
    for i in range(len(corrupted)):
        come, go = matched(layout_of(clean.token_map)[i], a[i], layout_of(corrupted.token_map)[i], b[i], "all")
        items.append(torch.full_like(go, i))
        places.append(go)
        values.append(old[i, go] + alpha * (new[i, come] - old[i, go]))
    at, where, rows = torch.cat(items), torch.cat(places), torch.cat(values)
    return _Start(row_edit(START, b, at, where, rows, None, None))
