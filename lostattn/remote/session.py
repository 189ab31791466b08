"""Several passes as one job: calls are written down while the session is open, and sent together when it closes."""

from __future__ import annotations

import warnings
from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING, Any

from lostattn.calls import Call, Raw, Remote, open_forward, open_generation, open_session, run_here
from lostattn.errors import InputError
from lostattn.remote.jobs import Job
from lostattn.remote.rehearsal import Rehearsal
from lostattn.remote.service import Service, Submission
from lostattn.written import CALLS, cache_call, generate_call, hooks_call, measure_call

if TYPE_CHECKING:
    from lostattn.model import LVLM


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

    def __repr__(self) -> str:
        return f"Later(call {self._index} of {self._session!r})"


class Session:
    """Calls that run as one job, in the order in which they are made.

    ::

        with Session(model) as session:
            answers = [session.generate(prompt, edit) for prompt in prompts]
        answers[0].result().text

    Its methods are those of the model and take the same arguments; each gives a :class:`Later`. Nothing is sent before
    the session closes. The job is sent once and only ever looked up again, so that no call runs twice in a result.
    Where an exception leaves the ``with`` block, nothing is sent at all.

    Args:
        model: the model.
        remote: ``True``, a host's URL, ``"local"``, or ``False`` to run each call here, at once.
        wait: wait for the results when the session closes. Without it :attr:`job` is there to wait for, or to store.
    """

    def __init__(self, model: LVLM, remote: Remote = True, wait: bool = True) -> None:
        checked_remote(remote)
        self.model = model
        self.remote = remote
        self.wait = wait
        self.calls: list[Call] = []
        self.job: Job | None = None
        self.sent = 0
        self.received = 0
        self._raw: list[Raw] | None = None
        self._memory: dict[str, Any] = {}
        self._here: list[Raw] = []

    def __enter__(self) -> Session:
        return self

    def __exit__(self, kind: Any, error: Any, trace: Any) -> None:
        if kind is not None or not self.calls:
            return
        if self.remote is False:
            self._raw = self._here
        elif self.remote == "local":
            rehearsal = Rehearsal(self.model.nn)
            self._raw = rehearsed(self.model, self.calls, rehearsal)
            self.sent, self.received = rehearsal.sent, rehearsal.received
        else:
            self.job = submitted(self.model, self.calls, self.remote)
            self.sent = self.job.sent
            if self.wait:
                self._raw = self.job.raw()
                self.received = self.job.received

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
        self.add(replace(cache_call(self.model, prompt, names_filter), logits=False, remember=True))

    def add(self, call: Call) -> Later:
        """Write a call down; with ``remote=False`` run it."""
        if self._raw is not None or self.job is not None:
            raise InputError("this session is closed and its job is under way; open another for more calls.")
        self.calls.append(call)
        if self.remote is False:
            raw = run_here(self.model.nn, call.plain(), self._memory)
            if call.remember:
                self._memory.update(raw["kept"])
                raw = {}
            self._here.append(raw)
        return Later(self, len(self.calls) - 1)

    def _result(self, index: int) -> Any:
        if self.remote is False:
            raw = self._here
        elif self._raw is not None:
            raw = self._raw
        elif self.job is not None:
            raw = self._raw = self.job.raw()
            self.received = self.job.received
        else:
            raise InputError("this session is still open: its calls are sent when the with block ends.")
        call = self.calls[index]
        return call.reading.read(self.model, raw[index], call.prompt)

    def __repr__(self) -> str:
        return f"Session of {len(self.calls)} calls on {self.model.name!r}, remote={self.remote!r}"


def submit(method: Callable[..., Any], *arguments: Any, remote: Remote = True, **keywords: Any) -> Job:
    """Send one call without waiting: ``submit(model.generate, prompt, edit)``.

    Returns:
        Its :class:`Job`: ``job.result()`` waits, ``job.done()`` asks, ``job.save(path)`` stores it for another process.

    Raises:
        InputError: the method is none of a model's calls, or ``remote`` is no service.
        RemoteFailure: the job could not be sent.
    """
    from lostattn.model import LVLM

    model, name = getattr(method, "__self__", None), getattr(method, "__name__", "")
    if not isinstance(model, LVLM) or name not in CALLS:
        raise InputError(
            f"submit takes a model's own call ({', '.join(CALLS)}), such as model.generate; got {method!r}."
        )
    if remote is False or remote == "local":
        raise InputError(f"remote is {remote!r}; a job is sent to a service: remote=True or its URL.")
    with Session(model, remote, wait=False) as session:
        session.add(CALLS[name](model, *arguments, **keywords))
    assert session.job is not None
    return session.job


def run_there(model: LVLM, calls: Sequence[Call], remote: Remote) -> list[Raw]:
    """Carry calls out remotely and wait; what each gives, in order.

    Raises:
        InputError: ``remote`` is nothing of the kind.
        RemoteFailure: it gave no result.
    """
    checked_remote(remote)
    if remote == "local":
        return rehearsed(model, calls, Rehearsal(model.nn))
    return submitted(model, calls, remote).raw()


def rehearsed(model: LVLM, calls: Sequence[Call], rehearsal: Rehearsal) -> list[Raw]:
    """The way of a remote call, here."""
    if model.is_described_only:
        raise InputError(
            f'{model.name!r} is described without its weights, and remote="local" runs here: load it with its weights.'
        )
    return opened(model, calls, rehearsal)


def submitted(model: LVLM, calls: Sequence[Call], remote: Remote) -> Job:
    """Send calls to a service as one job."""
    service = Service.of(remote)
    submission = Submission(service, model)
    with service.explained(model):
        opened(model, calls, submission)
    assert submission.job_id is not None
    return Job(service, submission.job_id, model, list(calls), single=len(calls) == 1, sent=submission.sent)


def opened(model: LVLM, calls: Sequence[Call], backend: Any) -> Any:
    """Open the trace that carries the calls, on a backend: a single call by itself, several as a session."""
    import torch

    plain = [call.plain() for call in calls]
    with torch.no_grad(), warnings.catch_warnings():
        # A rehearsal's open loop over steps ends by design when the model stops producing them.
        warnings.filterwarnings("ignore", message=".*was never reached.*")
        if len(plain) > 1:
            return open_session(model.nn, plain, backend)
        if plain[0]["generation"] is None:
            return [open_forward(model.nn, plain[0], {}, backend)]
        return [open_generation(model.nn, plain[0], backend)]


def checked_remote(remote: Remote) -> None:
    """Refuse what is no way of running.

    Raises:
        InputError: with what it may be.
    """
    if isinstance(remote, bool) or remote == "local":
        return
    if not (isinstance(remote, str) and remote.startswith(("http://", "https://"))):
        raise InputError(
            f'remote is {remote!r}; expected False (here), True (NDIF), "local" (a rehearsal here) or a URL.'
        )
