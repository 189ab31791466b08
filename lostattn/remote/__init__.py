"""Running on NDIF: the same calls with ``remote=True``.

Every call that runs the model takes ``remote=``: ``True`` sends it to the configured NDIF service, a URL to another
one, and ``"local"`` rehearses the whole way here, serialization and all. What is sent is the plan of the pass as plain
dicts, tensors and the source of module-level functions; what comes back is what was asked for.

::

    model = la.load("llava-hf/llava-1.5-7b-hf", remote=True)      # described, without its weights
    logits, cache = model.run_with_cache(prompt, "pattern3", remote=True)

    with la.remote.Session(model) as session:                     # many passes, one job
        answers = [session.generate(prompt, edit) for prompt in prompts]
    answers[0].result()

    job = la.remote.submit(model.generate, prompt, edit)          # does not wait
    job.save("job.json")
    la.remote.Job.load("job.json", model).result()                # in another process, too
"""

from __future__ import annotations

from lostattn.remote.failures import (
    ConnectionLost,
    Interrupted,
    JobFailed,
    NoKey,
    NotHosted,
    RemoteFailure,
    UnknownJob,
    UnreadableResult,
    VersionDrift,
)
from lostattn.remote.jobs import Job
from lostattn.remote.service import Service, check
from lostattn.remote.session import Later, Session, submit

__all__ = [
    "ConnectionLost",
    "Interrupted",
    "Job",
    "JobFailed",
    "Later",
    "NoKey",
    "NotHosted",
    "RemoteFailure",
    "Service",
    "Session",
    "UnknownJob",
    "UnreadableResult",
    "VersionDrift",
    "check",
    "submit",
]
