"""What the projector reads: the tower's stream, early or late."""

from __future__ import annotations

from dataclasses import dataclass

from lostattn.arguments import checked_call
from lostattn.errors import InputError
from lostattn.kernels.workbench import put_last_rows
from lostattn.plan.intervention import Intervention
from lostattn.plan.program import Edit
from lostattn.plan.setting import Setting


@checked_call
@dataclass(frozen=True, eq=False, repr=False)
class EarlyProjection(Intervention):
    """Let the projector read the tower's stream after an earlier layer, as if the later ones were not there.

    Where: at ``vision_projector.hook_in``. Assumes that the tower's stream means something to the projector before its
    last layer; when it is weak: the projector never saw such streams in training, and a norm that the tower applies
    at its end is skipped.
    """

    layer: int

    def __post_init__(self) -> None:
        if not isinstance(self.layer, int) or isinstance(self.layer, bool):
            raise InputError(f"layer is {self.layer!r}; expected a layer of the vision tower.")

    def compile(self, setting: Setting) -> list[Edit]:
        """One edit of what the projector reads."""
        vision = setting.sites.architecture.vision
        n = 0 if vision is None else vision.n_read
        if vision is None or not -n <= self.layer < n:
            raise InputError(f"layer is {self.layer}; the decoder depends on vision layers 0 to {n - 1}.")
        name = f"{vision.stack.prefix}.{self.layer % n}.hook_resid_post"
        return [Edit("vision_projector.hook_in", put_last_rows, {"name": name}, (0, 1), needs=(name,))]
