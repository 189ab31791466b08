"""Pictures and videos as they are given, and which of their pixels a tensor shows."""

from __future__ import annotations

from lostattn.pictures.loading import load_picture, load_pictures

__all__ = ["load_picture", "load_pictures"]
