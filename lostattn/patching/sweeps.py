"""Sweeps: patch every point of a grid in turn, many patched copies of the prompt a pass, and say what came back."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Any

from torch import Tensor

from lostattn.arguments import checked_call
from lostattn.cache.activation_cache import ActivationCache
from lostattn.errors import InputError
from lostattn.interventions.patch_rows import layout_of, matched_positions, n_heads_of, point_names
from lostattn.model.lvlm import LVLM
from lostattn.patching.copies import Cell, Group, Metric, Rows, Runner, metric_values
from lostattn.plan.checks import Layers
from lostattn.plan.heads import check_layers_held, checked_heads, heads_of
from lostattn.points.names import split_block
from lostattn.prompt.batch import Prompt
from lostattn.remote.session import Session
from lostattn.run.calls import Remote

if TYPE_CHECKING:
    import pandas

    Run = tuple[Tensor, ActivationCache]

Some = str | Sequence[int] | Mapping[int, Any] | None
"""``"each"``, some heads, ``{layer: heads}``, or None for all together."""


@checked_call
def sweep(
    model: LVLM,
    clean: Prompt | Any,
    corrupted: Prompt | Any,
    metric: Metric,
    points: str | Sequence[str] = ("resid_pre", "attn_out", "mlp_out"),
    layers: Layers = None,
    positions: str | Sequence[Any] | Mapping[str, Any] = "each",
    heads: Some = None,
    reduce: str = "none",
    batch_size: int = 32,
    progress: bool = False,
    remote: Remote = False,
) -> pandas.DataFrame:
    """Put the clean run's value of one point after another into the corrupted run, and measure what that brings back.

    Both prompts carry the processor's inputs whole, so the corrupted one may differ in its picture alone.

    Args:
        model: the model.
        clean: the prompt (or pairs of prompts: a batch) whose values are put in.
        corrupted: the one that they are put into; as many items.
        metric: ``logits [item, pos, d_vocab] -> [item]`` or one number, such as
            ``lambda logits: la.answers.logit_difference(logits, right, wrong)``.
        points: which points, in shorthand: ``resid_pre``, ``resid_mid``, ``resid_post``, ``attn_out``, ``mlp_out``,
            ``q``, ``k``, ``v``, ``z``, ``pattern``, … (``z`` before the output map: what heads read).
        layers: which layers (None: all).
        positions: ``"each"`` (every position of its own; both prompts must have one layout), or token groups, each
            patched as one: ``["image", "question", "last"]``, or ``{name: positions}``.
        heads: ``"each"``, some, or None for all heads of a point together; ``{layer: heads}``, each layer's own and
            no other layer. Of ``k`` and ``v``: key/value heads.
        reduce: ``"mean"`` patches a group's average, for groups of unequal size; see :class:`Patch`.
        batch_size: copies of the prompt a pass.
        progress: show a bar.
        remote: as in :meth:`lostattn.LVLM.run_with_cache`.

    Returns:
        One row a point, layer, head, choice of positions and item: ``point, layer, head, positions, token, item, clean,
        corrupted, value, effect, normalised, touched``. ``head`` is -1 where all are patched; ``item`` is -1 where the
        metric gives one number for all; ``effect`` is the patched value less the corrupted one (exactly 0 where nothing
        changed); ``normalised`` is the effect as a share of ``clean - corrupted``: 1 restores the clean run;
        ``touched`` is how many cells the patch changed (rows, or weights of a pattern), 0 where it acted nowhere, since
        both runs hold the same there.

    Raises:
        InputError: prompts of unequal numbers of items; prompts of unequal layout patched position by position (the
            message names the token groups); a point, layer or head that is not there; a metric of another shape.
    """
    import pandas as pd

    clean, corrupted = single(model._prompted(clean)), single(model._prompted(corrupted))
    same_number(clean, corrupted)
    if batch_size < 1:
        raise InputError(f"batch_size is {batch_size}; expected at least 1.")
    asked = [points] if isinstance(points, str) else list(points)
    heads, layers = swept_heads(heads, layers)
    names = [(point, name) for point in asked for name in point_names(model.sites, point, layers)]
    groups = groups_of(clean, corrupted, positions, reduce)
    settings = list(cells_of(model, names, groups, heads))
    wanted = [name for _, name in names]
    (clean_logits, source), (corrupted_logits, base) = both_runs(model, clean, wanted, corrupted, wanted, remote)
    ends = metric_values(metric, clean_logits), metric_values(metric, corrupted_logits)
    n = min(max(1, batch_size // len(clean)), len(settings))
    runner = Runner(model, corrupted, metric, Rows(clean, corrupted, source, base, reduce), n, remote)
    rows: list[dict[str, Any]] = []
    for setting, value, effect, touched in runner.run(settings, progress):
        cells = touched if len(value) == len(touched) else [sum(touched)]
        for i, changed in enumerate(cells):
            row = result_row(setting, i, ends, float(value[i]), float(effect[i]), len(clean))
            rows.append({**row, "touched": changed})
    table = pd.DataFrame(rows)
    table.attrs.update(model=model.name, clean=list(clean.ids), corrupted=list(corrupted.ids))
    return table


def both_runs(
    model: LVLM, clean: Prompt, kept: Sequence[str], corrupted: Prompt, kept_too: Sequence[str], remote: Remote
) -> tuple[Run, Run]:
    """Logits and cache of the clean run and of the corrupted one, as one job where they run somewhere else."""
    with Session(model, remote) as session:
        runs = session.run_with_cache(clean, kept), session.run_with_cache(corrupted, kept_too)
    return runs[0].result(), runs[1].result()


def result_row(
    cell: Cell, item: int, ends: tuple[Tensor, Tensor], value: float, effect: float, n_items: int
) -> dict[str, Any]:
    """A row of the table; ``ends`` are the metric of the clean and of the corrupted run."""
    whole = float(ends[0][item]), float(ends[1][item])
    span = whole[0] - whole[1]
    return {
        "point": cell.point,
        "layer": cell.layer,
        "head": cell.head,
        "positions": cell.group.label,
        "token": cell.group.token,
        "item": item if len(ends[0]) > 1 or n_items == 1 else -1,
        "clean": whole[0],
        "corrupted": whole[1],
        "value": value,
        "effect": effect,
        "normalised": effect / span if span else float("nan"),
    }


def same_number(clean: Prompt, corrupted: Prompt) -> None:
    """Refuse prompts of unequal numbers of items."""
    if len(clean) != len(corrupted):
        raise InputError(f"clean holds {len(clean)} items, corrupted {len(corrupted)}; give one corrupted for each.")


def swept_heads(heads: Some, layers: Layers) -> tuple[Some, Layers]:
    """The heads of a sweep and the layers that they are of: ``{layer: heads}`` names its layers itself."""
    return checked_heads(heads, layers) if isinstance(heads, Mapping) else (heads, layers)


def cells_of(model: LVLM, names: list[tuple[str, str]], groups: list[Group], heads: Some) -> Iterator[Cell]:
    """Every cell of the sweep, point by point in the order asked for."""
    if not groups:
        raise InputError("positions is empty; name at least one group, or 'each'.")
    blocks = model.sites.architecture.stack.blocks
    places = [split_block(name) for _, name in names]
    check_layers_held(heads, [place[1] for place in places if place is not None], len(blocks))
    for point, name in names:
        n = n_heads_of(model.sites, name)
        inside = split_block(name)
        layer = -1 if inside is None else inside[1]
        some = heads_of(heads, layer, len(blocks)) if isinstance(heads, Mapping) else heads
        if some is None or n is None:
            if some is not None and not isinstance(some, str):
                raise InputError(f"heads is {heads!r}, but {name!r} has no heads; sweep its points by themselves.")
            singles: list[int] = [-1]
        else:
            singles = list(range(n)) if some == "each" else _checked_heads(some, n, name)
        for head in singles:
            for group in groups:
                yield Cell(point, name, layer, head, None if head < 0 else (head,), group)


def _checked_heads(heads: str | Sequence[int], n: int, name: str) -> list[int]:
    if isinstance(heads, str | Mapping) or not heads or any(not 0 <= h < n for h in heads):
        raise InputError(f"heads is {heads!r}; expected 'each', None, or some of 0 to {n - 1}, the heads of {name!r}.")
    return list(heads)


def groups_of(clean: Prompt, corrupted: Prompt, positions: Any, reduce: str) -> list[Group]:
    """The choices of positions, each checked against both prompts."""
    if reduce not in ("none", "mean"):
        raise InputError(f"reduce is {reduce!r}; expected 'none' or 'mean'.")
    a, b = clean.token_map, corrupted.token_map
    if isinstance(positions, str) and positions == "each":
        return _each(clean, corrupted)
    named = positions if isinstance(positions, Mapping) else {_label(p): p for p in _listed(positions)}
    groups = []
    for label, spec in named.items():
        group = Group(label, "", spec, a.resolve(spec, need=True).cpu(), b.resolve(spec, need=True).cpu())
        for i in range(len(clean)):
            matched_positions(layout_of(a)[i], group.source[i], layout_of(b)[i], group.target[i], spec, reduce)
        groups.append(group)
    return groups


def _each(clean: Prompt, corrupted: Prompt) -> list[Group]:
    """Every real position; the same in all items."""
    a, b = clean.token_map, corrupted.token_map
    layout, real = layout_of(a)[0], a.real[0].cpu()
    for other in (a, b):
        for i in range(len(clean)):
            matched_positions(layout, real, layout_of(other)[i], other.real[i].cpu(), "each")
    tokens = [t for t, real in zip(corrupted.str_tokens[0], b.real[0].tolist(), strict=True) if real]
    return [Group(i, tokens[i], i, a.resolve(i).cpu(), b.resolve(i).cpu()) for i in range(len(tokens))]


def _listed(positions: Any) -> list[Any]:
    return list(positions) if isinstance(positions, list | tuple) else [positions]


def _label(spec: Any) -> str | int:
    return spec if isinstance(spec, str | int) else str(spec)


def single(prompt: Prompt) -> Prompt:
    """The prompt without padding that no item needs, as its copies will be."""
    return prompt[list(range(len(prompt)))]
