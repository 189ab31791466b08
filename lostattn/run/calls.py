"""A call of the toolkit written down: the pass that it means as plain data, and how to read what comes back.

Every public call that runs the model is one of these. Written down, it can run here, ride to a server, or wait with
others to be sent as one job; what comes back is read by a :class:`Reading`, which can be stored beside a job and used
by another process.
"""

from __future__ import annotations

import json
from dataclasses import dataclass, field, fields
from typing import Any

import torch

from lostattn.plan.intervention import Intervention
from lostattn.plan.program import Program
from lostattn.prompt.batch import Prompt

# What a pass gives: {"kept": …}, {"kept": …, "logits": …}, or of a generation {"sequences": …, "steps": [kept, …]}.
Raw = dict[str, Any]
Remote = bool | str  # here, NDIF, "local", or a service's URL


@dataclass(frozen=True)
class Reading:
    """How the plain values that a pass gives become what the caller asked for."""

    kind: str  # "cache" | "logits" | "numbers" | "measures" (numbers and logits) | "generation" | "raw"
    names: tuple[str, ...] = ()
    device: str | None = None
    dtype: str | None = None
    n_pos: int = 0
    n_items: int = 0
    ends: tuple[int, ...] = ()  # of a generation: the ids that end it
    interventions: Intervention | None = field(default=None, compare=False)  # what the pass ran under
    edits: tuple[tuple[str, str], ...] = ()  # of what is counted: the part that each edit is of, and its point
    last: tuple[int, ...] = ()  # each item's last real column, where some are padded behind it

    def to_dict(self) -> dict[str, Any]:
        """The reading as JSON-ready data."""
        plain = {one.name: getattr(self, one.name) for one in fields(self)}
        return {**plain, "interventions": None if self.interventions is None else self.interventions.to_dict()}

    @classmethod
    def from_dict(cls, data: dict[str, Any]) -> Reading:
        """The reading that :meth:`to_dict` wrote."""
        told = data["interventions"]
        under = None if told is None else Intervention.from_json(json.dumps(told))
        lists = {name: tuple(data.get(name, ())) for name in ("names", "ends", "last")}
        edits = tuple((label, point) for label, point in data.get("edits", ()))
        return cls(**{**data, **lists, "interventions": under, "edits": edits})


@dataclass(frozen=True)
class Call:
    """One pass: the inputs, the program, and what to bring back."""

    inputs: dict[str, Any]
    program: Program
    reading: Reading
    logits: bool | str = False  # "last": those of each item's last real position
    generation: dict[str, Any] | None = None  # settings of ``generate``; None is a single forward pass
    until: int | None = None  # the step of a generation from which on the program has nothing to do
    remember: bool = False  # leave what was kept to later passes of the session instead of bringing it back
    slope: torch.Tensor | None = None  # a number's gradient at the logits, to be followed back to the pass's probes
    prompt: Prompt | None = field(default=None, compare=False)
    stops: bool = False  # what comes after the program's last event is not run

    def plain(self) -> dict[str, Any]:
        """What rides to a server: dicts, tensors and module-level functions, nothing of a class of this package."""
        return {
            "inputs": self.inputs,
            "program": self.program,
            "logits": torch.tensor(self.reading.last) if self.logits == "last" and self.reading.last else self.logits,
            "generation": self.generation,
            "until": self.until,
            "n_prompt": self.reading.n_pos,
            "remember": self.remember,
            "slope": self.slope,
            "stops": self.stops,
        }
