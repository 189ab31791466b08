"""What a service offers: the models that it runs, and the versions that it runs them with."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from lostattn.remote.failures import ConnectionLost, UnreadableResult
from lostattn.remote.line import Line
from lostattn.remote.told import detail, said

if TYPE_CHECKING:
    import httpx

VISION_TASKS = ("image-text-to-text", "visual-question-answering", "image-to-text")


def hosted_models(host: str) -> list[str]:
    """The vision-language models that a service lists as deployed.

    Raises:
        ConnectionLost: it cannot be asked.
    """
    deployments = page(host, "/status").get("deployments", {})
    listed = deployments.values() if isinstance(deployments, dict) else ()
    running = [d for d in listed if isinstance(d, dict) and d.get("deployment_level") in ("HOT", "WARM")]
    return sorted({said(d.get("repo_id"))[:200] for d in running if d.get("task") in VISION_TASKS})


def version_drift(host: str) -> dict[str, tuple[str, str]]:
    """Packages that decide what a trace means, whose version differs: ``{package: (here, there)}``.

    Raises:
        ConnectionLost: it cannot be asked.
    """
    from nnsight.ndif import EnvComparison, get_local_env

    there = page(host, "/env")
    packages = there.get("packages", {})
    plain = {said(k)[:100]: said(v)[:100] for k, v in packages.items()} if isinstance(packages, dict) else {}
    remote = {"python_version": said(there.get("python_version") or "unknown"), "packages": plain}
    comparison = EnvComparison(get_local_env(), remote)
    return {name: (v["local"], v["remote"]) for name, v in comparison.critical_mismatches.items()}


def page(host: str, path: str) -> dict[str, Any]:
    """A page of a service as data; asked for without a key.

    Raises:
        ConnectionLost: it cannot be asked, or answers with something else.
    """
    import httpx

    try:
        answer: httpx.Response = Line(host, "").ask("GET", path, timeout=httpx.Timeout(5.0, read=60.0))
        answer.raise_for_status()
        found = answer.json()
    except httpx.HTTPStatusError as error:
        raise ConnectionLost(f"{host} cannot be asked ({detail(error.response)}).") from error
    except (httpx.HTTPError, ValueError, RecursionError, UnreadableResult) as error:
        raise ConnectionLost(f"{host} cannot be reached ({said(error)}).") from error
    if not isinstance(found, dict):
        raise ConnectionLost(f"{host}{path} answers with a {type(found).__name__}. Is this an NDIF service?")
    return found
