"""Several passes as one job: calls are written down while the session is open, and sent together when it closes."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Any

from lostattn.arguments import checked_call
from lostattn.errors import InputError
from lostattn.plan.touch_record import Touched
from lostattn.points.hooked_model import HookedModel
from lostattn.remote.failures import ConnectionLost
from lostattn.remote.jobs import Job
from lostattn.remote.opening import checked_remote, rehearse_calls
from lostattn.remote.parts import Part, carried_out
from lostattn.remote.rehearsal import Rehearsal
from lostattn.run.calls import Call, Raw, Remote
from lostattn.run.local import check_weights, run_here, running
from lostattn.run.make_calls import CALLS, cache_call, generate_call, hooks_call, measure_call
from lostattn.run.reading import read, touched_in


@checked_call
class Later:
    """What a call in a session will give; :meth:`result` once the session has been carried out."""

    def __init__(self, session: Session, index: int) -> None:
        self._session = session
        self._index = index

    def result(self) -> Any:
        """What the call itself would have given.

        Raises:
            InputError: the session is still open.
            RemoteFailure: the job failed.
        """
        return self._session._result(self._index)

    @property
    def touched(self) -> Touched | None:
        """Where the edits of the call acted; None where there were none."""
        return touched_in(self._session.calls[self._index].reading, self._session._raw_of(self._index))

    def __repr__(self) -> str:
        return f"Later(call {self._index} of {self._session!r})"


@checked_call
class Session:
    """Calls that run as one job, in the order in which they are made.

    ::

        with Session(model) as session:
            answers = [session.generate(prompt, edit) for prompt in prompts]
        answers[0].result().text

    Its methods are those of the model and take the same arguments; each gives a :class:`Later`. Nothing is sent before
    the session closes. What was accepted is only ever asked for again, so that no call stands twice in a result. Where
    an exception leaves the ``with`` block, nothing is sent at all.

    A long sweep goes as several jobs of ``job_size`` calls, so that what breaks off can go on: after a failure
    :meth:`resume` carries out the calls whose results are missing, and no others.

    Args:
        model: the model.
        remote: ``True``, a host's URL, ``"local"``, or ``False`` to run each call here, at once.
        wait: wait for the results when the session closes. Without it :attr:`jobs` are there to wait for, or to store.
        job_size: how many calls a job holds at the most; ``None`` puts all into one.

    Attributes:
        sent, received: bytes of the requests and of the results, as they travelled (compressed).
    """

    def __init__(
        self, model: HookedModel, remote: Remote = True, wait: bool = True, job_size: int | None = None
    ) -> None:
        checked_remote(remote)
        if job_size is not None and job_size < 1:
            raise InputError(f"job_size is {job_size}; expected at least 1, or None for one job.")
        self.model = model
        self.remote = remote
        self.wait = wait
        self.job_size = job_size
        self.calls: list[Call] = []
        self.sent = 0
        self.received = 0
        self._raw: list[Raw] | None = None
        self._parts: list[Part] = []
        self._memory: dict[str, Any] = {}
        self._here: list[Raw] = []

    @property
    def jobs(self) -> list[Job]:
        """The jobs that were sent, in the order of their calls."""
        return [part.job for part in self._parts if part.job is not None]

    @property
    def job(self) -> Job | None:
        """The job, where there is one alone."""
        return self.jobs[0] if len(self.jobs) == 1 else None

    def __enter__(self) -> Session:
        return self

    def __exit__(self, kind: Any, error: Any, trace: Any) -> None:
        if kind is not None or not self.calls:
            return
        if self.remote is False:
            self._raw = self._here
        elif self.remote == "local":
            rehearsal = Rehearsal(self.model.nn)
            self._raw = rehearse_calls(self.model, self.calls, rehearsal)
            self.sent, self.received = rehearsal.sent, rehearsal.received
        else:
            size = self.job_size or len(self.calls)
            starts = range(0, len(self.calls), size)
            self._parts = [Part(self.model, self.calls[start : start + size], self.remote) for start in starts]
            if self.wait:
                self.resume()
            else:
                for part in self._parts:
                    part.send()
                self._count()

    def resume(self) -> Session:
        """Carry out the calls whose results are missing, after a failure; done by itself when the session closes.

        A job that the service has is asked for, not sent again; one that failed, or never arrived, is sent again.

        Raises:
            JobFailed: calls raised there; the results of all others are here.
            ConnectionLost: the service cannot be reached; call it again.
        """
        try:
            carried_out(self._parts)
        except ConnectionLost as error:
            missing = sum(len(part.calls) for part in self._parts if part.raw is None)
            raise ConnectionLost(
                f"{error} {len(self.calls) - missing} of {len(self.calls)} calls are done; session.resume() goes on "
                "with the others.",
                error.job,
            ) from error
        finally:
            self._count()
        return self

    def _count(self) -> None:
        self.sent = sum(job.sent for job in self.jobs)
        self.received = sum(job.received for job in self.jobs)

    def run_with_cache(self, *arguments: Any, **keywords: Any) -> Later:
        """:meth:`LVLM.run_with_cache`, later."""
        return self.add(cache_call(self.model, *arguments, **keywords))

    def run_with_hooks(self, *arguments: Any, **keywords: Any) -> Later:
        """:meth:`LVLM.run_with_hooks`, later."""
        return self.add(hooks_call(self.model, *arguments, **keywords))

    def generate(self, *arguments: Any, **keywords: Any) -> Later:
        """:meth:`LVLM.generate`, later."""
        return self.add(generate_call(self.model, *arguments, **keywords))

    def measure(self, *arguments: Any, **keywords: Any) -> Later:
        """:meth:`LVLM.measure`, later."""
        return self.add(measure_call(self.model, *arguments, **keywords))

    def remember(self, prompt: Any, names_filter: Any) -> None:
        """A pass whose values stay where the model is, for later reductions of this session.

        A reduction's state may be ``lostattn.reductions.Remembered(name)``; see :func:`lostattn.reductions.between`.
        """
        if self.job_size is not None:
            raise InputError("what a pass leaves stays within its job, so a session that remembers takes no job_size.")
        self.add(replace(cache_call(self.model, prompt, names_filter), logits=False, remember=True))

    def add(self, call: Call) -> Later:
        """Write a call down; with ``remote=False`` run it."""
        if self._raw is not None or self._parts:
            raise InputError("this session is closed and its jobs are under way; open another for more calls.")
        if self.remote is False:
            check_weights(self.model)
        self.calls.append(call)
        if self.remote is False:
            with running(self.model):
                raw = run_here(self.model.nn, call.plain(), self._memory)
            if call.remember:
                self._memory.update(raw["kept"])
                raw = {}
            self._here.append(raw)
        return Later(self, len(self.calls) - 1)

    def _result(self, index: int) -> Any:
        call = self.calls[index]
        return read(call.reading, self.model, self._raw_of(index), call.prompt)

    def _raw_of(self, index: int) -> Raw:
        if self.remote is False:
            raw = self._here[index]
        elif self._raw is not None:
            raw = self._raw[index]
        elif self._parts:
            part = self._parts[index // (self.job_size or len(self.calls))]
            if part.failure is not None:
                raise part.failure
            raw = part.fetched()[index % (self.job_size or len(self.calls))]
            self._count()
        else:
            raise InputError("this session is still open: its calls are sent when the with block ends.")
        return raw

    def __repr__(self) -> str:
        return f"Session of {len(self.calls)} calls on {self.model.name!r}, remote={self.remote!r}"


@checked_call
def submit(method: Callable[..., Any], *arguments: Any, remote: Remote = True, **keywords: Any) -> Job:
    """Send one call without waiting: ``submit(model.generate, prompt, edit)``.

    Returns:
        Its :class:`Job`: ``job.result()`` waits, ``job.done()`` asks, ``job.save(path)`` stores it for another process.

    Raises:
        InputError: the method is none of a model's calls, or ``remote`` is no service.
        RemoteFailure: the job could not be sent.
    """
    model, name = getattr(method, "__self__", None), getattr(method, "__name__", "")
    if not isinstance(model, HookedModel) or name not in CALLS:
        raise InputError(
            f"submit takes a model's own call ({', '.join(CALLS)}), such as model.generate; got {method!r}."
        )
    if remote is False or remote == "local":
        raise InputError(f"remote is {remote!r}; a job is sent to a service: remote=True or its URL.")
    with Session(model, remote, wait=False) as session:
        session.add(CALLS[name](model, *arguments, **keywords))
    assert session.job is not None
    return session.job


def run_there(model: HookedModel, calls: Sequence[Call], remote: Remote) -> list[Raw]:
    """Carry calls out remotely and wait; what each gives, in order.

    Raises:
        InputError: ``remote`` is nothing of the kind.
        RemoteFailure: it gave no result.
    """
    checked_remote(remote)
    if remote == "local":
        return rehearse_calls(model, calls, Rehearsal(model.nn))
    return Part(model, list(calls), remote).fetched()
