"""Asking a service about a job, and fetching its result."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from nnsight.intervention.backends.remote import RemoteBackend
from pydantic import ValidationError

from lostattn.remote.failures import UnreadableResult
from lostattn.remote.hosts import result_address
from lostattn.remote.line import Line, answer, client_for
from lostattn.remote.memory import largest
from lostattn.remote.results import read_result
from lostattn.remote.service import Service
from lostattn.remote.told import read_response


class LookUp(RemoteBackend):
    """nnsight's backend for a job that exists, with this package's way of asking and of reading what comes back.

    ``received`` counts the bytes of the result.
    """

    def __init__(self, service: Service, id: str) -> None:
        super().__init__("", host=service.host, api_key=service.key, blocking=False, job_id=id)
        self.api_key = service.key  # nnsight takes the configured key where none is given; here none means none
        self.line = Line(service.host, service.key)
        self.received = 0

    @contextmanager
    def connected(self, until: float | None = None) -> Iterator[None]:
        """One connection for every look-up while this is open; nothing is read after ``until``."""
        self.line.until = until
        try:
            with self.line.connected():
                yield
        finally:
            self.line.until = None

    def poll(self, tracer: Any = None) -> Any:
        """One look-up: the result once it is there, ``None`` before; an error of the job is raised."""
        told = self.line.ask("GET", f"/response/{self.job_id}")
        if told.status_code == 404:
            return None  # nothing is written down yet
        told.raise_for_status()
        try:
            response = read_response(told, self.api_key)
        except ValidationError as error:
            raise UnreadableResult(
                f"{self.host} told of job {self.job_id} in words that cannot be read ({error.error_count()} errors). "
                "Is this an NDIF service, of the version that nnsight expects?"
            ) from error
        self.status = response.status
        return self.handle(response)

    def download_result(self, url: str | None) -> Any:
        """Fetch the result and read it."""
        if not url:
            raise UnreadableResult(f"{self.host} says that job {self.job_id} is done, but not where its result is.")
        where = result_address(url, self.host)
        with client_for(where) as client, self._bar() as told:
            found = answer(client, "GET", where, largest(), self.line.until, told)
        found.raise_for_status()
        return self.finalize(found.content)

    def finalize(self, content: bytes) -> Any:
        """Read the result."""
        self.received = len(content)
        return read_result(content, self.compress, self.host)

    @contextmanager
    def _bar(self) -> Iterator[Any]:
        """A bar that tells how much is here."""
        from tqdm import tqdm

        with tqdm(unit="B", unit_scale=True, desc="⬇ result", disable=not self.display.enabled) as bar:

            def told(here: int, total: int | None) -> None:
                bar.total = total
                bar.update(here - bar.n)

            yield told
