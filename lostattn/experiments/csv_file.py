"""CSV in which no spreadsheet finds a formula."""

from __future__ import annotations

import csv
import re
import unicodedata
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import pandas

_NUMBER = re.compile(r"[+-]?(\d+\.?\d*|\.\d+)([eE][+-]?\d+)?", re.ASCII)
_BEGINS = set("=+-@＝＋－＠")  # a formula, in half and full width
_HIDDEN = ("Zs", "Zl", "Zp", "Cc", "Cf")  # blanks and marks before it, which a spreadsheet may drop


def write_csv(table: pandas.DataFrame, path: Path) -> None:
    """Write a table as CSV in which no text is a formula: one that begins like a formula gets a ``'`` before it.

    Numbers stay as they are, and so do texts that are nothing but a number.
    """
    import pandas as pd

    columns = {i: table.iloc[:, i] for i in range(table.shape[1])}
    safe = pd.DataFrame({i: _safe_column(column) for i, column in columns.items()}, index=table.index)
    safe.columns = pd.Index([safe_cell(name) for name in table.columns])
    # Python's csv leaves a lone carriage return bare, and whoever reads it takes what follows for a row of its own.
    texts = (str(value) for i in columns if _holds_text(safe.iloc[:, i]) for value in safe.iloc[:, i])
    returns = any("\r" in text for text in [*map(str, safe.columns), *texts])
    safe.to_csv(path, index=False, quoting=csv.QUOTE_NONNUMERIC if returns else csv.QUOTE_MINIMAL)


def safe_cell(value: Any) -> Any:
    """A value as it may stand in a cell of a spreadsheet."""
    if not isinstance(value, str) or _NUMBER.fullmatch(value):
        return value
    first = next((c for c in value if unicodedata.category(c) not in _HIDDEN), "")
    return f"'{value}" if first in _BEGINS or value[:1] in ("\t", "\r", "\n") else value


def _safe_column(column: pandas.Series) -> pandas.Series:
    return column.astype(object).map(safe_cell) if _holds_text(column) else column


def _holds_text(column: pandas.Series) -> bool:
    from pandas.api.types import is_bool_dtype, is_datetime64_any_dtype, is_numeric_dtype

    return not (is_numeric_dtype(column) or is_bool_dtype(column) or is_datetime64_any_dtype(column))
