"""Tests of transformers' video processors, which need torchvision.

It must not come into the environment in which everything else is tested: beside it transformers takes other image
processors. So these files are collected only in the process that ``tests/test_video_processors.py`` starts for them.
"""

from __future__ import annotations

import os

collect_ignore_glob = [] if os.environ.get("LOSTATTN_TESTS_WITH_TORCHVISION") else ["test_*.py"]
