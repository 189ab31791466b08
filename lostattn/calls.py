"""A call of the toolkit written down: the pass that it means as plain data, and how to read what comes back.

Every public call that runs the model is one of these. Written down, it can run here, ride to a server, or wait with
others to be sent as one job; what comes back is read by a :class:`Reading`, which can be stored beside a job and used
by another process.
"""

from __future__ import annotations

import json
import warnings
from collections.abc import Sequence
from dataclasses import dataclass, field, fields
from typing import TYPE_CHECKING, Any

import nnsight
import torch

from lostattn.errors import InputError
from lostattn.interventions.base import Intervention
from lostattn.kernels.passes import leaving, one_pass, one_step

if TYPE_CHECKING:
    from lostattn.cache import ActivationCache
    from lostattn.model import LVLM
    from lostattn.plan import Program
    from lostattn.prompt import Prompt

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

    def read(self, model: LVLM, raw: Raw, prompt: Prompt | None) -> Any:
        """Read it; the prompt is only needed for what a cache tells about positions."""
        if self.kind == "logits":
            return raw["logits"]
        if self.kind == "numbers":
            return raw["kept"]
        if self.kind == "measures":
            return raw["kept"], raw.get("logits")
        if self.kind == "raw":
            return raw
        if self.kind == "generation":
            from lostattn.generation import read_generation

            return read_generation(model, raw, prompt, self)
        from lostattn.cache import ActivationCache

        under = self.interventions
        cache = ActivationCache(raw["kept"], self.names, model.sites, model.hf, prompt, interventions=under)
        return raw["logits"], self.moved(cache)

    def moved(self, cache: ActivationCache) -> ActivationCache:
        """A cache on the device and in the dtype that were asked for."""
        if self.device is None and self.dtype is None:
            return cache
        return cache.to(self.device, getattr(torch, self.dtype) if self.dtype else None)

    def to_dict(self) -> dict[str, Any]:
        """The reading as JSON-ready data."""
        plain = {one.name: getattr(self, one.name) for one in fields(self)}
        return {**plain, "interventions": None if self.interventions is None else self.interventions.to_dict()}

    @classmethod
    def from_dict(cls, data: dict[str, Any]) -> Reading:
        """The reading that :meth:`to_dict` wrote."""
        told = data["interventions"]
        under = None if told is None else Intervention.from_json(json.dumps(told))
        return cls(**{**data, "names": tuple(data["names"]), "ends": tuple(data["ends"]), "interventions": under})


@dataclass(frozen=True)
class Call:
    """One pass: the inputs, the program, and what to bring back."""

    inputs: dict[str, Any]
    program: Program
    reading: Reading
    logits: bool | str = False  # "last": those of the last position
    generation: dict[str, Any] | None = None  # settings of ``generate``; None is a single forward pass
    until: int | None = None  # the step of a generation from which on the program has nothing to do
    remember: bool = False  # leave what was kept to later passes of the session instead of bringing it back
    slope: torch.Tensor | None = None  # a number's gradient at the logits, to be followed back to the pass's probes
    prompt: Prompt | None = field(default=None, compare=False)

    def plain(self) -> dict[str, Any]:
        """What rides to a server: dicts, tensors and module-level functions, nothing of a class of this package."""
        return {
            "inputs": self.inputs,
            "program": self.program,
            "logits": self.logits,
            "generation": self.generation,
            "until": self.until,
            "n_prompt": self.reading.n_pos,
            "remember": self.remember,
            "slope": self.slope,
        }


def carry_out(model: LVLM, call: Call, remote: Remote = False) -> Any:
    """Run a call here or on a server, and read what it gives.

    Raises:
        InputError: ``remote`` is nothing of the kind, or the model has no weights here and was to run here.
    """
    if remote is False:
        check_weights(model)
        return call.reading.read(model, run_here(model.nn, call.plain()), call.prompt)
    from lostattn.remote.session import run_there

    return call.reading.read(model, run_there(model, [call], remote)[0], call.prompt)


def check_weights(model: LVLM) -> None:
    """Refuse to run a model here that is only described.

    Raises:
        InputError: with what to do instead.
    """
    if model.is_described_only:
        raise InputError(
            f"{model.name!r} is described without its weights, so nothing can run here: pass remote=True, "
            "or load it with its weights: la.load(id)."
        )


def run_here(root: Any, call: dict[str, Any], session: dict[str, Any] | None = None) -> Raw:
    """Run one plain call on the model in this process."""
    with warnings.catch_warnings(), torch.no_grad():
        # The open loop over steps ends by design when the model stops producing them.
        warnings.filterwarnings("ignore", message=".*was never reached.*")
        if call["generation"] is None:
            return open_forward(root, call, {} if session is None else session)
        if not call["program"]:  # nothing to see or to change: the model's own generate gives the same, and at no cost
            return {"sequences": root._module.generate(**call["inputs"], **call["generation"]), "steps": []}
        return open_generation(root, call)


def open_forward(root: Any, call: dict[str, Any], session: dict[str, Any], backend: Any = None) -> Any:
    """One forward pass as one trace. What it gives, or ``None`` where the backend brings that back some other way."""
    sent = None
    program, logits, slope = call["program"], call["logits"], call["slope"]
    travels = backend is not None
    with root.trace(call["inputs"], use_cache=False, backend=backend) as tracer:
        found = one_pass(root, tracer, program, logits, session, slope)
        sent = nnsight.save(leaving(found) if travels else found)
    return sent


def open_generation(root: Any, call: dict[str, Any], backend: Any = None) -> Any:
    """One generation as one trace: the program runs at the prompt's pass and at each step after it."""
    sent = None
    program, until = call["program"], call["until"]
    travels = backend is not None
    memory: dict[str, Any] = {"session": {}, "steps": [], "n_prompt": call["n_prompt"]}
    with root.generate(**call["generation"], backend=backend) as tracer:
        if program:
            with tracer.invoke(call["inputs"]):
                for step in tracer.iter[:until]:
                    one_step(root, tracer, program, memory, step)
            with tracer.invoke():
                found = {"sequences": tracer.result, "steps": memory["steps"]}
                sent = nnsight.save(leaving(found) if travels else found)
        else:
            with tracer.invoke(call["inputs"]):
                sent = nnsight.save({"sequences": tracer.result, "steps": []})
    return sent


def open_session(root: Any, calls: Sequence[dict[str, Any]], backend: Any) -> Any:
    """Several passes as one job, which shares what its passes remember; what each gives, in order."""
    sent = None
    with root.session(backend=backend):
        sent = nnsight.save([])
        session = {}  # type: ignore[var-annotated]
        for call in calls:
            program, logits = call["program"], call["logits"]
            if call["generation"] is None:
                with root.trace(call["inputs"], use_cache=False) as tracer:
                    found = one_pass(root, tracer, program, logits, session)
            else:
                memory = {"session": session, "steps": [], "n_prompt": call["n_prompt"]}
                until = call["until"]
                with root.generate(**call["generation"]) as tracer:
                    if program:
                        with tracer.invoke(call["inputs"]):
                            for step in tracer.iter[:until]:
                                one_step(root, tracer, program, memory, step)
                        with tracer.invoke():
                            found = {"sequences": tracer.result, "steps": memory["steps"]}
                    else:
                        with tracer.invoke(call["inputs"]):
                            found = {"sequences": tracer.result, "steps": []}
            if call["remember"]:
                session.update(found["kept"])
                found = {}
            sent.append(leaving(found))
    return sent
