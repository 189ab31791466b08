"""Opening the trace that carries calls: rehearsed here, or sent to a service as one job."""

from __future__ import annotations

import warnings
from collections.abc import Sequence
from typing import Any

import torch

from lostattn.errors import InputError
from lostattn.points.hooked_model import HookedModel
from lostattn.remote.failures import ConnectionLost
from lostattn.remote.hosts import checked_host
from lostattn.remote.jobs import Job
from lostattn.remote.rehearsal import Rehearsal
from lostattn.remote.sending import UNKNOWN
from lostattn.remote.service import Service
from lostattn.run.calls import Call, Raw, Remote
from lostattn.run.local import open_forward, open_generation, open_session


def rehearse_calls(model: HookedModel, calls: Sequence[Call], rehearsal: Rehearsal) -> list[Raw]:
    """The way of a remote call, here."""
    if model.is_described_only:
        raise InputError(
            f'{model.name!r} is described without its weights, and remote="local" runs here: load it with its weights.'
        )
    return open_trace(model, calls, rehearsal)


def submit_calls(model: HookedModel, calls: Sequence[Call], remote: Remote) -> Job:
    """Send calls to a service as one job, again where it certainly did not start; see :mod:`lostattn.remote.sending`.

    Raises:
        RemoteFailure: the service did not take it. A :class:`ConnectionLost` carries the job where it may have.
    """
    service = Service.of(remote)
    submission = service.submission(model)

    def job() -> Job:
        assert submission.job_id is not None
        made = Job(service, submission.job_id, model, list(calls), single=len(calls) == 1, sent=submission.sent)
        made.display = submission.display  # one line tells of it, from sending to result
        return made

    try:
        with service.explained(model, submission):
            open_trace(model, calls, submission)
    except ConnectionLost as error:
        error.job = job() if submission.fate == UNKNOWN else None
        raise
    return job()


def open_trace(model: HookedModel, calls: Sequence[Call], backend: Any) -> Any:
    """Open the trace that carries the calls, on a backend: a single call by itself, several as a session."""
    if any("streamer" in (call.generation or {}) for call in calls):
        raise InputError(
            "a streamer is told of tokens where the model is, and that is not here: leave it out, or remote."
        )
    plain = [call.plain() for call in calls]
    backwards = any(call.slope is not None for call in calls)
    with model.lock, torch.set_grad_enabled(backwards), warnings.catch_warnings():
        # A rehearsal's open loop over steps ends by design when the model stops producing them.
        warnings.filterwarnings("ignore", message=".*was never reached.*")
        if len(plain) > 1:
            return open_session(model.nn, plain, backend)
        if plain[0]["generation"] is None:
            return [open_forward(model.nn, plain[0], {"probes": {}}, backend)]
        return [open_generation(model.nn, plain[0], backend)]


def checked_remote(remote: Remote) -> None:
    """Refuse what is no way of running, and a host that nobody named; see :mod:`lostattn.remote.hosts`.

    Raises:
        InputError: with what it may be.
    """
    if remote is False or (isinstance(remote, str) and remote == "local"):
        return
    if remote is not True and not (isinstance(remote, str) and remote.startswith(("http://", "https://"))):
        raise InputError(
            f'remote is {remote!r}; expected False (here), True (NDIF), "local" (a rehearsal here) or a URL.'
        )
    checked_host(remote)
