"""Activation patching: what one prompt computed, put into the pass of another."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from lostattn.arguments import check_fields, checked_call
from lostattn.cache.activation_cache import ActivationCache
from lostattn.errors import InputError
from lostattn.interventions.patch_rows import (
    by_query,
    head_mask,
    layout_of,
    matched_positions,
    point_names,
    row_edit,
    same_keys,
)
from lostattn.plan.checks import Layers, choice, normalise
from lostattn.plan.heads import Heads, check_layers_held, checked_heads
from lostattn.plan.intervention import Intervention
from lostattn.plan.program import Edit
from lostattn.plan.setting import Setting
from lostattn.points.names import is_square, split_block

REDUCTIONS = ("none", "mean")


@checked_call
@dataclass(frozen=True, eq=False, repr=False)
class Patch(Intervention):
    """Put what another pass computed into this one: ``Patch.of(clean_cache, "resid_pre", layers=3)``.

    Where: at any decoder point that can be edited, at the prefill; generated tokens are never patched.

    Tokens are matched in order: the first chosen position of the source goes to the first chosen position of the
    target. What is matched must be of one kind (system, image k, question, …), so that a patch of two prompts of
    unequal layout is refused rather than laid beside its place. Token groups (``positions="image"``, ``"question"``,
    ``"last"``) can be patched wherever both prompts have equally many of them, and with ``reduce="mean"`` always: the
    group's average then stands at each of its tokens.

    Attributes:
        values: by canonical name, the rows of the chosen positions, those of all items end to end: ``[row, …]``
            (scores and patterns: ``[row, head, key]``).
        layout: what each position of the source prompt is, ``[batch, pos]``; see :func:`layout_of`.
        chosen: which positions of the source the rows are, ``[batch, pos]``.
        positions: where they go.
        heads: which heads (None: all), or ``{layer: heads}``. Of ``k`` and ``v`` these are key/value heads.
        reduce: ``"none"``, or ``"mean"`` over the chosen positions.

    When it is weak: a patched value meets a stream that it was not computed with; what it restores may lean on what was
    not patched.
    """

    values: dict[str, Tensor]
    layout: Tensor
    chosen: Tensor
    positions: Any = "all"
    heads: Heads = None
    reduce: str = "none"

    def __post_init__(self) -> None:
        check_fields(self, "values", "layout", "chosen")
        choice("reduce", self.reduce, REDUCTIONS)
        normalise(self, heads=checked_heads(self.heads)[0])
        rows = int(torch.as_tensor(self.chosen).sum())
        if not self.values or any(len(value) != rows for value in self.values.values()):
            raise InputError(f"Patch holds no values, or not {rows} rows of each; make one with Patch.of(cache, …).")

    @classmethod
    def of(
        cls,
        cache: ActivationCache,
        points: str | Iterable[str],
        layers: Layers = None,
        positions: Any = "all",
        heads: Heads = None,
        reduce: str = "none",
    ) -> Patch:
        """Take values out of a cache.

        Args:
            cache: of the source (the clean run).
            points: one or several, in shorthand (``"resid_pre"``, ``"z"``, ``"pattern"``; then with ``layers``) or as
                full names.
            layers: which layers, for points in shorthand (None: all).
            positions: which positions; for scores and patterns, which queries.
            heads: which heads; ``{layer: heads}`` names the layers of points in shorthand too.
            reduce: see the class.

        Raises:
            InputError: a cache that knows no prompt, or a point that cannot be patched by position.
        """
        if cache.prompt is None or not cache.has_batch_dim:
            raise InputError("a patch is taken of a cache that has its batch axis and knows its prompt.")
        names = point_names(cache._sites, points, checked_heads(heads, layers)[1])
        token_map = cache.prompt.token_map
        chosen = token_map.resolve(positions, need=True).cpu()
        rows = {name: by_query(name, cache[name]).detach().cpu()[chosen] for name in names}
        return cls(rows, layout_of(token_map), chosen, positions, heads, reduce)

    def compile(self, setting: Setting) -> list[Edit]:
        """One edit for each point."""
        target = setting.prompt.token_map
        mask = setting.each(setting.named.token_map.resolve(self.positions, need=True)).cpu()
        n_source, n_target = len(self.chosen), len(setting.named)
        if n_source not in (1, n_target):
            raise InputError(f"the patch is of {n_source} items, the prompt of {n_target}; patch one, or as many.")
        one = n_source == 1
        counts = self.chosen.sum(-1).tolist()
        starts = [sum(counts[:i]) for i in range(n_source)]
        places, rows, items = [], [], []
        for b in range(len(mask)):
            a = 0 if one else b // setting.copies
            source, at = matched_positions(
                self.layout[a], self.chosen[a], layout_of(target)[b], mask[b], self.positions, self.reduce
            )
            places.append(at)
            # ``source`` counts positions; the rows kept are those of the chosen ones alone.
            rank = self.chosen[a].cumsum(0) - 1
            rows.append(starts[a] + rank[source])
            items.append(torch.full_like(at, b))
        flat_items, flat_places, flat_rows = torch.cat(items), torch.cat(places), torch.cat(rows)
        blocks = [split_block(name) for name in self.values]
        held = [place[1] for place in blocks if place is not None]
        check_layers_held(self.heads, held, len(setting.sites.architecture.stack.blocks))
        out = []
        for name, values in self.values.items():
            if is_square(name):
                same_keys(self.layout if one else setting.each(self.layout), layout_of(target), name)
            new = self._reduced(values, counts)[flat_rows]
            heads = head_mask(setting.sites, name, self.heads, len(new))
            out.append(row_edit(name, mask, flat_items, flat_places, new, None, heads))
        return out

    def _reduced(self, values: Tensor, counts: list[int]) -> Tensor:
        if self.reduce == "none":
            return values
        return torch.cat([part.float().mean(0, keepdim=True).expand_as(part).to(part) for part in values.split(counts)])
