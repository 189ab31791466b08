"""Text that others wrote, fit to be shown in a message or a terminal."""

from __future__ import annotations

import unicodedata

# Control and format characters move a terminal's cursor or turn text around; two of them only set it.
STEERING, HARMLESS = ("Cc", "Cf", "Cs"), "\n\t"


def printable(text: object) -> str:
    """A text without what steers a terminal."""
    return "".join(c for c in str(text) if c in HARMLESS or unicodedata.category(c) not in STEERING)
