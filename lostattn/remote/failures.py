"""What can go wrong between here and a server, each with a message that says what to do."""

from __future__ import annotations

from typing import Any

from lostattn.errors import LostAttnError


class RemoteFailure(LostAttnError, RuntimeError):
    """A remote call did not give a result."""


class NoKey(RemoteFailure):
    """The service wants an API key, and there is none or it is refused."""


class NotHosted(RemoteFailure):
    """The service does not run this model."""


class VersionDrift(RemoteFailure):
    """The service refuses this client's versions."""


class JobFailed(RemoteFailure):
    """The job ran there and raised; ``there`` is the server's whole traceback."""

    def __init__(self, message: str, there: str = "") -> None:
        super().__init__(message)
        self.there = there


class UnreadableResult(RemoteFailure):
    """The service sent what is no result: code, a file of another kind, or more than it may be."""


class Interrupted(RemoteFailure):
    """The service stopped the job for a reason of its own; it gave no result."""


class UnknownJob(RemoteFailure):
    """The service knows no such job: it never got it, or has let it go."""


class ConnectionLost(RemoteFailure):
    """The service cannot be reached; ``job`` can be asked for again where it was, or may have been, accepted."""

    def __init__(self, message: str, job: Any = None) -> None:
        super().__init__(message)
        self.job = job
