"""What a server says, made fit to be shown and believed."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING, Any

from nnsight.schema.response import ResponseModel

from lostattn.remote.failures import UnreadableResult
from lostattn.saved.text import printable

if TYPE_CHECKING:
    import httpx

LONGEST = 100_000  # characters of a text that is shown; of a longer one the end, where a traceback has its error
JOB = re.compile(r"[A-Za-z0-9_-]{1,128}")


def said(text: object, key: str = "") -> str:
    """A server's text without what steers a terminal, and without the key, which some servers say back."""
    shown = printable(str(text)[-LONGEST:])
    return shown.replace(key, "…") if key else shown


def is_job(name: object) -> bool:
    """Whether this can be the name of a job: it becomes a part of addresses."""
    return isinstance(name, str) and JOB.fullmatch(name) is not None


def read_response(answer: httpx.Response, key: str = "") -> ResponseModel:
    """What a service says about a job.

    Raises:
        ValidationError: the answer was cut short, or is of another kind.
        UnreadableResult: it names the job, or where its result is, in a way that cannot be meant.
    """
    response = ResponseModel.model_validate_json(answer.content)
    if not is_job(response.id) or not (response.data is None or isinstance(response.data, str)):
        raise UnreadableResult(
            f"{answer.url.host} answered with a job or result of another kind than NDIF's. Is this an NDIF service?"
        )
    return response.model_copy(update={"description": said(response.description, key), "meta": None})


def detail(answer: httpx.Response, key: str = "") -> str:
    """The reason that a refusal gives, or its status."""
    if answer.is_redirect:
        place = said(answer.headers.get("location", "elsewhere"), key)[:200]
        return (
            f"it sends on to {place!r}, which is not followed: the key and the job go to the host that you name. "
            "If the service is there, name that (NDIF_HOST)."
        )
    told: Any = None
    try:
        body = answer.json()
        told = body.get("detail") if isinstance(body, dict) else body
    except (ValueError, RecursionError):
        told = answer.text
    return said(told, key)[:2000] or f"status {answer.status_code}"
