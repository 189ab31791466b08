"""Ablations: take what a component writes away, or put an average or another position's in its place."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from torch import Tensor

from lostattn.errors import InputError
from lostattn.interventions.base import (
    Intervention,
    Layers,
    Steps,
    checked_layers,
    checked_steps,
    choice,
    finite,
)
from lostattn.kernels import edits as kernels
from lostattn.plan import Edit

if TYPE_CHECKING:
    from lostattn.interventions.setting import Setting

POINTS = {"attn": "hook_attn_out", "mlp": "hook_mlp_out", "head": "attn.hook_z", "resid": "hook_resid_post"}


@dataclass(frozen=True, eq=False)
class Ablate(Intervention):
    """Ablate what attention or the FFN adds, what single heads read, or the stream after a layer.

    Where: ``"attn"`` at ``hook_attn_out``, ``"mlp"`` at ``hook_mlp_out``, ``"head"`` at ``attn.hook_z`` (before the
    output map, so under grouped keys each query head stands alone), ``"resid"`` at ``hook_resid_post``.

    ``to``: ``"zero"``; ``"mean"``, the average over the real positions of the same prompt, or over the rows of
    ``reference``; ``"resample"``, the value of another position of the same prompt (or row of ``reference``), drawn
    by ``seed``. At decoding steps mean and resample use the prompt's activations, kept since the prefill.

    When it is weak: zero is off the distribution that later layers expect, and what is lost may be that rather than
    the information; compare with ``"mean"`` and ``"resample"``.
    """

    what: str
    layers: Layers = None
    heads: Layers = None
    positions: Any = "all"
    to: str = "zero"
    reference: Tensor | None = None
    seed: int = 0
    steps: Steps = "all"

    def __post_init__(self) -> None:
        choice("what", self.what, tuple(POINTS))
        choice("to", self.to, ("zero", "mean", "resample"))
        object.__setattr__(self, "layers", checked_layers(self.layers))
        object.__setattr__(self, "heads", checked_layers(self.heads))
        object.__setattr__(self, "steps", checked_steps(self.steps))
        if self.heads is not None and self.what != "head":
            raise InputError(f"heads= goes with Ablate('head', …), not with {self.what!r}.")
        if self.reference is not None:
            finite("Ablate(reference)", self.reference)

    def compile(self, setting: Setting) -> list[Edit]:
        """One edit for each layer."""
        heads = setting.heads(self.heads)
        positions = setting.positions(self.positions)
        out = []
        for i in setting.layers(self.layers):
            name = f"blocks.{i}.{POINTS[self.what]}"
            params = {
                "to": self.to,
                "positions": positions,
                "real": setting.positions("all"),
                "heads": heads,
                "seeds": setting.seeds(self.seed, "resample", i),
                "reference": self.reference,
                "slot": setting.slot(f"ablate.{name}"),
            }
            out.append(Edit(name, kernels.ablate, params, checked_steps(self.steps)))
        return out
