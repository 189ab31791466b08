"""Running a call on the model in this process: a forward pass, a generation, or several passes as one session."""

from __future__ import annotations

import re
import warnings
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, nullcontext
from typing import Any

import nnsight
import torch
from nnsight.tracing.backend import Backend
from torch import Tensor

from lostattn.errors import InputError
from lostattn.kernels.passes import compact_result, generated, one_pass, one_step
from lostattn.kernels.touched import noted_in
from lostattn.plan.program import Edit
from lostattn.points.hooked_model import HookedModel
from lostattn.prompt.batch import Prompt
from lostattn.run.calls import Raw, Reading
from lostattn.run.hook_errors import hook_errors
from lostattn.run.make_calls import pass_call

# What transformers' models say where ids and pixel values are of two calls of a processor.
_UNEQUAL = re.compile(
    r"features and .*tokens do not match|tokens .* and features .* do not match|placeholder .* does not match"
)


def check_weights(model: HookedModel) -> None:
    """Refuse to run a model here that is only described.

    Raises:
        InputError: with what to do instead.
    """
    if model.is_described_only:
        raise InputError(
            f"{model.name!r} is described without its weights, so nothing can run here: pass remote=True, "
            "or load it with its weights: la.load(id)."
        )


@contextmanager
def running(model: HookedModel, looks: bool = True) -> Iterator[None]:
    """A pass on this model, here: one at a time, on the modules that were proved.

    Other threads wait until it is done. ``looks``: something inside the pass is read or edited; without that, what a
    torch hook of the caller's changes is in all that the pass gives.

    Raises:
        InputError: the model has no weights here, or finds other pictures in the inputs than there are tokens of them.
        ChangedModel: its modules are others than those that were proved.
    """
    check_weights(model)
    with model.lock:
        model.record.check(model.name)
        with model.record.reading_hooks_alone(model.name) if looks else nullcontext():
            try:
                yield
            except ValueError as error:
                if isinstance(error, InputError) or not _UNEQUAL.search(str(error)):
                    raise
                raise InputError(
                    f"{model.name!r} finds other pictures in these inputs than they hold places for ({error}). Make "
                    "the ids and the pixel values in one call of the processor, on the same text and pictures."
                ) from None


def wait_its_turn(model: HookedModel, tracer: Any) -> Any:
    """A user's own trace, to be run here as `running` says; one with a backend of another kind stays as it is."""
    run_block = tracer.backend
    if type(run_block) is Backend:

        def in_turn(trace: Any) -> None:
            with running(model):
                run_block(trace)

        tracer.backend = in_turn
    return tracer


def run_here(root: Any, call: dict[str, Any], session: dict[str, Any] | None = None) -> Raw:
    """Run one plain call on the model in this process."""
    with warnings.catch_warnings(), torch.no_grad(), hook_errors():
        # The open loop over steps ends by design when the model stops producing them.
        warnings.filterwarnings("ignore", message=".*was never reached.*")
        if call["generation"] is None:
            return open_forward(root, call, {} if session is None else session)
        if not call["program"]:  # nothing to see or to change: the model's own generate gives the same, and at no cost
            result = root._module.generate(**call["inputs"], **call["generation"])
            return {**generated(result), "steps": [], "output": None if isinstance(result, Tensor) else result}
        return open_generation(root, call)


def open_forward(root: Any, call: dict[str, Any], session: dict[str, Any], backend: Any = None) -> Any:
    """One forward pass as one trace. What it gives, or ``None`` where the backend brings that back some other way."""
    sent = None
    program, logits, slope = call["program"], call["logits"], call["slope"]
    travels = backend is not None
    with root.trace(call["inputs"], use_cache=False, backend=backend) as tracer:
        found = one_pass(root, tracer, program, logits, session, slope)
        sent = nnsight.save(compact_result(found) if travels else found)
        if call["stops"]:
            tracer.stop()
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
                found = {**generated(tracer.result), "steps": memory["steps"], **noted_in(memory)}
                sent = nnsight.save(compact_result(found) if travels else found)
        else:
            with tracer.invoke(call["inputs"]):
                sent = nnsight.save({**generated(tracer.result), "steps": []})
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
                            found = {**generated(tracer.result), "steps": memory["steps"], **noted_in(memory)}
                    else:
                        with tracer.invoke(call["inputs"]):
                            found = {**generated(tracer.result), "steps": []}
            if call["remember"]:
                session.update(found["kept"])
                found = {}
            sent.append(compact_result(found))
    return sent


def run_edits(
    model: HookedModel, prompt: Prompt, names: Sequence[str], edits: Sequence[Edit]
) -> tuple[Tensor, dict[str, Any]]:
    """One pass under edits that are compiled already: its logits and what was kept of the points, by name."""
    with running(model):
        raw = run_here(model.nn, pass_call(model, prompt, Reading("cache", tuple(names)), names, edits).plain())
    return raw["logits"], raw["kept"]
