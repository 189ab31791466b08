"""Asking a service about a job: over one connection for as long as somebody waits."""

from __future__ import annotations

import functools
from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

from nnsight.intervention.backends.remote import RemoteBackend
from nnsight.schema.response import ResponseModel

from lostattn.remote.service import Service

if TYPE_CHECKING:
    import ssl

    import httpx


CONNECT, READ = 10.0, 600.0  # seconds, as nnsight has them


class LookUp(RemoteBackend):
    """nnsight's backend for a job that exists, which keeps its connection and counts the bytes that come back.

    nnsight's own opens a new connection, and reads every certificate anew, each time that it asks.
    """

    def __init__(self, service: Service, id: str) -> None:
        super().__init__("", host=service.host, api_key=service.key, blocking=False, job_id=id)
        self.received = 0
        self._client: httpx.Client | None = None

    @contextmanager
    def connected(self) -> Iterator[httpx.Client]:
        """One connection for every look-up while this is open; what breaks is made anew by the next."""
        import httpx

        if self._client is not None:
            yield self._client
            return
        with httpx.Client(timeout=httpx.Timeout(CONNECT, read=READ), verify=certificates()) as self._client:
            try:
                yield self._client
            finally:
                self._client = None

    def poll(self, tracer: Any = None) -> Any:
        """One look-up: the result once it is there, ``None`` before; an error of the job is raised."""
        headers = {"ndif-api-key": self.api_key} if self.api_key else None
        with self.connected() as client:
            answer = client.get(f"{self.host}/response/{self.job_id}", headers=headers)
        if answer.status_code == 404:
            return None  # nothing is written down yet
        answer.raise_for_status()
        response = ResponseModel.model_validate_json(answer.text)
        self.status = response.status
        return self.handle(response)

    def finalize(self, content: bytes) -> Any:
        """Load the result."""
        self.received = len(content)
        return super().finalize(content)


@functools.cache
def certificates() -> ssl.SSLContext:
    """The certificates that this machine trusts, read once."""
    import httpx

    return httpx.create_ssl_context()
