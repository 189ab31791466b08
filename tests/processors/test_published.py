"""What the checkpoints publish is what the processors under test run with."""

from __future__ import annotations

import families
import pytest
from published import PUBLISHED


@pytest.mark.parametrize("name", families.MAKERS)
def test_every_published_setting_is_in_effect(name):
    """A setting that transformers no longer knows by its name would be dropped without a word."""
    family = families.family(name)
    held, expected = family.processor.image_processor.to_dict(), dict(PUBLISHED[family.name].image)
    if "min_pixels" in expected:  # an older way to write the size
        edges = {"shortest_edge": expected.pop("min_pixels"), "longest_edge": expected.pop("max_pixels")}
        assert expected.setdefault("size", edges) == edges
    for key, value in expected.items():
        if value is None:  # left to the processor, which fills it in at the call
            assert held.get(key) is None, key
        else:
            assert (list(held[key]) if isinstance(held[key], tuple) else held[key]) == value, key
    for key, value in PUBLISHED[family.name].processor.items():
        assert getattr(family.processor, key) == value, key


def test_every_family_says_where_its_settings_were_seen():
    assert {family.name for family in map(families.family, families.MAKERS)} <= set(PUBLISHED)
    assert all(one.source and "/" in one.checkpoint for one in PUBLISHED.values())
