"""The service that a job goes to: its address and key, what it hosts, and what its refusals mean."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from nnsight.intervention.backends.remote import RemoteError
from nnsight.schema.config import CONFIG
from pydantic import ValidationError

from lostattn.arguments import checked_call
from lostattn.points.hooked_model import HookedModel
from lostattn.remote.failures import (
    ConnectionLost,
    Interrupted,
    JobFailed,
    NoKey,
    NotHosted,
    RemoteFailure,
    VersionDrift,
)
from lostattn.remote.hosts import NAMED_BY, checked_host, key_for, named_hosts
from lostattn.remote.offers import hosted_models, version_drift
from lostattn.remote.sending import NOT_STARTED, UNKNOWN, Submission
from lostattn.remote.users_line import users_line

PUBLIC = "https://api.ndif.us"
# How a service's own troubles begin; a job that they end gave no result.
INTERRUPTIONS = (
    "Critical server error",
    "Error starting model",
    "Error submitting request",
    "Replica was evicted",
)
# How the last line of its traceback begins where it could not start a sandbox, before anything of the job ran.
NO_RUNNER = ("TimeoutError: timed out waiting for the runner", "RuntimeError: runner process exited")


@checked_call
@dataclass(frozen=True)
class Service:
    """A host, and the key to it (which is never shown and never stored with a job)."""

    host: str
    key: str = field(default="", repr=False)

    @classmethod
    def of(cls, remote: Any) -> Service:
        """The service that ``remote=`` means: the configured one for ``True``, or a URL that may be asked.

        Raises:
            InputError: a host that the configuration does not name; see :mod:`lostattn.remote.hosts`.
        """
        host = checked_host(remote)
        return cls(host, key_for(host))

    def hosted(self) -> list[str]:
        """The vision-language models that the service lists as deployed.

        Raises:
            ConnectionLost: it cannot be asked.
        """
        return hosted_models(self.host)

    def drift(self) -> dict[str, tuple[str, str]]:
        """Packages that decide what a trace means, whose version differs: ``{package: (here, there)}``.

        Raises:
            ConnectionLost: it cannot be asked.
        """
        return version_drift(self.host)

    def submission(self, model: HookedModel) -> Submission:
        """A backend that sends one job for a model to this service."""
        return Submission(model_key(model), self.host, self.key, model.nn._remoteable_get_env())

    @contextmanager
    def explained(self, model: HookedModel, submission: Submission) -> Iterator[None]:
        """While a job is sent: refusals of the service become errors that say what to do.

        Raises:
            NoKey, NotHosted, VersionDrift, ConnectionLost, RemoteFailure: see each.
        """
        if not self.key and self.host == PUBLIC:
            raise NoKey(
                f"{self.host} wants an API key and none is set. Get one at https://login.ndif.us, then run "
                "`nnsight login` once, or set NDIF_API_KEY."
            )
        try:
            yield
        except (RemoteError, ValidationError) as error:
            raise self._refusal(str(error), error.__cause__, submission) from error

    def failure(self, text: str, model: HookedModel) -> RemoteFailure:
        """What a job's ERROR means, as an error to raise."""
        lines = [line for line in text.strip().splitlines() if line.strip()]
        last = lines[-1] if lines else "no reason was given"
        if text.startswith(INTERRUPTIONS) or last.startswith(NO_RUNNER):
            return Interrupted(
                f"{self.host} stopped the job before it gave a result: {last} Nothing of it is used; "
                "the same call may be sent again."
            )
        if text.startswith(("Could not deploy", "Error provisioning")):
            return self._not_hosted(model, text)
        if "architecture on this server" in text:
            return VersionDrift(f"{text.strip().splitlines()[0]}{self._told_drift()}")
        place = users_line(lines)
        message = f"the job failed on {self.host}: {last}"
        if place:
            message += f"\n{place}"
        return JobFailed(message + self._told_drift(), text)

    def _refusal(self, text: str, cause: Any, submission: Submission) -> RemoteFailure:
        import httpx

        status = cause.response.status_code if isinstance(cause, httpx.HTTPStatusError) else None
        told = text.removeprefix("Failed to send request: ")
        if status in (401, 403) or (status == 400 and "API key" in told):
            return NoKey(
                f"{self.host} refused the API key: {told} Run `nnsight login`, or set NDIF_API_KEY, and send it again."
                + self._told_withheld()
            )
        if status == 400 and "version" in told:
            return VersionDrift(f"{self.host} refused this client: {told}{self._told_drift()}")
        tries = f"sent {submission.tries} times" if submission.tries > 1 else "sent once"
        if submission.fate == UNKNOWN:
            return ConnectionLost(
                f"the connection to {self.host} was lost while the job was being sent ({told}; {tries}). Whether it "
                "was accepted is not known. error.job.result() asks for it under its name, and a job sent anew has "
                "another: no result holds a question twice."
            )
        if submission.fate == NOT_STARTED and status is None:
            return ConnectionLost(
                f"{self.host} cannot be reached ({told}; {tries}); nothing was started. Check the address (NDIF_HOST)."
            )
        return RemoteFailure(f"{self.host} did not take the job: {told} ({tries})")

    def _told_withheld(self) -> str:
        if self.key or not CONFIG.API.APIKEY:
            return ""
        named = ", ".join(named_hosts()) or "none"
        return (
            f" Your key was not sent there: it goes to the host that your configuration names alone ({named}). If it "
            f"is the key of this host, set {NAMED_BY}={self.host} before Python starts."
        )

    def _not_hosted(self, model: HookedModel, text: str) -> NotHosted:
        try:
            names = self.hosted()
        except RemoteFailure:
            names = []
        listed = ", ".join(names) if names else "none that it lists"
        return NotHosted(
            f"{self.host} does not run {model.name!r}: {text.strip()} Vision-language models that it runs: {listed}. "
            "Load one of these with la.load(id, remote=True), or run this one here with remote=False."
        )

    def _told_drift(self) -> str:
        try:
            drift = self.drift()
        except RemoteFailure:
            return ""
        if not drift:
            return ""
        told = ", ".join(f"{name} {here} here and {there} there" for name, (here, there) in drift.items())
        return f"\nVersions differ ({told}), which may be the reason; nnsight.compare() shows all of them."


def model_key(model: HookedModel) -> str:
    """The name under which a service knows the model. A folder stands for itself, without asking the hub."""
    from nnsight.modeling.huggingface import _ID_CACHE

    repo = model.nn.repo_id
    if repo and Path(repo).is_dir():
        _ID_CACHE[repo] = repo
    if not repo:
        raise NotHosted(
            f"{model.name!r} was made here and has no Hugging Face id, so no service knows it. Load a model by its id."
        )
    return str(model.nn.to_model_key())


@dataclass(frozen=True)
class Readiness:
    """What :func:`check` found; ``ready`` says whether a call would go through as it stands."""

    host: str
    has_key: bool
    hosted: tuple[str, ...]
    runs_model: bool | None
    drift: dict[str, tuple[str, str]]

    @property
    def ready(self) -> bool:
        """A key where one is needed, and the model is not known to be missing."""
        return (self.has_key or self.host != PUBLIC) and self.runs_model is not False

    def __repr__(self) -> str:
        lines = [
            f"{self.host}: {'ready' if self.ready else 'not ready'}",
            f"  API key: {'set' if self.has_key else 'none'}",
            f"  vision-language models: {', '.join(self.hosted) or 'none listed'}",
        ]
        if self.runs_model is not None:
            lines.append(f"  this model: {'running' if self.runs_model else 'not running'}")
        told = [f"{name} {here} here, {there} there" for name, (here, there) in self.drift.items()]
        return "\n".join([*lines, f"  versions that differ: {'; '.join(told) or 'none that matter'}"])


@checked_call
def check(model: HookedModel | None = None, remote: Any = True) -> Readiness:
    """Ask a service what a remote call would meet: key, hosted models, version drift. Runs nothing.

    Raises:
        ConnectionLost: it cannot be reached.
    """
    service = Service.of(remote)
    hosted = tuple(service.hosted())
    runs = None if model is None else model.nn.repo_id in hosted
    return Readiness(service.host, bool(service.key), hosted, runs, service.drift())
