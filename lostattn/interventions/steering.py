"""Steering: a vector added to the stream."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from torch import Tensor

from lostattn.arguments import checked_call
from lostattn.errors import InputError
from lostattn.kernels.edits import add_vector
from lostattn.plan.checks import Layers, Steps, checked_layers, checked_number, checked_steps, choice, finite, normalise
from lostattn.plan.intervention import Intervention
from lostattn.plan.program import Edit
from lostattn.plan.setting import Setting

POINTS = ("resid_pre", "resid_mid", "resid_post", "attn_out", "mlp_out", "between", "cross_attn_out", "resid_mid_cross")


@checked_call
@dataclass(frozen=True, eq=False, repr=False)
class Steer(Intervention):
    """Add ``scale * vector`` at some positions: to the stream, or to what an update adds to it.

    Where: at ``point`` of each of ``layers``, at the prefill and at every decoding step (``steps``); generated tokens
    are steered where ``positions`` reaches them (``"all"``, ``"last"``, ``"text"``).

    Assumes that the vector means the same at every layer it is added to; one per layer comes of
    :func:`lostattn.means.difference_of_means` and its ``.steer()``. When it is weak: a vector much longer than the
    stream overwhelms it, and one added to the whole image moves hundreds of positions at once.

    Attributes:
        vector: ``[d_model]``.
        layers: which layers; there is no default, as one layer is what is usually meant.
        scale: what the vector is multiplied by; negative steers away.
        positions: which positions.
        point: ``resid_pre``, ``resid_mid``, ``resid_post``, ``attn_out``, ``mlp_out`` or ``between``; with
            cross-attention beside self-attention also ``cross_attn_out`` and ``resid_mid_cross``.
        steps: ``"all"``, ``"prefill"``, ``"decode"`` or ``(first, end)``.
    """

    vector: Tensor
    layers: Layers
    scale: float | int = 1.0
    positions: Any = "all"
    point: str = "resid_post"
    steps: Steps = "all"

    def __post_init__(self) -> None:
        vector = finite("Steer(vector)", self.vector).detach().cpu()
        if vector.dim() != 1:
            raise InputError(f"Steer(vector) has shape {tuple(vector.shape)}; expected [d_model].")
        choice("point", self.point, POINTS)
        scale = checked_number("scale", self.scale, float("-inf"), float("inf"), "a finite number")
        normalise(self, vector=vector, layers=checked_layers(self.layers), scale=scale)
        normalise(self, steps=checked_steps(self.steps))

    def compile(self, setting: Setting) -> list[Edit]:
        """One edit for each layer."""
        d_model = setting.sites.architecture.stack.d_model
        if len(self.vector) != d_model:
            raise InputError(f"Steer(vector) has {len(self.vector)} values; this model's stream has {d_model}.")
        positions = setting.positions(self.positions)
        params = {"vector": self.vector, "scale": self.scale, "positions": positions}
        steps = checked_steps(self.steps)
        point = f"hook_{self.point}"
        return [Edit(f"blocks.{i}.{point}", add_vector, params, steps) for i in setting.layers(self.layers, point)]
