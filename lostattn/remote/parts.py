"""Calls that travel as one job: sent, asked for as often as it takes, and sent anew only where there is no result."""

from __future__ import annotations

from collections.abc import Sequence

from lostattn.points.hooked_model import HookedModel
from lostattn.remote.failures import ConnectionLost, Interrupted, JobFailed, RemoteFailure, UnknownJob
from lostattn.remote.jobs import Job
from lostattn.remote.opening import submit_calls
from lostattn.run.calls import Call, Raw, Remote

SENT_ANEW = 2  # how often a job that the service gave up, or never knew, is sent again
AHEAD = 4  # how many jobs of a session are on their way at a time


class Part:
    """Some calls and the job that carries them out; ``raw`` is what they gave, once it is here."""

    def __init__(self, model: HookedModel, calls: Sequence[Call], remote: Remote) -> None:
        self.model = model
        self.calls = list(calls)
        self.remote = remote
        self.job: Job | None = None
        self.raw: list[Raw] | None = None
        self.failure: JobFailed | None = None

    def send(self) -> Job:
        """Send the job, unless that was done.

        Raises:
            RemoteFailure: the service did not take it.
        """
        if self.job is None:
            self.failure = None
            try:
                self.job = submit_calls(self.model, self.calls, self.remote)
            except ConnectionLost as error:
                self.job = error.job  # it may have been accepted, and is asked for first
                raise
        return self.job

    def fetched(self) -> list[Raw]:
        """What the calls gave; waits for it.

        Raises:
            JobFailed: it raised there.
            RemoteFailure: the service gave it up, or cannot be reached.
        """
        anew = 0
        while self.raw is None:
            job = self.send()
            try:
                self.raw = job.raw()
            except (Interrupted, UnknownJob):
                self.job = None
                anew += 1
                if anew > SENT_ANEW:
                    raise
            except JobFailed as error:
                self.job, self.failure = None, error
                raise
        return self.raw


def carried_out(parts: Sequence[Part]) -> None:
    """Carry out the parts that have no result yet, a few on their way at a time.

    Raises:
        JobFailed: the first of those that raised there, once all others are here.
        ConnectionLost: the service cannot be reached any more; what is here stays here.
    """
    missing = [part for part in parts if part.raw is None]
    failed: RemoteFailure | None = None
    for i, part in enumerate(missing):
        for ahead in missing[i : i + AHEAD]:
            ahead.send()
        try:
            part.fetched()
        except JobFailed as error:
            failed = failed or error
    if failed is not None:
        raise failed
