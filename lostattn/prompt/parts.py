"""The parts of a prompt."""

from __future__ import annotations

PARTS = ("padding", "system", "image", "question", "answer", "template", "separator", "audio")
"""Every position is of exactly one part. The order is that of `TokenMap.part`."""
CODE = {name: code for code, name in enumerate(PARTS)}
"""The place of each in it."""
NO_TEXT = ("padding", "image", "audio", "separator")
"""Parts that are not text."""
