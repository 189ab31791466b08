"""Means of activations over a data set, collected in one streaming pass, kept on disk, and used to ablate and steer.

Each batch comes back from its pass as a sum and a count, so memory does not grow with the number of questions.
"""

from __future__ import annotations

import os
from collections.abc import Iterable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from torch import Tensor

from lostattn.arguments import checked_call
from lostattn.cache.activation_cache import Key
from lostattn.errors import InputError, UnknownName, nearest
from lostattn.files import write_tensors
from lostattn.interventions.ablation import POINTS, Ablate
from lostattn.interventions.patch_rows import point_names
from lostattn.interventions.steering import POINTS as STEERED
from lostattn.interventions.steering import Steer
from lostattn.kernels.workbench import sum_rows
from lostattn.model.lvlm import LVLM
from lostattn.plan.checks import Layers
from lostattn.plan.heads import Heads, checked_heads
from lostattn.plan.intervention import Composition, Intervention
from lostattn.plan.program import Reduction
from lostattn.points.names import get_act_name, split_block
from lostattn.run.batches import prompts_of
from lostattn.run.calls import Remote
from lostattn.saved.reading import told_where
from lostattn.saved.shape import COUNT
from lostattn.saved.tensors import read_tensors, require_tensors

FORMAT = "lostattn.Means/1"


@checked_call
@dataclass(frozen=True, eq=False, repr=False)
class Means:
    """The mean and variance of points over the chosen positions of a data set.

    Attributes:
        mean: by canonical name, without item and position: ``[d_model]``, or ``[head, d_head]``; float32.
        variance: the population variance, in the same shapes.
        count: how many positions were averaged.
        meta: model, positions, number of items.
    """

    mean: dict[str, Tensor]
    variance: dict[str, Tensor]
    count: int
    meta: dict[str, Any] = field(default_factory=dict)

    def __getitem__(self, key: Key) -> Tensor:
        """The mean of a point, by its full name or in shorthand: ``means["z", 3]``."""
        name = key if isinstance(key, str) else get_act_name(*key)
        if name not in self.mean:
            raise UnknownName(f"no mean of {name!r} was collected.{nearest(name, self.mean)}")
        return self.mean[name]

    def __repr__(self) -> str:
        names = list(self.mean)
        return f"Means of {len(names)} points over {self.count} positions: {', '.join(names[:3])}, …"

    def ablate(
        self, what: str, layers: Iterable[int] | int, heads: Heads = None, positions: Any = "all"
    ) -> Intervention:
        """Mean ablation with these means: :class:`~lostattn.Ablate` of each layer with its own.

        Raises:
            InputError: another word than ``"attn"``, ``"mlp"``, ``"head"``, ``"resid"``.
            UnknownName: the mean of that point was not collected.
        """
        if what not in POINTS:
            raise InputError(f"what is {what!r}; expected one of {', '.join(map(repr, POINTS))}.")
        asked = [layers] if isinstance(layers, int) else list(layers)
        own, _ = checked_heads(heads, asked)
        some = own if isinstance(own, dict) else dict.fromkeys(asked, own)
        return Composition(
            tuple(
                Ablate(
                    what,
                    i,
                    some[i],
                    positions,
                    to="mean",
                    reference=self[f"blocks.{i}.{POINTS[what]}"][None],
                )
                for i in asked
            )
        )

    def save(self, path: str | os.PathLike[str]) -> Path:
        """Write the means to a safetensors file, whole or not at all."""
        kinds = {"mean": self.mean, "variance": self.variance}
        tensors = {f"{kind}/{name}": value for kind, own in kinds.items() for name, value in own.items()}
        return write_tensors(path, tensors, {"format": FORMAT, "count": self.count, "meta": self.meta})

    @classmethod
    def load(cls, path: str | os.PathLike[str]) -> Means:
        """Read what :meth:`save` wrote.

        Raises:
            InputError: no such file, one of another kind, or half of one.
        """
        tensors, held = read_tensors(path, FORMAT, "means", {"count": COUNT, "meta": dict})
        points = [name.removeprefix("mean/") for name in tensors if name.startswith("mean/")]
        with told_where(path, "means"):
            for point in points:
                shape = tuple(tensors[f"mean/{point}"].shape)
                require_tensors(tensors, {f"{kind}/{point}": (shape, "real") for kind in ("mean", "variance")})
            if not points or len(tensors) != 2 * len(points):
                raise InputError(f"it has {len(tensors)} tensors; expected a mean and a variance of each point.")
        mean, variance = ({point: tensors[f"{kind}/{point}"] for point in points} for kind in ("mean", "variance"))
        return cls(mean, variance, held["count"], held["meta"])


@checked_call
@dataclass(frozen=True, eq=False, repr=False)
class Directions:
    """Differences of means, one vector a point: ``vectors[name]`` is ``[d_model]``."""

    vectors: dict[str, Tensor]
    counts: tuple[int, int]

    def __repr__(self) -> str:
        return f"Directions at {len(self.vectors)} points, from {self.counts[0]} and {self.counts[1]} positions"

    def steer(
        self, layers: Iterable[int] | int, scale: float | int = 1.0, positions: Any = "all", steps: Any = "all"
    ) -> Intervention:
        """Add each layer's own vector to it.

        Raises:
            UnknownName: a layer that no vector was made for.
        """
        asked = [layers] if isinstance(layers, int) else list(layers)
        parts = []
        for i in asked:
            inside = [n for n in self.vectors if (place := split_block(n)) is not None and place[1] == i]
            if not inside:
                raise UnknownName(f"no direction was made for layer {i}; there are {list(self.vectors)}.")
            parts += [Steer(self.vectors[n], i, scale, positions, n.rpartition("hook_")[2], steps) for n in inside]
        return Composition(tuple(parts))


@checked_call
def collect_means(
    model: LVLM,
    data: Iterable[Any],
    points: str | Iterable[str] = ("attn_out", "mlp_out", "z", "resid_post"),
    layers: Layers = None,
    positions: Any = "all",
    batch_size: int = 32,
    interventions: Intervention | None = None,
    remote: Remote = False,
    progress: bool = False,
) -> Means:
    """The mean of points over the chosen positions of every item, in one pass over the data.

    Args:
        model: the model.
        data: questions (or whatever ``model.prompt`` takes a list of), a generator of them, or a prompt of several.
        points: which points, in shorthand or as full names.
        layers: which layers, for points in shorthand (None: all).
        positions: which positions of each prompt: ``"all"``, ``"image"``, ``"last"``, …
        batch_size: questions a pass.
        interventions: run with them.
        remote: as in :meth:`lostattn.LVLM.run_with_cache`; what comes back are sums.
        progress: show a bar.

    Raises:
        InputError: no data, a point that does not go by position, or positions that no item has.
    """
    names = averaged_points(model, points, layers)
    totals: dict[str, dict[str, Tensor]] = {}
    items = 0
    for prompt in prompts_of(model, data, batch_size, "averaging", progress):
        items += len(prompt)
        mask = prompt.token_map.resolve(positions, need=True)
        reductions = [Reduction(name, (name,), sum_rows, {"name": name, "mask": mask}) for name in names]
        for name, found in model.measure(prompt, reductions, interventions, remote).items():
            own = totals.setdefault(name, {})
            for what, value in found.items():
                own[what] = own[what] + value.cpu() if what in own else value.cpu()
    count = int(totals[names[0]]["count"])
    mean = {name: total["sum"] / count for name, total in totals.items()}
    variance = {name: (totals[name]["squares"] / count - mean[name] ** 2).clamp_min(0) for name in totals}
    meta = {"model": model.name, "items": items, "positions": repr(positions)}
    return Means({n: v.float() for n, v in mean.items()}, {n: v.float() for n, v in variance.items()}, count, meta)


@checked_call
def averaged_points(model: LVLM, points: str | Iterable[str], layers: Layers) -> list[str]:
    """The canonical names of points that a row of a position can be taken of.

    Raises:
        InputError: a point outside the decoder, or one that is made from others.
    """
    names = list(dict.fromkeys(point_names(model.sites, points, layers)))
    derived = [name for name in names if name not in model.sites.at]
    if derived:
        raise InputError(f"{derived[0]!r} is made from other points and has no mean of its own; take 'z' or 'v'.")
    return names


@checked_call
def difference_of_means(
    model: LVLM,
    positive: Iterable[Any],
    negative: Iterable[Any],
    points: str | Iterable[str] = "resid_post",
    layers: Layers = None,
    positions: Any = "last",
    batch_size: int = 32,
    remote: Remote = False,
) -> Directions:
    """The mean over one data set less the mean over another, at each point: the direction from the second to the first.

    Args:
        model: the model.
        positive: questions that have what the direction is to carry.
        negative: questions that lack it.
        points: where; points that can be steered (``resid_pre``, ``resid_mid``, ``resid_post``, ``attn_out``,
            ``mlp_out``).
        layers: which layers (None: all).
        positions: which positions are averaged.
        batch_size: questions a pass.
        remote: as in :func:`collect_means`.

    Raises:
        InputError: as :func:`collect_means`, or a point that cannot be steered.
    """
    asked = [points] if isinstance(points, str) else list(points)
    for point in asked:
        if point.rpartition("hook_")[2] not in STEERED:
            raise InputError(f"{point!r} cannot be steered; expected one of {', '.join(STEERED)}.")
    a, b = (
        collect_means(model, data, asked, layers, positions, batch_size, remote=remote) for data in (positive, negative)
    )
    return Directions({name: a.mean[name] - b.mean[name] for name in a.mean}, (a.count, b.count))
