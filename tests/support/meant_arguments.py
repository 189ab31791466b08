"""What looks like a wrong argument and is none.

A value that is taken is meant where the annotation admits it, as beartype judges: the package itself
never asks beartype, so the two are independent. What the annotation admits and nobody can mean is listed here as well.
"""

from __future__ import annotations

import builtins
import contextlib
import importlib
import inspect
import sys
from typing import Any

import numpy
import pandas
import torch
from beartype.door import is_bearable

# Values that nothing can mean where a number, a state or a name is asked for: taken, they are taken in silence.
NEVER = (
    "a very huge int",
    "on the meta device",
    "sparse",
    "with a nan",
    "with a inf",
    "with a -inf",
    "a complex tensor",
)
# What is taken all the same: which callable, which argument and value (all where empty), and why.
TAKEN = (
    ("ActivationCache.save", "", "an unknown keyword", "any keyword is something to be known about the run"),
    ("LVLM.trace", "", "an unknown keyword", "keywords go on to nnsight, which gives them to the model"),
    ("Composition", "parts", "", "one part, or a list of them, becomes a tuple"),
    ("data.Question", "", "an empty list", "a list becomes a tuple"),
    ("data.Question", "together", "a dict of objects", "what questions share is the caller's own"),
    ("TokenMap", "part", "on the meta device", "of a model that is described without its weights"),
    ("Steer", "vector", "numpy", "numbers become a tensor"),
    ("ActivationCache.", "", "with a", "a NaN of the pass comes out as NaN, where it is seen"),
    ("answers.", "logits", "with a", "so does one in the logits; -inf is a token that was ruled out"),
    ("gradients.Gradients", "logits", "with a", "as it came out of the pass"),
    ("lenses.ImageAttribution", "values", "with a", "as it came out of the pass"),
    ("lenses.Readout", "", "with a", "as it came out of the pass"),
    ("reductions.", "", "with a", "states are looked at inside the pass, where the metrics are made"),
)


def meant(name: str, function: Any, what: str, value: Any, given: inspect.Parameter | None) -> bool:
    """Whether a value that was taken means something there."""
    parameter = "" if given is None else given.name
    for callable_, own, kind, _ in TAKEN:
        if name.startswith(callable_) and own in ("", parameter) and what.startswith(kind):
            return True
    if given is None or what in NEVER:
        return False
    if value is given.default:
        return True
    hint = annotation(function, given)
    if hint is inspect.Parameter.empty or hint is Any:
        return True
    with contextlib.suppress(Exception):
        return is_bearable(value, hint) or (type(value) is int and is_bearable(float(value), hint))
    return False


def annotation(function: Any, given: inspect.Parameter) -> Any:
    """A parameter's annotation, evaluated where the function was written."""
    written = getattr(given.annotation, "__forward_arg__", given.annotation)
    if not isinstance(written, str):
        return written
    function = inspect.unwrap(getattr(function, "__func__", function))
    kind = function if isinstance(function, type) else None
    module = sys.modules[(kind or function).__module__]
    names = {**vars(builtins), **vars(module), "pandas": pandas, "torch": torch, "np": numpy}
    names["matplotlib"] = importlib.import_module("matplotlib")
    try:
        return eval(written, names)
    except NameError:
        return Any
