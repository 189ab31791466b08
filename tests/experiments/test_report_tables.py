"""The tables of the report that are made of other tables."""

from __future__ import annotations

import pandas as pd

from lostattn.demo import by_kind


def test_the_table_by_kind_tells_what_could_not_be_read() -> None:
    """A column a kind that has unread answers under any condition, and one for all kinds."""
    unread = {("untouched", "colour"): 0.25, ("cut", "colour"): 0.0}
    rows = [
        {"model": "m", "condition": c, "kind": k, "accuracy": 0.5, "unread": unread.get((c, k), 0.125 * (k == "all"))}
        for c in ("untouched", "cut")
        for k in ("all", "colour", "shape")
    ]
    table = by_kind(pd.DataFrame(rows))
    assert list(table) == ["model", "condition", "colour", "shape", "colour, unread", "unread"]
    assert table["colour, unread"].tolist() == [0.25, 0.0] and table["unread"].tolist() == [0.125, 0.125]
    old = by_kind(pd.DataFrame(rows).drop(columns="unread"))
    assert list(old) == ["model", "condition", "colour", "shape"]
