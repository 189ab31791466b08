"""Checkpoints that were proved on this machine: a small file each in the user's cache folder.

A record is believed where all that a proof depends on is the same (:mod:`lostattn.selftest.proof_key`), and brings back
what the proof found out about hook points. One that cannot be read is none; one that cannot be written is left.
"""

from __future__ import annotations

import hashlib
import json
import logging
import os
import tempfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from lostattn.errors import LostAttnError
from lostattn.files.places import cache_folder
from lostattn.points.hooked_model import HookedModel
from lostattn.points.settled_sites import describe_sites, restore_sites
from lostattn.saved.reading import read_json

FORMAT = "lostattn proof 1"
LONGEST = 1 << 24  # bytes; a hundred layers take a hundredth of that
log = logging.getLogger("lostattn")


def recall_proof(model: HookedModel, key: Mapping[str, Any]) -> bool:
    """Whether a checkpoint was proved before; its hook points are then those that the proof found."""
    try:
        held = read_json(_path(key), "proof", LONGEST)
    except (LostAttnError, RuntimeError):
        return False
    if not isinstance(held, dict) or held.get("format") != FORMAT or held.get("key") != _as_read(key):
        return False
    sites = restore_sites(model.sites, held.get("sites", {}))
    if sites is None:
        return False
    model.sites = sites
    return True


def note_proof(model: HookedModel, key: Mapping[str, Any]) -> None:
    """Remember that a checkpoint was proved; the file is there as a whole or not at all."""
    text = json.dumps({"format": FORMAT, "key": key, "sites": describe_sites(model.sites)}, indent=1)
    try:
        path = _path(key)
        path.parent.mkdir(parents=True, exist_ok=True)
        handle, beside = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}.")
        try:
            with os.fdopen(handle, "w", encoding="utf-8") as file:
                file.write(text)
            os.replace(beside, path)
        except BaseException:
            Path(beside).unlink(missing_ok=True)
            raise
    except (OSError, RuntimeError) as error:  # RuntimeError: nobody's home folder is known
        log.info("the proof of %s is not remembered: %s", model.name, error)


def _path(key: Mapping[str, Any]) -> Path:
    digest = hashlib.sha256(json.dumps(key, sort_keys=True).encode()).hexdigest()
    return cache_folder() / "proofs" / f"{digest[:32]}.json"


def _as_read(key: Mapping[str, Any]) -> Any:
    return json.loads(json.dumps(key))
