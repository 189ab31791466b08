"""A benchmark's files from the hub, at one commit, kept in the hub's own cache."""

from __future__ import annotations

import os
from collections.abc import Sequence
from fnmatch import fnmatch
from pathlib import Path
from typing import Any, NamedTuple

from lostattn.errors import InputError


class Fetched(NamedTuple):
    """Files at one commit; opened ones where they are streamed."""

    files: list[Any]
    names: list[str]
    commit: str


def fetch(source: str, patterns: Sequence[str], revision: str | None, stream: bool = False) -> Fetched:
    """The files of the first pattern that matches any.

    A download that breaks off goes on where it was when it is asked for again; without a connection the cache is read.

    Args:
        source: the id of a data set on the hub.
        patterns: of file names; the later ones are for copies that are laid out otherwise.
        revision: a commit, branch or tag; None is the newest commit, which is told in the result.
        stream: open parquet files over the network instead of downloading them.

    Raises:
        InputError: no such data set, revision or file; a gated set; no connection and nothing in the cache.
    """
    from huggingface_hub import HfApi, HfFileSystem, hf_hub_download  # slow, and needed for the network alone
    from huggingface_hub.errors import HfHubHTTPError, OfflineModeIsEnabled

    endpoint = os.environ.get("HF_ENDPOINT") or None
    try:
        about = HfApi(endpoint=endpoint).dataset_info(source, revision=revision)
    except OfflineModeIsEnabled:
        return _cached(source, patterns, revision, "the hub is switched off (HF_HUB_OFFLINE)")
    except HfHubHTTPError as error:
        raise InputError(_refusal(source, revision, error)) from error
    except Exception as error:  # whatever the client's transport raises: it changes with its version
        return _cached(source, patterns, revision, f"the hub cannot be reached ({_short(error)})")
    commit = str(about.sha)
    names = _matching([one.rfilename for one in about.siblings or ()], patterns)
    if not names:
        raise InputError(
            f"the data set {source!r} at {commit[:12]} has no file {' or '.join(patterns)}; name a revision that has, "
            "or give its files by path=."
        )
    if stream and all(name.endswith(".parquet") for name in names):
        system = HfFileSystem(endpoint=endpoint)
        return Fetched([system.open(f"datasets/{source}@{commit}/{name}", "rb") for name in names], names, commit)
    try:
        paths = [
            hf_hub_download(source, name, repo_type="dataset", revision=commit, endpoint=endpoint) for name in names
        ]
    except HfHubHTTPError as error:
        raise InputError(_refusal(source, commit, error)) from error
    except Exception as error:
        raise InputError(
            f"the download of {source!r} broke off ({_short(error)}). Load it again: what is there already is kept."
        ) from error
    _remember(Path(paths[0]), names[0], revision or "main", commit)
    return Fetched([Path(path) for path in paths], names, commit)


def _remember(path: Path, name: str, revision: str, commit: str) -> None:
    """Note in the cache which commit a branch or tag was, as the hub's client does for what is asked by that name.

    The files are asked for by their commit, so that all are of one; without a connection they are looked for by name.
    """
    snapshots = path.parents[len(Path(name).parts)]
    if revision == commit or snapshots.name != "snapshots":
        return
    note = snapshots.parent / "refs" / revision
    note.parent.mkdir(parents=True, exist_ok=True)
    note.write_text(commit, encoding="utf-8")


def _matching(names: Sequence[str], patterns: Sequence[str]) -> list[str]:
    for pattern in patterns:
        if found := sorted(name for name in names if fnmatch(name, pattern)):
            return found
    return []


def _cached(source: str, patterns: Sequence[str], revision: str | None, why: str) -> Fetched:
    """What the cache has of a data set at a revision.

    Raises:
        InputError: nothing.
    """
    from huggingface_hub import snapshot_download

    try:
        root = Path(snapshot_download(source, repo_type="dataset", revision=revision, local_files_only=True))
    except Exception as error:
        raise InputError(
            f"{why}, and the cache does not hold {source!r}{f' at {revision}' if revision else ''}. Connect once, or "
            "give its files by path=."
        ) from error
    names = _matching([str(path.relative_to(root)) for path in root.rglob("*") if path.is_file()], patterns)
    if not names:
        raise InputError(f"{why}, and the cache holds no file {' or '.join(patterns)} of {source!r}; connect once.")
    return Fetched([root / name for name in names], names, root.name)


def _refusal(source: str, revision: str | None, error: Exception) -> str:
    kind = type(error).__name__
    if kind == "GatedRepoError":
        return (
            f"the data set {source!r} is gated: accept its terms on its page, log in with `hf auth login` (or set "
            "HF_TOKEN), and load it again."
        )
    if kind == "RevisionNotFoundError":
        return f"the data set {source!r} has no revision {revision!r}; name a commit, a branch or a tag of it."
    if kind == "RepositoryNotFoundError":
        return f"the hub has no data set {source!r}, or none that you may read; name another by source=, or log in."
    return f"the hub refused {source!r} ({_short(error)})."


def _short(error: Exception) -> str:
    return " ".join(str(error).split())[:160] or type(error).__name__
