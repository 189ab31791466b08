"""Sending a job until the service has it, in such a way that no question stands twice in a result.

A job is named here, before it is sent. A request that certainly did not arrive is sent again; where perhaps the answer
alone was lost, the service is asked for that name first, and only what it does not know is sent again, under the same
name. One name has one result, so whatever a broken line did, a result holds each question once.
"""

from __future__ import annotations

import sys
import time
from importlib.metadata import version
from typing import Any
from uuid import uuid4

from nnsight.intervention.backends.remote import RemoteBackend, RemoteError
from nnsight.schema.request import RequestModel
from nnsight.schema.response import ResponseModel
from pydantic import ValidationError

from lostattn.remote.line import Line
from lostattn.remote.shipping import packed_request
from lostattn.remote.told import detail, read_response, said

TRIES = 6  # how often a request is sent at the most
PAUSE = 0.5  # seconds before the second try, doubled before each later one
ASKED_FOR = 5.0  # seconds during which a service is asked whether it has a request whose answer was lost

REFUSED, NOT_STARTED, UNKNOWN = "refused", "not started", "unknown"


class Envelope(RequestModel):
    """What is posted beside the payload, with the name that the job is to have."""

    id: str


class Submission(RemoteBackend):
    """nnsight's backend for a job that is sent and looked up later, with this package's way of packing and sending.

    ``job_id`` is known before anything is sent, ``sent`` counts the bytes of the payload, ``tries`` the requests, and
    ``fate`` says what became of the last one that failed: refused, not started, or unknown.
    """

    def __init__(self, model_key: str, host: str, api_key: str, env: dict[str, Any]) -> None:
        super().__init__(model_key, host=host, api_key=api_key, env=env, blocking=False)
        self.api_key = api_key  # nnsight takes the configured key where none is given; here none means none
        self.line = Line(host, api_key)
        self.sent = 0
        self.tries = 0
        self.fate = NOT_STARTED

    def _serialize(self, tracer: Any) -> bytes:
        blob = packed_request(tracer, self.compress)
        self.sent = len(blob)
        return blob

    def submit(self, tracer: Any) -> None:
        """Send the captured trace, at most :data:`TRIES` times."""
        blob = self._serialize(tracer)
        name = uuid4().hex
        envelope = Envelope(model_key=self.model_key, compress=self.compress, env=self.env, id=name)
        self.job_id = self._delivered(envelope, blob)

    def _delivered(self, envelope: Envelope, blob: bytes) -> str:
        """The name under which the service has it."""
        pause = PAUSE
        while True:
            self.tries += 1
            try:
                response = self._post(envelope, blob)
            except (RemoteError, ValidationError) as error:
                self.fate = fate_of(error)
                if self.fate == REFUSED:
                    raise
                self.job_id = envelope.id
                if self.fate == UNKNOWN and self._is_known(envelope.id):
                    return envelope.id
                if self.tries >= TRIES:
                    raise
            else:
                self.display.update(response)
                return response.id
            time.sleep(pause)
            pause *= 2

    def _post(self, request: RequestModel, blob: bytes) -> ResponseModel:
        """Send the request once; what the service says of it.

        Raises:
            RemoteError: it was refused, or the line broke; the cause says which.
            ValidationError: the answer cannot be read.
        """
        import httpx

        headers = {
            "ndif-timestamp": repr(time.time()),
            "nnsight-version": version("nnsight"),
            "python-version": sys.version.replace("\n", " "),
        }
        form = {
            "data": {"data": request.metadata()},
            "files": {"blob": ("request", blob, "application/octet-stream")},
        }
        try:
            answer = self.line.ask("POST", "/request", headers, **form)
            answer.raise_for_status()
        except httpx.HTTPStatusError as error:
            raise RemoteError(f"Failed to send request: {detail(error.response, self.api_key)}") from error
        except httpx.HTTPError as error:
            raise RemoteError(f"Failed to send request: {said(error)}") from error
        return read_response(answer, self.api_key)

    def _is_known(self, name: str) -> bool:
        """Whether the service has a job of this name; asked for a while, since it is written down a little later."""
        import httpx

        until, pause = time.monotonic() + ASKED_FOR, 0.1
        while True:
            try:
                if self.line.ask("GET", f"/response/{name}").status_code == 200:
                    return True
            except httpx.TransportError:
                pass
            if time.monotonic() > until:
                return False
            time.sleep(pause)
            pause = min(2 * pause, 1.0)


def fate_of(error: Exception) -> str:
    """What became of a request that failed: refused for good, certainly not started, or unknown.

    A line that breaks while the request goes out leaves half a request, which no server starts; one that breaks
    afterwards may have lost the answer alone. Of a server's own errors, those that say that it is busy come before
    anything is accepted.
    """
    import httpx

    cause = error.__cause__
    if isinstance(cause, httpx.HTTPStatusError):
        status = cause.response.status_code
        return NOT_STARTED if status in (429, 503) else UNKNOWN if status >= 500 else REFUSED
    if isinstance(cause, httpx.ConnectError | httpx.ConnectTimeout | httpx.PoolTimeout):
        return NOT_STARTED
    if isinstance(cause, httpx.WriteError | httpx.WriteTimeout):
        return NOT_STARTED
    if isinstance(cause, httpx.TransportError) or isinstance(error, ValidationError):
        return UNKNOWN
    return REFUSED
