"""The user's own line in a server's traceback: what is left without the toolkit's and the server's frames."""

from __future__ import annotations

import os
import re
from collections.abc import Sequence
from pathlib import Path

PACKAGE = Path(__file__).resolve().parents[1]
# Functions travel by source and keep the file that they came from, behind a mark: File "[name:1] /mine/hooks.py".
FRAME = re.compile(r'\s*File "(?:\[[^\]"]*\] ?)?([^"]*)"')


def users_line(lines: Sequence[str]) -> str:
    """The last place of a traceback that is neither this package's nor the server's own, with its line of code."""
    places = [(i, found.group(1)) for i, line in enumerate(lines) if (found := FRAME.match(line))]
    own = [i for i, file in places if "site-packages" not in Path(file).parts and not is_toolkits(file)]
    if not own:
        return ""
    code = lines[own[-1] + 1].strip() if own[-1] + 1 < len(lines) else ""
    return f"{lines[own[-1]].strip()}\n    {code}"


def is_toolkits(file: str) -> bool:
    """Whether a file is one of this package, wherever the package lies and whatever the folders around it are called.

    A stored job may have been sent from another machine: there, the place within the package has to do.
    """
    if os.path.exists(file):
        return Path(file).resolve().is_relative_to(PACKAGE)
    parts = Path(file).parts
    tails = [Path(*parts[i + 1 :]) for i, part in enumerate(parts[:-1]) if part == PACKAGE.name]
    return any(len(tail.parts) > 1 and os.path.exists(PACKAGE / tail) for tail in tails)
