"""A job on a service: wait for it, ask about it, store it, and pick it up in another process."""

from __future__ import annotations

import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from nnsight.intervention.backends.display import StatusDisplay
from nnsight.intervention.backends.remote import RemoteError

from lostattn.arguments import checked_call
from lostattn.cache.files import check_points
from lostattn.errors import InputError, LostAttnError
from lostattn.points.hooked_model import HookedModel
from lostattn.prompt.batch import Prompt
from lostattn.remote.expected import checked_result
from lostattn.remote.failures import ConnectionLost, RemoteFailure, UnknownJob, UnreadableResult
from lostattn.remote.hosts import confirmed_host, key_for
from lostattn.remote.lookup import LookUp
from lostattn.remote.service import Service
from lostattn.remote.stored import read_job, write_job
from lostattn.remote.told import detail, said
from lostattn.run.calls import Call, Raw, Reading
from lostattn.run.reading import read

LOOKS = 8  # how often a look-up is tried before the connection counts as lost: half a minute
PAUSE = 0.2  # seconds before the second look-up, doubled before each later one
UNKNOWN_FOR = 30.0  # seconds after which a job that the service does not know counts as unknown


@checked_call
class Job:
    """One job on a service. It was sent once; everything here only looks it up.

    :meth:`result` waits for it, :meth:`done` asks, :meth:`save` stores what another process needs to pick it up.
    ``sent`` and ``received`` count the bytes of the request and of the result.
    """

    def __init__(
        self,
        service: Service,
        id: str,
        model: HookedModel,
        calls: Sequence[Call] | None = None,
        readings: Sequence[Reading] = (),
        prompts: Sequence[Prompt | None] = (),
        single: bool = True,
        sent: int = 0,
    ) -> None:
        self.service = service
        self.id = id
        self.model = model
        self.readings = [call.reading for call in calls] if calls is not None else list(readings)
        self.prompts = [call.prompt for call in calls] if calls is not None else list(prompts)
        self.single = single
        self.sent = sent
        self.received = 0
        self._backend = LookUp(service, id)
        self._raw: list[Raw] | None = None

    @property
    def display(self) -> StatusDisplay:
        """nnsight's line that tells where the job is."""
        return self._backend.display

    @display.setter
    def display(self, display: StatusDisplay) -> None:
        self._backend.display = display

    def done(self) -> bool:
        """Whether the result is there; asks the service once.

        Raises:
            RemoteFailure: the job failed there, or the service cannot be reached.
        """
        return self._raw is not None or self._look()

    def result(self, timeout: float | int | None = None) -> Any:
        """What the call would have given, or a list of that for each call of a session.

        Args:
            timeout: seconds to wait at the most; ``None`` waits as long as it takes.

        Raises:
            JobFailed: it raised there; the message holds the server's error and the line.
            NotHosted: the service does not run the model.
            Interrupted: the service stopped it for a reason of its own.
            UnknownJob: the service knows no such job.
            ConnectionLost: the service cannot be reached any more; the job goes on, and may be asked for again.
            TimeoutError: it is not done yet; ask again.
        """
        raw = self.raw(timeout)
        with self._doubting():
            found = [read(r, self.model, one, p) for r, one, p in zip(self.readings, raw, self.prompts, strict=True)]
        return found[0] if self.single else found

    def raw(self, timeout: float | int | None = None) -> list[Raw]:
        """What each pass gave, unread; waits as :meth:`result` does."""
        if self._raw is None:
            with self._backend.connected(None if timeout is None else time.monotonic() + timeout):
                self._wait(timeout)
        assert self._raw is not None
        return self._raw

    def _wait(self, timeout: float | int | None) -> None:
        began, pause = time.monotonic(), 0.05
        while not self._look():
            if timeout is not None and time.monotonic() - began > timeout:
                raise TimeoutError(
                    f"job {self.id} is not done after {timeout:g} s (last seen: {self.status}); ask again."
                )
            if self._backend.status is None and time.monotonic() - began > UNKNOWN_FOR:
                raise UnknownJob(f"{self.service.host} knows no job {self.id}; it keeps them for a limited time.")
            time.sleep(pause)
            pause = min(pause * 1.3, 1.0)

    @property
    def status(self) -> str:
        """What the service last said about it."""
        return self._backend.status.value if self._backend.status is not None else "unknown"

    def save(self, path: str | Path) -> None:
        """Write a small JSON file with which another process can pick the job up. It holds no key."""
        write_job(path, self.id, self.service.host, self.model.name, self.single, self.readings, self.sent)

    @classmethod
    def load(
        cls,
        path: str | Path,
        model: HookedModel,
        prompts: Sequence[Prompt] | Prompt | None = None,
        host: str | None = None,
    ) -> Job:
        """Pick up a job that :meth:`save` stored.

        A file does not choose where you connect to. Where it names another host than your configuration does
        (``NDIF_HOST``), say that you mean it: ``host="https://…"``. The key goes to the configured host alone.

        Args:
            path: the file.
            model: the same model, loaded here (``la.load(id, remote=True)`` will do).
            prompts: the prompts of its calls, for what a cache tells about positions; not needed otherwise.
            host: the service that the job is on, where your configuration names another.

        Raises:
            InputError: the file is no stored job, a job of another model, or on a host that you did not name.
        """
        stored = read_job(path, model)
        n = len(stored.readings)
        given = list(prompts) if isinstance(prompts, Sequence) else [prompts] * n
        if len(given) != n:
            raise InputError(f"{len(given)} prompts were given for a job of {n} calls.")
        where = confirmed_host(stored.host, host, str(path))
        return cls(
            Service(where, key_for(where)), stored.id, model, None, stored.readings, given, stored.single, stored.sent
        )

    def _look(self) -> bool:
        """One look-up, tried again where the network fails; True once the result is here."""
        import httpx

        for attempt in range(LOOKS):
            try:
                found = self._backend.poll()
                break
            except RemoteError as error:
                raise self.service.failure(str(error), self.model) from error
            except httpx.HTTPStatusError as error:
                if error.response.status_code < 500:
                    told = detail(error.response, self.service.key)
                    raise RemoteFailure(f"{self.service.host} refused to tell about job {self.id}: {told}") from error
                self._wait_or_give_up(attempt, error)
            except httpx.TransportError as error:
                self._wait_or_give_up(attempt, error)
        if found is None:
            return False
        self._raw = self._taken(found)
        self.received = self._backend.received
        return True

    def _taken(self, found: dict[str, Any]) -> list[Raw]:
        """What each call gave, of what was sent back."""
        raws = checked_result(found, self.readings, self.single, self.service.host)
        for raw, reading in zip(raws, self.readings, strict=True):
            if reading.kind == "cache" and raw:
                try:
                    check_points(raw["kept"], reading.names, self.model)
                except InputError as error:
                    raise self._misfit(error) from error
        return raws

    @contextmanager
    def _doubting(self) -> Iterator[None]:
        """What cannot be made of the values that the service sent is the service's fault, not the caller's."""
        try:
            yield
        except LostAttnError:
            raise
        except Exception as error:  # values that fit a reading each, and not each other
            raise self._misfit(error) from error

    def _misfit(self, error: Exception) -> UnreadableResult:
        return UnreadableResult(
            f"{self.service.host} sent values that do not fit the call ({said(error)[:300]}). The job may be of "
            "another call, or the service runs other versions; send it again."
        )

    def _wait_or_give_up(self, attempt: int, error: Exception) -> None:
        if attempt + 1 < LOOKS:
            time.sleep(PAUSE * 2**attempt)
            return
        raise ConnectionLost(
            f"the connection to {self.service.host} was lost ({error}). The job goes on there, and nothing is lost: "
            f"call result() again, or job.save(path) and pick it up later (job {self.id}).",
            self,
        ) from error

    def __repr__(self) -> str:
        return f"Job {self.id} on {self.service.host}: {len(self.readings)} calls of {self.model.name!r}, {self.status}"
