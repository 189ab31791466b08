"""Metrics as reductions: what :meth:`LVLM.measure` turns into numbers inside the pass."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from torch import Tensor

from lostattn.kernels.reduce import layer_updates, one_update
from lostattn.metrics._checks import check_convention, check_tol
from lostattn.metrics.mixing import mixing_settings
from lostattn.plan import Reduction

if TYPE_CHECKING:
    from lostattn.model import LVLM
    from lostattn.prompt import Prompt


@dataclass(frozen=True)
class Remembered:
    """A hook point of an earlier pass, by its canonical name; see :meth:`lostattn.remote.Session.remember`."""

    name: str


State = str | Tensor | Remembered


def update_metrics(
    model: LVLM,
    prompt: Prompt,
    layers: Iterable[int] | None = None,
    convention: str = "paper",
    tol: float | None = None,
) -> list[Reduction]:
    """ΔS, ΔD (column and row), RID and MixIG of both updates of each layer.

    The reduction of layer ``i`` is called ``"updates.{i}"`` and gives ``{metric: Float[Tensor, "2 batch"]}``,
    attention first. See :func:`lostattn.metrics.stream_metrics` for convention and tolerance.
    """
    settings = _settings(prompt, convention, tol)
    chosen = range(model.cfg.n_layers) if layers is None else layers
    reductions = []
    for i in chosen:
        names = {
            "pre": f"blocks.{i}.hook_resid_pre",
            "mid": f"blocks.{i}.hook_resid_mid",
            "post": f"blocks.{i}.hook_resid_post",
        }
        params = {**names, **settings, "layer_input": convention == "released"}
        reductions.append(Reduction(f"updates.{i}", tuple(names.values()), layer_updates, params))
    return reductions


def between(
    prompt: Prompt,
    name: str,
    before: State,
    after: State,
    convention: str = "paper",
    tol: float | None = None,
) -> Reduction:
    """The metrics of one update, between two states.

    A state is a hook point of this pass, a tensor, or a point that an earlier pass of the same session remembers
    (:class:`Remembered`), which stays where the model is.
    """
    needs = tuple(state for state in (before, after) if isinstance(state, str))
    params = {"before": _plain(before), "after": _plain(after), **_settings(prompt, convention, tol)}
    return Reduction(name, needs, one_update, params)


def _plain(state: State) -> Any:
    return {"remembered": state.name} if isinstance(state, Remembered) else state


def _settings(prompt: Prompt, convention: str, tol: float | None) -> dict[str, Any]:
    check_convention(convention)
    check_tol(tol)
    return {"mask": prompt.token_map["all"], "tol": tol, "mixing": tuple(mixing_settings(convention, None, None, None))}
