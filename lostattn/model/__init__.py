"""The model as its users meet it."""

from __future__ import annotations

from lostattn.model.load import load
from lostattn.model.lvlm import LVLM

__all__ = ["LVLM", "load"]
