"""What a pass is to do: edits, taps and reductions; what an intervention is, and what it is compiled against."""

from __future__ import annotations

from lostattn.plan.intervention import Composition, Intervention
from lostattn.plan.program import Edit, Reduction
from lostattn.plan.setting import Setting

__all__ = ["Composition", "Edit", "Intervention", "Reduction", "Setting"]
