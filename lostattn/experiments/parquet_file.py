"""Parquet files from anybody, read as plain columns of a bounded size."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

from lostattn.errors import InputError
from lostattn.saved.reading import opened, parsed_json
from lostattn.saved.shape import checked, either, one_of

if TYPE_CHECKING:
    import pandas
    import pyarrow

LARGEST = 1 << 31  # bytes of a table's values once they are unpacked
MOST_COLUMNS = 10_000
_ROWS = 1 << 14  # at a time
_PANDAS = b"pandas"  # of the metadata in a parquet file's schema, where pandas says which columns were what
_DTYPES = re.compile(
    r"object|str|string(\[(python|pyarrow|pyarrow_numpy)\])?|bool|boolean|[Uu]?[Ii]nt(8|16|32|64)"
    r"|[Ff]loat(16|32|64)|datetime64\[\w+(, [\w/+:-]+)?\]|timedelta64\[\w+\]|category"
)
_LABELS = one_of("object", "str", "int64")
_SAID = {
    "columns": [{"name": either(None, str), "pandas_type": str, "numpy_type": str}],
    "column_indexes?": [{"pandas_type": str, "numpy_type": _LABELS}],
    "attributes?": dict,
}


def read_parquet(path: Path, key: bytes) -> tuple[pandas.DataFrame, dict[bytes, bytes]]:
    """The table of a parquet file, and what its schema's metadata says, the words under a key among it.

    Columns hold plain values: no type of somebody's own is looked up, and of what pandas notes beside a table nothing
    is believed but the dtypes of its columns.

    Raises:
        InputError: it is no parquet file or not whole, holds more than is read, types of somebody's own, or no such
            key.
    """
    import pyarrow.parquet

    shown = repr(str(path))[:300]
    with opened(path, "table of results") as file:
        try:
            stored = pyarrow.parquet.ParquetFile(file, pre_buffer=False, page_checksum_verification=True)
            schema = stored.schema_arrow
            texts = [field.name for field in schema if _is_text(field.type)]
        except Exception as error:  # Arrow's own, and what decoding a damaged schema ends in
            raise _unreadable(shown, error) from error
        said = schema.metadata or {}
        if key not in said:
            raise InputError(
                f"{shown} does not say where it comes from. Pass a file written by Results.save, or "
                "read the table alone with pandas.read_parquet."
            )
        _check_claims(stored, shown)
        file.seek(0)
        try:
            # Texts come as places in a list of texts: one that stands in each row is not written out unseen.
            stored = pyarrow.parquet.ParquetFile(
                file, read_dictionary=texts, pre_buffer=False, page_checksum_verification=True
            )
            table = pyarrow.Table.from_batches(_batches(stored, shown), stored.schema_arrow)
            table = _written_out(table, schema, shown).replace_schema_metadata(_cleaned(said.get(_PANDAS)))
            table.validate(full=True)  # texts are UTF-8; Arrow itself believes it
            return table.to_pandas(), said
        except InputError:
            raise
        except Exception as error:
            raise _unreadable(shown, error) from error


def _check_claims(stored: Any, shown: str) -> None:
    """Whether a file says of itself that it can be read: its columns, and how many values they unpack to."""
    import pyarrow

    schema, about = stored.schema_arrow, stored.metadata
    names = schema.names
    if len(names) > MOST_COLUMNS or len(set(names)) < len(names):
        raise InputError(
            f"{shown} has {len(names)} columns, {len(set(names))} of names of their own; expected a table."
        )
    own = next((field for field in schema if _holds_own_type(field.type, pyarrow)), None)
    if own is not None:
        raise InputError(
            f"{shown} has a column {own.name[:80]!r} of a type of somebody's own ({str(own.type)[:80]}); expected "
            "numbers, texts, truths, times, or lists of them."
        )
    groups = [about.row_group(i) for i in range(about.num_row_groups)]
    values = sum(group.column(j).num_values for group in groups for j in range(group.num_columns))
    n_bytes = max(8 * values, sum(group.total_byte_size for group in groups), 8 * about.num_rows)
    if not 0 <= n_bytes <= LARGEST:
        raise _too_large(shown, n_bytes)


def _batches(stored: Any, shown: str) -> Iterator[pyarrow.RecordBatch]:
    """The rows of a file, as long as they are no more than is read."""
    n_bytes = 0
    for batch in stored.iter_batches(_ROWS, use_threads=False):
        n_bytes += batch.nbytes
        if n_bytes > LARGEST:
            raise _too_large(shown, n_bytes)
        yield batch


def _written_out(table: pyarrow.Table, schema: pyarrow.Schema, shown: str) -> pyarrow.Table:
    """A table whose texts stand in their rows, as the file's schema has them."""
    import pyarrow.compute as compute

    n_bytes = 0
    for field in schema:
        if not _is_text(field.type):
            continue
        for chunk in table[field.name].chunks:
            lengths = compute.binary_length(chunk.dictionary).take(chunk.indices)
            n_bytes += compute.sum(lengths.cast("int64")).as_py() or 0
        if n_bytes > LARGEST:
            raise _too_large(shown, n_bytes)
    return table.cast(schema)


def _cleaned(said: bytes | None) -> dict[bytes, bytes]:
    """What pandas noted beside a table, as far as it says which dtypes its columns had."""
    if said is None:
        return {}
    try:
        found = checked(parsed_json(said, "pandas' note", loose=True), _SAID, "the file", "note of pandas")
    except InputError:
        return {}
    columns = [one for one in found["columns"] if _DTYPES.fullmatch(one["numpy_type"])]
    kept = {
        "index_columns": [],
        "column_indexes": [_column(one, None) for one in found.get("column_indexes", [])][:1],
        "columns": [_column(one, one["name"]) for one in columns],
        "attributes": found.get("attributes", {}),
        "pandas_version": "3",
        "creator": {"library": "pyarrow", "version": "26"},
    }
    return {_PANDAS: json.dumps(kept).encode()}


def _column(said: dict[str, Any], name: str | None) -> dict[str, Any]:
    kinds = {"pandas_type": said["pandas_type"], "numpy_type": said["numpy_type"]}
    return {"name": name, "field_name": name, **kinds, "metadata": None}


def _is_text(kind: Any) -> bool:
    from pyarrow.types import is_binary, is_large_binary, is_large_string, is_string

    return is_string(kind) or is_large_string(kind) or is_binary(kind) or is_large_binary(kind)


def _holds_own_type(kind: Any, pyarrow: Any) -> bool:
    if isinstance(kind, pyarrow.BaseExtensionType):
        return True
    if pyarrow.types.is_dictionary(kind):
        return _holds_own_type(kind.value_type, pyarrow)
    return any(_holds_own_type(kind.field(i).type, pyarrow) for i in range(kind.num_fields))


def _too_large(shown: str, n_bytes: int) -> InputError:
    return InputError(
        f"{shown} holds a table of {n_bytes} bytes, and up to {LARGEST} are read. Read a table that you know to be "
        "yours with pandas.read_parquet."
    )


def _unreadable(shown: str, error: Exception) -> InputError:
    return InputError(f"{shown} cannot be read as parquet ({str(error)[:200]}). Pass a whole .parquet file.")
