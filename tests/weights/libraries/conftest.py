"""Tests of weights that libraries quantise and adapt, which need those libraries.

transformers asks which of them are there when it is first imported, and some change what it loads; so these files are
collected only in the process that ``tests/weights/test_libraries.py`` starts for them, the only one that sees them.
"""

from __future__ import annotations

import os

collect_ignore_glob = [] if os.environ.get("LOSTATTN_TESTS_WITH_WEIGHTS") else ["test_*.py"]
