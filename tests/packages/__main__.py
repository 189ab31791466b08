"""Run the checks of this folder with the packages that `make conformance` installs: ``python tests/packages``.

They must be found before transformers is imported, which looks for them then; so the other tests do without.
"""

from __future__ import annotations

import sys
from pathlib import Path

from lostattn.checkpoint.extra_packages import FOLDER, missing_packages, use

use(FOLDER)
if missing_packages():
    sys.exit(f"{', '.join(missing_packages())} are not here; `make conformance` installs them.")

import pytest  # noqa: E402

checks = sorted(map(str, Path(__file__).parent.glob("check_*.py")))
# The package is imported already, so this runs without the check of its types; warnings are those of other packages.
options = ["-q", "-W", "default", "-o", "addopts=--import-mode=importlib -ra", "-o", "pythonpath=tests/support"]
sys.exit(pytest.main([*options, *checks, *sys.argv[1:]]))
