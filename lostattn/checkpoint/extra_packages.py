"""Packages that single families need to be built, kept in a folder of their own.

timm's models want torchvision, and torchvision beside transformers switches every family to other image processors: it
must not come into the environment in which people work. `make conformance` installs these packages, without their
dependencies, into a folder that only the worker of :mod:`lostattn.conformance.scan` looks into.
"""

from __future__ import annotations

import importlib.util
import sys
from pathlib import Path

FOLDER = ".conformance"  # of the directory in which the command is run
PACKAGES = ("scipy", "timm", "torchvision")
_BOXES = "(Tensor dets, Tensor scores, float iou_threshold) -> Tensor"


def use(folder: str | Path) -> bool:
    """Put the folder on this process' path, where it exists; whether it does."""
    if not folder or not Path(folder).is_dir():
        return False
    sys.path.append(str(Path(folder).resolve()))
    _declare_operators()
    return True


def missing_packages() -> list[str]:
    """Those of the packages that this process cannot import."""
    return [name for name in PACKAGES if importlib.util.find_spec(name) is None]


def _declare_operators() -> None:
    """Declare the operators that torchvision describes at import, where its own library does not load.

    A torchvision that was compiled for another build of torch has a library that cannot be loaded, and its import fails
    for want of two operators. No model of a family calls them, so their names are all that it takes.
    """
    found = importlib.util.find_spec("torchvision")
    if found is None or found.origin is None:
        return
    import torch

    try:
        torch.ops.load_library(str(next(Path(found.origin).parent.glob("_C*"))))
    except (OSError, StopIteration):
        for name in ("nms", "qnms"):
            torch.library.define(f"torchvision::{name}", _BOXES)
