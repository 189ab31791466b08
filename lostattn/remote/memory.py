"""How much of this machine's memory one answer of a server may take."""

from __future__ import annotations

import functools
import os

SHARE = 2  # of the machine's memory, one part in so many
OTHERWISE = 8 << 30  # bytes, where the machine does not say what it has


@functools.cache
def largest() -> int:
    """The most bytes that one answer may have."""
    try:
        return os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") // SHARE
    except (AttributeError, ValueError, OSError):  # not on Windows
        return OTHERWISE
