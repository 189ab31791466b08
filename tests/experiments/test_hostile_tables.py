"""Tables from strangers, and tables that spreadsheets open: nothing of them is believed, nothing of them runs."""

from __future__ import annotations

import csv
import json
import pickle

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from damaged_files import ALIENS, cut, in_the_way
from hostile_files import Acting

from lostattn.errors import InputError
from lostattn.experiments import parquet_file
from lostattn.experiments.csv_file import safe_cell
from lostattn.experiments.results import Results

META = {"model": "tiny-llava", "seed": 3}
TABLE = pd.DataFrame(
    {"condition": ["a", "b", "a"], "id": ["x", "y", "z"], "rid": [0.5, -1.25, np.nan], "n": [1, -2, 3]}
)


@pytest.fixture
def sound(tmp_path):
    return Results(TABLE, META).save(tmp_path / "sound")["parquet"].read_bytes()


def write(path, table: pa.Table, key: bytes = b"lostattn", meta: object = META, **more: bytes) -> None:
    said = {
        key: meta if isinstance(meta, bytes) else json.dumps(meta).encode(),
        **{k.encode(): v for k, v in more.items()},
    }
    pq.write_table(table.replace_schema_metadata({**(table.schema.metadata or {}), **said}), path)


def refused(path, match: str = "results|parquet|table|path is") -> str:
    with pytest.raises(InputError, match=match) as told:
        Results.load(path)
    assert len(str(told.value)) < 1500
    return str(told.value)


# Parquet


def test_what_is_no_file_is_refused_at_once(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    for name in in_the_way(tmp_path):
        refused(tmp_path / name)
        (tmp_path / "x.parquet").unlink(missing_ok=True)
        if "\x00" not in name and len(name) < 300 and name.isascii():
            (tmp_path / "x.parquet").symlink_to(name)
            refused(tmp_path / "x.parquet")


def test_what_was_cut_is_refused(sound, tmp_path):
    for told, content in cut(sound):
        (tmp_path / "cut.parquet").write_bytes(content)
        assert "cut.parquet" in refused(tmp_path / "cut.parquet"), told


def test_a_bit_that_turned_is_noticed(sound, tmp_path):
    """In the values themselves, of which no header tells anything; each page carries its checksum."""
    path, whole = tmp_path / "turned.parquet", pq.ParquetFile(pa.BufferReader(sound)).metadata.row_group(0)
    for j in range(whole.num_columns):
        column = whole.column(j)
        end = column.data_page_offset + column.total_compressed_size - 1
        turned = bytearray(sound)
        turned[min(end, column.data_page_offset + 60)] ^= 4
        path.write_bytes(bytes(turned))
        try:
            pd.testing.assert_frame_equal(Results.load(path).table, TABLE)
        except InputError as error:
            assert "turned.parquet" in str(error)


def test_what_it_says_of_itself_is_held_to_json(tmp_path):
    path = tmp_path / "said.parquet"
    for odd in [*ALIENS, b"{", b"\xff\xfe", b"[" * 200_000, b'{"a": 1, "a": 2}', b'{"a": 1e999}', b'{"a": NaN}', b""]:
        if isinstance(odd, dict):
            continue
        write(path, pa.Table.from_pandas(TABLE), meta=odd)
        assert "said.parquet" in refused(path)
    write(path, pa.Table.from_pandas(TABLE), key=b"another")
    refused(path, "does not say where it comes from")


def notes():
    """What pandas may be told of a table, by somebody who does not mean it."""
    whole = json.loads(pa.Table.from_pandas(TABLE, preserve_index=False).schema.metadata[b"pandas"])
    for key in whole:
        for alien in ALIENS:
            yield {**whole, key: alien}
    for key in whole["columns"][0]:
        for alien in [
            *ALIENS,
            "object",
            "int64",
            "Int64",
            "period[D]",
            "interval",
            "datetime64[ns, Nowhere/Land]",
            "category",
        ]:
            yield {**whole, "columns": [{**whole["columns"][0], key: alien}, *whole["columns"][1:]]}
    for start in (0, -1, 1 << 60):
        index = {"kind": "range", "name": None, "start": start, "stop": 1 << 61, "step": 1}
        yield {**whole, "index_columns": [index]}
    yield {**whole, "index_columns": ["nowhere", 3, None]}
    yield {**whole, "column_indexes": [{"name": None, "pandas_type": "int64", "numpy_type": "int64"}]}


def test_what_pandas_noted_is_believed_only_of_dtypes(tmp_path):
    path, tried = tmp_path / "noted.parquet", 0
    for note in notes():
        write(path, pa.Table.from_pandas(TABLE, preserve_index=False), pandas=json.dumps(note).encode())
        tried += 1
        try:
            found = Results.load(path).table
        except InputError:
            continue
        assert found.shape == TABLE.shape and list(map(str, found.columns)) == list(TABLE.columns)
        assert list(found.index) == [0, 1, 2]
    assert tried > 100
    for odd in (b"", b"{", b"[" * 200_000, b"\xff", b"3"):
        write(path, pa.Table.from_pandas(TABLE, preserve_index=False), pandas=odd)
        assert Results.load(path).table["rid"].tolist()[:2] == [0.5, -1.25]


def test_a_dtype_of_pandas_comes_back(tmp_path):
    table = pd.DataFrame(
        {
            "whole": pd.array([1, None, 3], "Int64"),
            "true": pd.array([True, None, False], "boolean"),
            "sort": pd.Categorical(["a", "b", "a"]),
            "time": pd.to_datetime(["2026-01-01", None, "2026-01-03"], utc=True),
            "lists": [[1, 2], [], [3]],
            "none": [None, None, None],
            "mixed": ["a", None, "b"],
        }
    )
    table.attrs["note"] = "kept"
    found = Results.load(Results(table).save(tmp_path)["parquet"]).table
    assert found.dtypes.astype(str).tolist() == table.dtypes.astype(str).tolist() and found.attrs == table.attrs
    pd.testing.assert_frame_equal(found.drop(columns="lists"), table.drop(columns="lists"))
    assert [list(one) for one in found["lists"]] == [[1, 2], [], [3]]


class Mine(pa.ExtensionType):
    def __init__(self, words: bytes = b"") -> None:
        self.words = words
        super().__init__(pa.binary(), "arrow.py_extension_type")

    def __arrow_ext_serialize__(self) -> bytes:
        return self.words

    @classmethod
    def __arrow_ext_deserialize__(cls, storage, words):
        return cls(words)


def test_a_type_of_somebodys_own_is_not_looked_up(tmp_path):
    """Such a type's name was once an invitation to unpickle what stands beside it."""
    mark = tmp_path / "it ran"
    act = pickle.dumps(Acting(__import__("os").mkdir, str(mark)))
    own = pa.ExtensionArray.from_storage(Mine(act), pa.array([b"a", b"b"]))
    nested = pa.StructArray.from_arrays([own], ["inside"])
    for column in (own, nested, pa.ExtensionArray.from_storage(pa.uuid(), pa.array([bytes(16)] * 2, pa.binary(16)))):
        write(tmp_path / "own.parquet", pa.table({"a": [1, 2], "own": column}))
        pa.register_extension_type(Mine(b""))
        try:
            refused(tmp_path / "own.parquet", "'own' of a type of somebody's own")
        finally:
            pa.unregister_extension_type("arrow.py_extension_type")
        assert not mark.exists()
    write(tmp_path / "own.parquet", pa.table({"a": [act, act]}))
    assert Results.load(tmp_path / "own.parquet").table["a"].tolist() == [act, act] and not mark.exists()


def test_what_grows_is_refused_before_it_has_grown(tmp_path, monkeypatch):
    monkeypatch.setattr(parquet_file, "LARGEST", 1 << 22)
    long = "x" * (1 << 16)
    bombs = {
        "numbers": pa.table({"a": pa.array(np.zeros(1 << 20, np.int64))}),
        "texts": pa.table({"a": pa.DictionaryArray.from_arrays(np.zeros(1 << 10, np.int32), [long]).cast("string")}),
        "nothing": pa.table({"a": pa.nulls(1 << 20)}),
        "lists": pa.table({"a": pa.array([list(range(1 << 10))] * (1 << 10))}),
        "lists of texts": pa.table({"a": pa.array([[long] * 4] * 64)}),
        "columns": pa.table({f"c{i}": [1] for i in range(parquet_file.MOST_COLUMNS + 1)}),
    }
    for told, table in bombs.items():
        write(tmp_path / "bomb.parquet", table)
        assert (tmp_path / "bomb.parquet").stat().st_size < 1 << 22, "small as a file"
        assert refused(tmp_path / "bomb.parquet", "are read|columns"), told


def test_texts_that_are_none_are_refused(tmp_path):
    """Of a file without checksums, as earlier versions wrote them: Arrow reads texts without looking at them."""
    write(tmp_path / "texts.parquet", pa.table({"a": ["plain text", "more of it"]}))
    content = (tmp_path / "texts.parquet").read_bytes()
    assert content.count(b"plain text") >= 1
    (tmp_path / "texts.parquet").write_bytes(content.replace(b"plain text", b"pl\xff\xfen text"))
    refused(tmp_path / "texts.parquet", "cannot be read as parquet")


def test_columns_of_one_name_are_refused(tmp_path):
    write(tmp_path / "twice.parquet", pa.Table.from_arrays([pa.array([1]), pa.array([2])], names=["a", "a"]))
    refused(tmp_path / "twice.parquet", "2 columns, 1 of names of their own")


# CSV

FORMULAS = [
    "=1+1",
    "=cmd|' /C calc'!A0",
    "+1+1",
    "-1+1",
    "@SUM(A1)",
    "\t=1",
    "\r=1",
    "\n=1",
    " =1",
    "\u00a0=1",
    "\u200b=1",
    "\ufeff=1",
    "\x00=1",
    "＝1",
    "＋1",
    "－1",
    "＠1",
    "-",
    "=",
    "--",
    "-x",
    "\t",
    "- a list",
    '=HYPERLINK("http://127.0.0.1/?"&A1)',
    "-1 or so",
    "+१",
]
HARMLESS = ["", "a", "a=b", "'=1", "-1", "+1", "-1.5e-3", "1", "x\t=1", "no - not", "−1", "a\nb", '"', "-.5", "5.", "é"]


@pytest.mark.parametrize("text", FORMULAS, ids=ascii)
def test_a_text_that_begins_like_a_formula_is_none(text):
    assert safe_cell(text) == f"'{text}" and safe_cell(f"'{text}") == f"'{text}"


@pytest.mark.parametrize("text", HARMLESS, ids=ascii)
def test_every_other_text_stays(text):
    assert safe_cell(text) == text


def test_no_cell_of_a_file_is_a_formula_and_numbers_stay_numbers(tmp_path):
    texts = [*FORMULAS, *HARMLESS]
    n = len(texts)
    table = pd.DataFrame(
        {
            "=condition": texts,
            "sort": pd.Categorical(texts),
            "object": pd.Series([*texts[:-1], None], dtype=object),
            "rid": np.linspace(-1, 1, n),
            "n": -np.arange(n),
            "infinite": [-np.inf, *[1.0] * (n - 1)],
            "right": [True, *[False] * (n - 1)],
            "lists": [["=1"]] * n,
        },
        index=range(5, 5 + n),
    )
    paths = Results(table, META).save(tmp_path)
    with paths["csv"].open(newline="", encoding="utf-8") as file:
        rows = list(csv.reader(file))
    assert len(rows) == n + 1 and all(len(row) == table.shape[1] for row in rows)
    assert rows[0][0] == "'=condition"
    words = [cell for row in rows[1:] for cell in row[:3]]
    assert not any(safe_cell(cell) != cell for cell in words)
    found = pd.read_csv(paths["csv"], keep_default_na=False)
    assert np.array_equal(found["rid"], table["rid"]) and np.array_equal(found["n"], table["n"])
    assert found["infinite"][0] == -np.inf and found["right"].tolist() == table["right"].tolist()
    assert "object" in found and str(found["n"].dtype) == "int64"
    pd.testing.assert_series_equal(
        Results.load(paths["parquet"]).table["=condition"], table["=condition"], check_index=False
    )
    plain = Results(TABLE).save(tmp_path / "plain")["csv"].read_text()
    assert plain == TABLE.to_csv(index=False), "a table without such texts is written as pandas writes it"
