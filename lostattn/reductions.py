"""Metrics as reductions: what :meth:`LVLM.measure` turns into numbers inside the pass."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, replace
from typing import Any

from torch import Tensor

from lostattn.arguments import checked_call
from lostattn.kernels.reduce import layer_updates, of_point, one_update, parallel_updates
from lostattn.metrics._checks import check_convention, check_tol
from lostattn.metrics.mixing import mixing_settings
from lostattn.plan.program import Reduction
from lostattn.points.hooked_model import HookedModel
from lostattn.points.names import get_act_name
from lostattn.points.stream_updates import StreamUpdate, find_update, is_difference
from lostattn.prompt.batch import Prompt


@checked_call
@dataclass(frozen=True)
class Remembered:
    """A hook point of an earlier pass, by its canonical name; see :meth:`lostattn.remote.Session.remember`."""

    name: str


@checked_call
@dataclass(frozen=True)
class Sum:
    """A state that no point holds: a sum of others, each times a number."""

    terms: tuple[tuple[str | Remembered, float], ...]


State = str | Tensor | Remembered | Sum


@checked_call
def update_metrics(
    model: HookedModel,
    prompt: Prompt,
    layers: Iterable[int] | None = None,
    convention: str = "paper",
    tol: float | None = None,
) -> list[Reduction]:
    """ΔS, ΔD (column and row), RID and MixIG of the updates of each layer, and of what is added between layers.

    The reduction of layer ``i`` is called ``"updates.{i}"`` and gives ``{metric: Float[Tensor, "2 batch"]}``,
    attention first; ``[3, batch]`` where cross-attention stands between attention and FFN (:func:`updates_of`). Where
    something is added after the layer (deepstack), ``"between.{i}"`` gives
    ``{metric: Float[Tensor, "batch"]}``, judged against what the layer ends with. In parallel blocks both updates are
    judged against the layer's input, which is what both of them read, under either convention. See
    :func:`lostattn.metrics.stream_metrics` for convention and tolerance.

    Raises:
        InputError: a layer whose attention and FFN cannot be told apart.
    """
    settings = _settings(prompt, convention, tol)
    chosen = range(model.cfg.n_layers) if layers is None else layers
    reductions = []
    for i in chosen:
        attn, mlp = (find_update(model.sites, kind, i) for kind in ("attn", "mlp"))
        added = find_update(model.sites, "between", i)
        assert attn is not None and mlp is not None
        if is_difference(attn):
            (mid, _), (pre, _), (post, _), (crossed, _) = *attn.terms, *mlp.terms
            params = {"pre": pre, "mid": mid, "post": post, **settings, "layer_input": convention == "released"}
            if added is not None:
                params["passes_on"] = False
            if crossed != mid:
                params["crossed"] = crossed
            needs = tuple(dict.fromkeys((pre, mid, crossed, post)))
            reductions.append(Reduction(f"updates.{i}", needs, layer_updates, params))
        else:
            states = [alone(attn), alone(mlp)]
            params = {"pre": f"blocks.{i}.hook_resid_pre", "states": [_plain(state) for state in states], **settings}
            needs = tuple(dict.fromkeys((params["pre"], *(name for state in states for name in _needs(state)))))
            params["frees"] = [name for name in needs if added is None or name not in added.needs]
            reductions.append(Reduction(f"updates.{i}", needs, parallel_updates, params))
        if added is not None:
            (after, _), (before, _) = added.terms
            reductions.append(between(prompt, f"between.{i}", before, after, convention, tol))
    return reductions


@checked_call
def updates_of(numbers: Tensor) -> tuple[str, ...]:
    """Which updates of a layer ``[update, batch]`` numbers are of, in order."""
    return ("attn", "cross_attn", "mlp") if len(numbers) == 3 else ("attn", "mlp")


@checked_call
def alone(update: StreamUpdate) -> Sum:
    """The stream that a layer is given, with one of its updates alone added to it."""
    pre = f"blocks.{update.layer}.hook_resid_pre"
    terms = {pre: 1.0}
    for name, times in update.terms:
        terms[name] = terms.get(name, 0.0) + times
    return Sum(tuple((name, times) for name, times in terms.items() if times))


@checked_call
@dataclass(frozen=True, eq=False)
class InPass:
    """Numbers made inside the passes over a data set: one of the metrics of :meth:`lostattn.LVLM.measure`.

    Attributes:
        make: ``(model, prompt) -> [Reduction]``, for each batch.
        read: ``(column, {reduction: what it gave}) -> {column: Tensor [batch]}``.
        frees: its reductions let the points go that they have read, so they come after all others, and once.
    """

    make: Callable[[HookedModel, Prompt], list[Reduction]]
    read: Callable[[str, Mapping[str, Any]], dict[str, Tensor]]
    frees: bool = False


@checked_call
def updates(layers: Iterable[int] | None = None, convention: str = "paper", tol: float | None = None) -> InPass:
    """The metrics of every update, as :func:`update_metrics`: columns ``rid.attn.3``, ``mixig.mlp.0``, ….

    Cross-attention that stands between the two has its own: ``rid.cross_attn.3``. What is added after a layer
    and before the next has columns of its own too: ``rid.between.0``.
    """
    chosen = None if layers is None else list(layers)
    check_convention(convention)
    check_tol(tol)

    def make(model: HookedModel, prompt: Prompt) -> list[Reduction]:
        return update_metrics(model, prompt, chosen, convention, tol)

    def read(column: str, found: Mapping[str, Any]) -> dict[str, Tensor]:
        out: dict[str, Tensor] = {}
        for name, numbers in found.items():
            what, _, layer = name.rpartition(".")
            for metric, value in numbers.items():
                if what == "between":
                    out[f"{metric}.between.{layer}"] = value
                    continue
                out |= {f"{metric}.{update}.{layer}": value[i] for i, update in enumerate(updates_of(value))}
        return out

    return InPass(make, read, frees=True)


@checked_call
def at(point: str, function: Callable[..., Tensor], layers: Iterable[int] | int | None = None) -> InPass:
    """A function of a hook point, layer by layer: ``function(value [batch, pos, …], mask=[batch, pos]) -> [batch]``.

    Args:
        point: in shorthand (``"resid_post"``) or as a full name.
        function: a metric such as ``la.metrics.effective_rank``; with ``remote=`` a plain function of tensors, which is
            sent as source. The mask says which positions are real. It may also give ``[batch, k]``.
        layers: which layers, for a point in shorthand (None: all).

    The columns are ``{column}.{layer}``, or the column's own name for a full name; ``.{j}`` is added for ``k`` numbers.
    """
    asked = [layers] if isinstance(layers, int) else None if layers is None else list(layers)

    def make(model: HookedModel, prompt: Prompt) -> list[Reduction]:
        n = model.cfg.n_layers
        if "." in point or point.startswith("hook_"):
            places = {"": model.sites.find(point)}
        else:
            chosen = range(n) if asked is None else asked
            places = {f".{i % n if i < 0 else i}": model.sites.find(get_act_name(point, i)) for i in chosen}
        mask = prompt.token_map["all"]
        params = {"function": function, "mask": mask, "free": False}
        return [Reduction(f"at{i}", (name,), of_point, {"name": name, **params}) for i, name in places.items()]

    def read(column: str, found: Mapping[str, Any]) -> dict[str, Tensor]:
        out: dict[str, Tensor] = {}
        for name, value in found.items():
            own = f"{column}{name.removeprefix('at')}"
            if value.dim() == 1:
                out[own] = value
            else:
                out |= {f"{own}.{j}": part for j, part in enumerate(value.unbind(-1))}
        return out

    return InPass(make, read)


@checked_call
def let_go(reductions: list[Reduction]) -> list[Reduction]:
    """The same, each point being let go by the function of it that comes last, where nothing else reads it."""
    last = {need: reduction for reduction in reductions for need in reduction.needs}
    return [
        replace(r, params={**r.params, "free": True}) if r.kernel is of_point and last[r.needs[0]] is r else r
        for r in reductions
    ]


@checked_call
def between(
    prompt: Prompt,
    name: str,
    before: State,
    after: State,
    convention: str = "paper",
    tol: float | None = None,
) -> Reduction:
    """The metrics of one update, between two states.

    A state is a hook point of this pass, a tensor, a point that an earlier pass of the same session remembers
    (:class:`Remembered`), which stays where the model is, or a :class:`Sum` of points.
    """
    needs = tuple(dict.fromkeys(name for state in (before, after) for name in _needs(state)))
    params = {"before": _plain(before), "after": _plain(after), **_settings(prompt, convention, tol)}
    return Reduction(name, needs, one_update, params)


def _needs(state: State) -> list[str]:
    """The points of this pass that a state is made of."""
    if isinstance(state, Sum):
        return [name for part, _ in state.terms for name in _needs(part)]
    return [state] if isinstance(state, str) else []


def _plain(state: State) -> Any:
    if isinstance(state, Sum):
        return {"sum": [(_plain(part), times) for part, times in state.terms]}
    return {"remembered": state.name} if isinstance(state, Remembered) else state


def _settings(prompt: Prompt, convention: str, tol: float | None) -> dict[str, Any]:
    check_convention(convention)
    check_tol(tol)
    return {"mask": prompt.token_map["all"], "tol": tol, "mixing": tuple(mixing_settings(convention, None, None, None))}
