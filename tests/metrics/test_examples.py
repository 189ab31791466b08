"""The ladder of examples in the package's docstring runs as it stands."""

from __future__ import annotations

import doctest

from lostattn import metrics


def test_the_docstring() -> None:
    result = doctest.testmod(metrics)
    assert result.attempted >= 15
    assert result.failed == 0
