"""The parts of a prompt."""

from __future__ import annotations

PARTS = (
    "padding", "system", "image", "question", "answer", "template", "separator", "audio", "history", "thought",
)  # fmt: skip
"""Every position is of exactly one part. The order is that of `TokenMap.part`; new ones come last, for saved maps."""
CODE = {name: code for code, name in enumerate(PARTS)}
"""The place of each in it."""
NO_TEXT = ("padding", "image", "audio", "separator")
"""Parts that are not text."""
