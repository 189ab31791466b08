"""Where things are in a Hugging Face model, read from its modules, its config and its sources."""

from __future__ import annotations

from lostattn.architecture.resolve import resolve
from lostattn.architecture.structure import Architecture, Attention, Block, Stack, Update, Vision

__all__ = ["Architecture", "Attention", "Block", "Stack", "Update", "Vision", "resolve"]
