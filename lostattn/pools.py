"""Pools of activations for resample ablation: rows drawn evenly from a data set in one streaming pass, kept on disk.

Every chosen position of the data set is given a random number that depends on its item and the seed alone, and the rows
with the smallest numbers are the pool. So it is an even sample without replacement, the same whatever the batches, and
no more than its rows is ever held.
"""

from __future__ import annotations

import os
from collections.abc import Iterable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from lostattn.arguments import checked_call
from lostattn.cache.activation_cache import Key
from lostattn.errors import InputError, UnknownName, nearest
from lostattn.files import write_tensors
from lostattn.interventions.ablation import POINTS, Ablate
from lostattn.kernels.workbench import take_rows
from lostattn.means import averaged_points
from lostattn.model.lvlm import LVLM
from lostattn.plan.checks import Layers
from lostattn.plan.heads import Heads, checked_heads
from lostattn.plan.intervention import Composition, Intervention
from lostattn.plan.program import Reduction
from lostattn.plan.setting import stable_seed
from lostattn.points.names import get_act_name
from lostattn.prompt.batch import Prompt
from lostattn.run.batches import prompts_of
from lostattn.run.calls import Remote
from lostattn.saved.reading import told_where
from lostattn.saved.shape import COUNT
from lostattn.saved.tensors import read_tensors, require_tensors

FORMAT = "lostattn.Pool/1"


@checked_call
@dataclass(frozen=True, eq=False, repr=False)
class Pool:
    """Rows of points, drawn from the chosen positions of a data set.

    Attributes:
        rows: by canonical name: ``[row, d_model]``, or ``[row, head, d_head]``, as the model computed them. Row ``i``
            is the same token of the same item at every point.
        count: how many positions they were drawn from.
        meta: model, positions, seed, number of items.
    """

    rows: dict[str, Tensor]
    count: int
    meta: dict[str, Any] = field(default_factory=dict)

    def __getitem__(self, key: Key) -> Tensor:
        """The rows of a point, by its full name or in shorthand: ``pool["z", 3]``."""
        name = key if isinstance(key, str) else get_act_name(*key)
        if name not in self.rows:
            raise UnknownName(f"no rows of {name!r} were collected.{nearest(name, self.rows)}")
        return self.rows[name]

    def __len__(self) -> int:
        return len(next(iter(self.rows.values())))

    def __repr__(self) -> str:
        names = list(self.rows)
        return (
            f"Pool of {len(self)} rows of {len(names)} points, from {self.count} positions: {', '.join(names[:3])}, …"
        )

    def ablate(
        self,
        what: str,
        layers: Iterable[int] | int,
        heads: Heads = None,
        positions: Any = "all",
        to: str = "resample",
        seed: int = 0,
    ) -> Intervention:
        """Resample ablation from these rows (or, with ``to="mean"``, their mean): each layer from its own.

        Raises:
            InputError: another word than ``"attn"``, ``"mlp"``, ``"head"``, ``"resid"``, or ``to="zero"``.
            UnknownName: the rows of that point were not collected.
        """
        if what not in POINTS:
            raise InputError(f"what is {what!r}; expected one of {', '.join(map(repr, POINTS))}.")
        asked = [layers] if isinstance(layers, int) else list(layers)
        own, _ = checked_heads(heads, asked)
        some = own if isinstance(own, dict) else dict.fromkeys(asked, own)
        parts = [
            Ablate(
                what,
                i,
                some[i],
                positions,
                to=to,
                reference=self[f"blocks.{i}.{POINTS[what]}"],
                seed=seed,
            )
            for i in asked
        ]
        return Composition(tuple(parts))

    def save(self, path: str | os.PathLike[str]) -> Path:
        """Write the pool to a safetensors file, whole or not at all."""
        return write_tensors(path, self.rows, {"format": FORMAT, "count": self.count, "meta": self.meta})

    @classmethod
    def load(cls, path: str | os.PathLike[str]) -> Pool:
        """Read what :meth:`save` wrote.

        Raises:
            InputError: no such file, one of another kind, or half of one.
        """
        tensors, held = read_tensors(path, FORMAT, "a pool", {"count": COUNT, "meta": dict})
        with told_where(path, "pool"):
            if not tensors:
                raise InputError("it has no rows of any point.")
            n_rows = min((value.shape[0] for value in tensors.values() if value.dim()), default=0)
            for name, value in tensors.items():
                require_tensors({name: value}, {name: ((n_rows, *value.shape[1:]), "real")})
        return cls(tensors, held["count"], held["meta"])


@checked_call
def collect_pool(
    model: LVLM,
    data: Iterable[Any],
    points: str | Iterable[str] = ("attn_out", "mlp_out", "z"),
    layers: Layers = None,
    positions: Any = "all",
    size: int = 256,
    seed: int = 0,
    batch_size: int = 32,
    interventions: Intervention | None = None,
    remote: Remote = False,
    progress: bool = False,
) -> Pool:
    """Draw rows of points from the chosen positions of every item, in one pass over the data.

    Args:
        model: the model.
        data: questions (or whatever ``model.prompt`` takes a list of), a generator of them, or a prompt of several.
        points: which points, in shorthand or as full names.
        layers: which layers, for points in shorthand (None: all).
        positions: which positions of each prompt: ``"all"``, ``"image"``, ``"last"``, …
        size: how many rows to keep; all where there are fewer.
        seed: of the draw.
        batch_size: questions a pass.
        interventions: run with them.
        remote: as in :meth:`lostattn.LVLM.run_with_cache`; what comes back are rows that may stay.
        progress: show a bar.

    Raises:
        InputError: no data, no rows asked for, a point that does not go by position, or positions that no item has.
    """
    if size < 1:
        raise InputError(f"size is {size}; expected at least one row.")
    names = averaged_points(model, points, layers)
    rows: dict[str, Tensor] = {}
    lots = torch.empty(0, dtype=torch.float64)
    count = items = 0
    for prompt in prompts_of(model, data, batch_size, "drawing from", progress):
        mask = prompt.token_map.resolve(positions, need=True).cpu()
        drawn = _lots(prompt, mask, seed)
        count, items = count + int(mask.sum()), items + len(prompt)
        # Only rows that may stay are brought here: those among the batch's and the pool's smallest lots.
        bound = torch.cat([lots, drawn[mask]]).sort().values[:size][-1]
        mask &= drawn <= bound
        reductions = [Reduction(name, (name,), take_rows, {"name": name, "mask": mask}) for name in names]
        together = torch.cat([lots, drawn[mask]])
        stay = together.argsort(stable=True)[:size]
        for name, found in model.measure(prompt, reductions, interventions, remote).items():
            both = torch.cat([rows[name], found.cpu()]) if name in rows else found.cpu()
            rows[name] = both[stay]
        lots = together[stay]
    meta = {"model": model.name, "items": items, "positions": repr(positions), "seed": seed}
    return Pool(rows, count, meta)


def _lots(prompt: Prompt, mask: Bool[Tensor, "batch pos"], seed: int) -> Float[Tensor, "batch pos"]:
    """A number for each chosen position, by its item and its place among the chosen, whatever the padding."""
    lots = torch.ones(mask.shape, dtype=torch.float64)
    for i, item in enumerate(prompt.ids):
        generator = torch.Generator().manual_seed(stable_seed(seed, item, "pool"))
        lots[i, mask[i]] = torch.rand(int(mask[i].sum()), generator=generator, dtype=torch.float64)
    return lots
