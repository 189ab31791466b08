"""The file in which a job waits to be picked up: what stands in it, and what is made sure of before it is believed."""

from __future__ import annotations

import json
import warnings
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch

from lostattn.errors import InputError
from lostattn.files import write_text
from lostattn.points.hooked_model import HookedModel
from lostattn.remote.told import is_job
from lostattn.run.calls import Reading
from lostattn.saved.reading import read_json, told_where
from lostattn.saved.shape import COUNT, Rule, checked, either, fixed, one_of

FORMAT = 1
WHAT = "stored job"
LARGEST = 1 << 27  # bytes; interventions may hold tensors
_DTYPES = [name for name, dtype in vars(torch).items() if isinstance(dtype, torch.dtype)]
READING = {
    "kind": one_of("cache", "logits", "numbers", "measures", "generation", "raw"),
    "names": [str],
    "device": either(None, Rule(lambda v: _is_device(v), "the name of a device")),
    "dtype": either(None, Rule(lambda v: isinstance(v, str) and v in _DTYPES, "the name of a dtype")),
    "n_pos": COUNT,
    "n_items": COUNT,
    "ends": [COUNT],
    "interventions": either(None, dict),
    "edits?": [fixed(str, str)],
    "last?": [COUNT],
}
JOB = {
    "format": one_of(FORMAT),
    "job": Rule(is_job, "the name of a job"),
    "host": str,
    "model": str,
    "single": bool,
    "readings": [READING],
    "sent?": COUNT,
}


@dataclass(frozen=True)
class StoredJob:
    """What a file says of a job. Its host is what the file says, and nobody's choice yet."""

    id: str
    host: str
    single: bool
    readings: tuple[Reading, ...]
    sent: int


def write_job(
    path: str | Path, id: str, host: str, model: str, single: bool, readings: Sequence[Reading], sent: int
) -> None:
    """Write a small JSON file; it holds no key.

    Raises:
        InputError: it would be too large to be read again.
    """
    data = {
        "format": FORMAT,
        "job": id,
        "host": host,
        "model": model,
        "single": single,
        "readings": [reading.to_dict() for reading in readings],
        "sent": sent,
    }
    text = json.dumps(data, indent=1)
    if len(text) > LARGEST:
        raise InputError(
            f"the job takes {len(text)} bytes to store, and up to {LARGEST} are read again: its interventions hold "
            "large tensors. Wait for it here instead: job.result()."
        )
    write_text(path, text)


def read_job(path: str | Path, model: HookedModel) -> StoredJob:
    """Read a file that :func:`write_job` wrote, for a model.

    Raises:
        InputError: it is no stored job, or one of another model.
    """
    data = checked(read_json(path, WHAT, LARGEST), JOB, str(path), WHAT)
    if data["model"] != model.name:
        raise InputError(
            f"{path} holds a job of {data['model'][:200]!r}, and the model given is {model.name!r}; load that one."
        )
    if data["single"] and len(data["readings"]) != 1:
        raise InputError(f"{path} holds a job of one call and {len(data['readings'])} ways to read it; expected one.")
    readings = tuple(_reading(one, model, str(path)) for one in data["readings"])
    return StoredJob(data["job"], data["host"], data["single"], readings, data.get("sent", 0))


def _reading(data: dict[str, Any], model: HookedModel, where: str) -> Reading:
    unknown = [name for name in data["names"] if name not in model.hook_names]
    if unknown:
        raise InputError(f"{where} holds a job that kept {unknown[0][:200]!r}, which is no hook point of this model.")
    names = [name.removesuffix("?") for name in READING]
    with told_where(where, WHAT):
        reading = Reading.from_dict({name: data[name] for name in names if name in data})
    if reading.device is not None and not _is_here(reading.device):
        warnings.warn(
            f"the job in {where} keeps its values on {reading.device[:40]!r}, which is not here: they stay on the CPU.",
            stacklevel=4,
        )
        reading = replace(reading, device="cpu")
    return reading


def _is_device(name: Any) -> bool:
    try:
        return isinstance(name, str) and torch.device(name).type != "meta"
    except RuntimeError:
        return False


def _is_here(device: str) -> bool:
    """Whether something can be put there."""
    try:
        torch.empty(0, device=device)
    except (RuntimeError, AssertionError, NotImplementedError):  # torch raises each of them for one kind of device
        return False
    return True
