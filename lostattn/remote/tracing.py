"""nnsight's own traces of a model, run on a service: sent and read as this package sends and reads.

``with model.trace(prompt, remote=True)`` is nnsight's. By itself it would unpickle whatever the service sends back, and
hand the key to any host that is named.
"""

from __future__ import annotations

import copy
from typing import Any

from nnsight.tracing.backend import Backend
from nnsight.tracing.tracer import mark
from nnsight.tracing.util import push

from lostattn.errors import InputError
from lostattn.points.hooked_model import HookedModel
from lostattn.remote.jobs import Job
from lostattn.remote.opening import checked_remote
from lostattn.remote.service import Service
from lostattn.run.calls import Reading


def guard(model: HookedModel) -> None:
    """Let nnsight's traces and sessions of this model go out by this package's line."""
    model.nn._remote_backend = Guard(model)


class Guard:
    """What nnsight asks its model for when a trace is opened with ``remote=``."""

    def __init__(self, model: HookedModel) -> None:
        self.model = model

    def __call__(self, remote: Any, blocking: bool, job_id: str | None, verbose: bool) -> Backend:
        """The backend of one trace."""
        checked_remote(remote)
        if remote == "local":  # runs here, and reads nothing of anybody
            nn = self.model.nn
            rehearsal: Backend = type(nn)._remote_backend(nn, remote, blocking, job_id, verbose)
            return rehearsal
        if not blocking or job_id is not None:
            raise InputError(
                "a trace waits for its result here (blocking=False and job_id= are nnsight's). To send a call and look "
                "later, use lostattn.remote.submit and Job."
            )
        return Waiting(self.model, remote)

    def __reduce__(self) -> Any:
        """Nothing of it: a trace that is sent takes its model's attributes along."""
        return str, ()

    def __deepcopy__(self, memo: dict[int, Any]) -> Guard:
        return Guard(copy.deepcopy(self.model, memo))


class Waiting(Backend):
    """Sends a captured trace as one job, waits, and puts what it saved where the block's variables stand."""

    def __init__(self, model: HookedModel, remote: Any) -> None:
        self.model = model
        self.service = Service.of(remote)

    def __call__(self, tracer: Any) -> dict[str, Any]:
        """Send, wait and bring back.

        Raises:
            RemoteFailure: it gave no result.
        """
        submission = self.service.submission(self.model)
        with self.service.explained(self.model, submission):
            submission(tracer)
        job = _Values(self.service, str(submission.job_id), self.model, None, [Reading("raw")], [None])
        job.display = submission.display
        (values,) = job.raw()
        for value in values.values():
            mark(value)  # an enclosing trace lets only marked values through
        push(tracer.info.frame, values)
        return values


class _Values(Job):
    """A job that gives what a block saved, by the names of its variables."""

    def _taken(self, found: dict[str, Any]) -> list[Any]:
        return [found]
