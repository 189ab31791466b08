"""Attention without its rotary positions."""

from __future__ import annotations

from dataclasses import dataclass

from lostattn.arguments import checked_call
from lostattn.kernels.edits import put_held
from lostattn.plan.checks import Layers, checked_layers
from lostattn.plan.intervention import Intervention
from lostattn.plan.program import Edit
from lostattn.plan.setting import Setting


@checked_call
@dataclass(frozen=True, eq=False, repr=False)
class RemoveRotary(Intervention):
    """Attention that does not know positions: queries and keys go to the kernel as they were before rotation.

    Where: ``attn.hook_rot_q`` and ``attn.hook_rot_k`` take the values of ``attn.hook_q`` and ``attn.hook_k``, at the
    prompt's pass. What it assumes: that rotation is all that happens to q and k in between (a norm of q and k in
    between is undone with it). The causal mask still tells order in coarse steps.
    """

    layers: Layers = None

    def __post_init__(self) -> None:
        object.__setattr__(self, "layers", checked_layers(self.layers))

    def compile(self, setting: Setting) -> list[Edit]:
        """Two edits for each layer, of q and of k.

        Raises:
            UnknownName: a layer whose queries and keys before rotation are no point, with the reason.
        """
        out = []
        for i in setting.layers(self.layers, "attn.hook_rot_q"):
            for letter in "qk":
                raw = setting.sites.find(f"blocks.{i}.attn.hook_{letter}")
                name = f"blocks.{i}.attn.hook_rot_{letter}"
                out.append(Edit(name, put_held, {"name": raw}, steps=(0, 1), needs=(raw,)))
        return out
