"""One hook point inside an open nnsight trace."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from lostattn.arguments import checked_call
from lostattn.errors import InputError
from lostattn.kernels.walker import output_tensor, undo_view, view_of, with_tensor
from lostattn.points.hooked_model import HookedModel
from lostattn.points.names import get_act_name
from lostattn.points.sites import Slot, View, of_mid


@checked_call
@dataclass(eq=False)
class Point:
    """A module's input or output under its hook name; read and write it in forward order, inside ``model.trace``."""

    name: str
    slot: Slot
    view: View
    envoy: Any

    @classmethod
    def of(cls, model: HookedModel, name: str, layer: int | None) -> Point:
        """The point of a name.

        Raises:
            UnknownName: nothing answers to the name.
            InputError: it is no module's input or output (patterns, per-head results, norm statistics).
        """
        key = model.sites.find(get_act_name(name, layer))
        if key not in model.sites.at or model.sites.slots[model.sites.at[key]].kind != "tensor":
            raise InputError(
                f"{key!r} is no module's input or output, so a trace cannot hand it out as one. "
                "Use run_with_cache to read it and run_with_hooks to edit it."
            )
        slot = model.sites.slots[model.sites.at[key]]
        if slot.views[key][0] == "between":
            raise InputError(
                f"{key!r} is a difference of two values of the pass: what comes after the layer less what it gives. "
                "Use run_with_cache to read it and run_with_hooks to edit it."
            )
        return cls(key, slot, slot.views[key], model.nn.get(slot.served))

    @property
    def value(self) -> Any:
        """The value in the shape that the hook name promises."""
        raw = self.envoy.input if self.slot.port == "input" else output_tensor(self.envoy.output)
        return view_of(raw, self.view)

    @value.setter
    def value(self, new: Any) -> None:
        if of_mid(self.name) and self.slot.port == "input":
            raise InputError(f"{self.name!r} is read here but written elsewhere; edit it with run_with_hooks.")
        if self.slot.port == "input":
            self.envoy.input = undo_view(self.envoy.input, self.view, new)
        else:
            raw = self.envoy.output
            self.envoy.output = with_tensor(raw, undo_view(output_tensor(raw), self.view, new))
