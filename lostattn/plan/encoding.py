"""Interventions as JSON: what their fields hold, written so that it comes back the same."""

from __future__ import annotations

import base64
import dataclasses
import reprlib
from collections.abc import Mapping
from typing import Any

import numpy as np
import torch
from torch import Tensor

from lostattn.errors import InputError, LostAttnError, UnknownName, nearest


def encode(value: Any) -> Any:
    """A field's value as JSON-ready data; tuples, slices, tensors and dicts are objects with one key.

    Raises:
        InputError: a value of a type that has no place in JSON.
    """
    if hasattr(value, "to_dict"):
        return value.to_dict()
    if isinstance(value, np.ndarray):
        value = torch.from_numpy(value)
    if isinstance(value, Tensor):
        from safetensors.torch import save

        stored = save({"value": value.detach().cpu().contiguous()})
        return {"tensor": base64.b64encode(stored).decode("ascii")}
    if isinstance(value, slice):
        return {"slice": [value.start, value.stop, value.step]}
    if isinstance(value, tuple):
        return {"tuple": [encode(v) for v in value]}
    if isinstance(value, list):
        return [encode(v) for v in value]
    if isinstance(value, dict):
        return {"dict": [[encode(k), encode(v)] for k, v in sorted(value.items(), key=lambda item: item[0])]}
    if isinstance(value, np.generic):
        value = value.item()
    if value is None or isinstance(value, bool | int | float | str):
        return value
    if value is dataclasses.MISSING:
        return {"missing": True}
    raise InputError(f"{type(value).__name__} {value!r} does not go to JSON; use numbers, names, slices or tensors.")


def decode(data: Any, known: Mapping[str, type]) -> Any:
    """The value that :func:`encode` wrote; ``known`` are the classes that may stand under ``"type"``.

    Raises:
        InputError: an object that :func:`encode` does not write, or fields that do not fit their class.
        UnknownName: a class that is not among the known.
    """
    if isinstance(data, list):
        return [decode(v, known) for v in data]
    if not isinstance(data, dict):
        return data
    if "type" in data:
        return _instance(data, known)
    try:
        ((kind, held),) = data.items()
        if kind == "tensor":
            from safetensors.torch import load

            return load(base64.b64decode(held, validate=True))["value"]
        if kind == "slice":
            start, stop, step = held
            if not all(end is None or type(end) is int for end in held):
                raise TypeError("the ends of a slice are whole numbers")
            return slice(start, stop, step)
        if kind == "tuple":
            return tuple(decode(v, known) for v in held)
        if kind == "dict":
            return {decode(k, known): decode(v, known) for k, v in held}
    except InputError:
        raise
    except Exception as error:  # safetensors raises its own kind, base64 and unpacking others
        raise InputError(f"cannot read {_short(data)} from JSON: {error}. Expected what .to_json() wrote.") from error
    raise InputError(f"cannot read {_short(data)} from JSON. Expected what .to_json() wrote.")


def _instance(data: dict[str, Any], known: Mapping[str, type]) -> Any:
    name = data["type"]
    if not isinstance(name, str) or name not in known:
        said = str(name)[:200]
        raise UnknownName(f"no intervention or source is called {said!r}.{nearest(said, known)}")
    fields = {f.name for f in dataclasses.fields(known[name])}
    given = {k: decode(v, known) for k, v in data.items() if k != "type"}
    if unknown := sorted(set(given) - fields):
        raise InputError(f"{name} has no field {unknown[0]!r}; its fields are {', '.join(sorted(fields))}.")
    try:
        return known[name](**given)
    except LostAttnError:
        raise
    except Exception as error:  # fields that are missing or alien; a class of somebody's own raises what it likes
        raise InputError(f"the JSON does not make a {name}: {str(error)[:300]}.") from error


def holds_tensors(value: Any) -> bool:
    """Whether a field's value is a tensor, or a dict, a sequence or an intervention's part with one in it."""
    if dataclasses.is_dataclass(value):
        return any(holds_tensors(getattr(value, field.name)) for field in dataclasses.fields(value))
    inside = value.values() if isinstance(value, dict) else value if isinstance(value, tuple | list) else ()
    return isinstance(value, Tensor) or any(map(holds_tensors, inside))


def summary(value: Any) -> str:
    """A field's value for a repr: tensors by shape and dtype, everything else as Python writes it."""
    if isinstance(value, Tensor):
        return f"<{str(value.dtype).removeprefix('torch.')} {tuple(value.shape)}>"
    if isinstance(value, dict):
        return "{" + ", ".join(f"{k!r}: {summary(v)}" for k, v in value.items()) + "}"
    if isinstance(value, tuple | list) and any(isinstance(v, Tensor) for v in value):
        inside = ", ".join(map(summary, value))
        return f"[{inside}]" if isinstance(value, list) else f"({inside},)"
    return repr(value)


def _short(data: Any) -> str:
    text = reprlib.repr(data)
    return text if len(text) <= 80 else f"{text[:77]}..."
