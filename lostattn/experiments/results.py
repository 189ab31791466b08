"""Tables of an experiment, with everything needed to draw them again, written whole or not at all."""

from __future__ import annotations

import json
import math
import os
import platform
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from lostattn.arguments import checked_call
from lostattn.arguments.kinds import Seed
from lostattn.arguments.known_by import FileName
from lostattn.errors import InputError
from lostattn.experiments import statistics
from lostattn.experiments.csv_file import write_csv
from lostattn.experiments.parquet_file import read_parquet
from lostattn.files import PathLike, writable_folder, write_folder
from lostattn.files.recovery import reading
from lostattn.files.seal import check_files, digest
from lostattn.saved.reading import parsed_json
from lostattn.saved.shape import COUNT, MapOf, checked

if TYPE_CHECKING:
    import pandas

UNTOUCHED = "untouched"
"""The condition that all others are compared with."""


ENDINGS = (".parquet", ".csv", ".json")
_KEY, _SEALED = b"lostattn", b"lostattn.sealed"  # of the metadata in a parquet file's schema
_BESIDE = MapOf({"bytes": COUNT, "sha256": str})
_NOT_VALUES = ("seed", "layer", "head", "n")  # numbers that say which row it is, not what was measured
_GROUPS = ("model", "condition", "update", "layer", "head")


@checked_call
@dataclass
class Results:
    """A tidy table, one row per question × condition (× layer × seed), and where it comes from.

    Attributes:
        table: a `pandas.DataFrame`. `summary` reads the columns ``condition``, ``kind``, ``id`` (the
            question), ``scene`` (what questions share), ``seed`` and ``correct``, or ``layer``, ``update``
            and columns of numbers.
        meta: model id and revision, library versions, the interventions' JSON, seed, command: anything that
            JSON can hold.
    """

    table: pandas.DataFrame
    meta: dict[str, Any] = field(default_factory=dict)

    def summary(
        self, values: Sequence[str] | None = None, by: Sequence[str] | None = None, seed: Seed = 0
    ) -> pandas.DataFrame:
        """What a reader wants first: accuracies where the table has ``correct``, else means of numbers.

        Args:
            values: the columns to average; every column of fractional numbers where None.
            by: the columns to group by; those of model, condition, update, layer, head that are there.
            seed: of the bootstrap.

        Returns:
            See `accuracy_summary` and `mean_summary`.
        """
        from pandas.api.types import is_float_dtype

        if "correct" in self.table.columns and values is None and by is None:
            return accuracy_summary(self.table, seed=seed)
        if values is None:
            columns = [c for c in self.table.columns if is_float_dtype(self.table[c])]
            values = [c for c in columns if c not in _NOT_VALUES]
        if by is None:
            by = [c for c in _GROUPS if c in self.table.columns]
        return mean_summary(self.table, values, by, seed=seed)

    def save(self, path: PathLike, name: FileName = "results") -> dict[str, Path]:
        """Write the table as parquet and CSV, and the metadata as JSON (and inside the parquet).

        The parquet holds the table as it is. In the CSV, which spreadsheets open, a text that begins like a formula
        (``=``, ``+``, ``-``, ``@``) has a ``'`` before it.

        A folder becomes a run of its own: it appears in one rename with ``run.json``, the seal that holds the digests
        of the others; what it replaces stays until then, and results of other names stay beside the new ones. Beside a
        file, or in a folder that holds other things, the three are put in place one after another, the parquet last:
        it holds the digests of the other two, and what breaks off is finished by the next that reads or writes there.

        Args:
            path: a folder, in which the files are called ``name``, or a file ending in .parquet, .csv or
                .json, beside which the other two are written.
            name: of the files in a folder.

        Returns:
            The written paths by "parquet", "csv" and "json".

        Raises:
            InputError: the folder cannot be written to, or ``meta`` holds what JSON cannot.
            NoRoom: the disk is full; the message says where the results were kept instead.
        """
        path = Path(path)
        sealed = path.suffix not in ENDINGS
        folder, name = (path, name) if sealed else (path.parent, path.stem)
        if folder.exists() or not sealed:
            writable_folder(folder)
        _to_json(self.meta)  # before anything is written
        write_folder(folder, lambda place: self.write(place, name), adds=True, sealed=sealed)
        return {ending[1:]: folder / f"{name}{ending}" for ending in ENDINGS}

    def write(self, folder: Path, name: str) -> None:
        """Write the three files into a folder that is being made."""
        table = self.table.reset_index(drop=True)
        text = _to_json(self.meta)
        csv, json_ = folder / f"{name}.csv", folder / f"{name}.json"
        write_csv(table, csv)
        json_.write_text(text + "\n", encoding="utf-8")
        sealed = json.dumps({path.name: digest(path) for path in (csv, json_)})
        _write_parquet(table, text, sealed, folder / f"{name}.parquet")

    @classmethod
    def load(cls, path: PathLike, name: FileName = "results") -> Results:
        """Read what `save` wrote: a folder, or the .parquet file, which alone holds everything.

        Where the files are sealed, they are held to their digests: those of the folder, or those beside the file.

        Raises:
            InputError: there is no such file, it is not parquet or not whole, it holds more than is read or types of
                somebody's own, it was not written by `save`, or the files are not those of one run.
        """
        path = Path(path)
        alone = path.suffix in ENDINGS
        file = path if alone else path / f"{name}.parquet"
        shown = repr(str(file))[:300]
        with reading(file.parent):
            if not os.path.exists(file):  # False of a name that is too long, or with a null byte
                raise InputError(f"There are no results at {shown}. Pass the folder or file of a saved run.")
            table, said = read_parquet(file, _KEY)
            check_files([file] if alone else [file.with_suffix(ending) for ending in ENDINGS])
            told = f"{shown} holds no results: what it says of itself"
            if not alone and _SEALED in said:
                _check_beside(file, checked(parsed_json(said[_SEALED], told), _BESIDE, shown, "results"))
        return cls(table, checked(parsed_json(said[_KEY], told), {}, shown, "results"))


def accuracy_summary(
    table: pandas.DataFrame, baseline: str = UNTOUCHED, level: float | int = 0.95, seed: int = 0
) -> pandas.DataFrame:
    """Accuracy by condition and kind of question, each compared with ``baseline`` on the same questions.

    The p is exact (McNemar's test) where each question was asked once and stands by itself; where questions
    share scenes or a condition was drawn with several seeds, signs of whole scenes are flipped.

    Args:
        table: rows with ``condition``, ``id``, ``correct``; ``kind``, ``scene``, ``model``, ``seed`` if there
            are any.
        baseline: the condition to compare with.
        level: the coverage of the intervals.
        seed: of the bootstrap and the flips.

    Returns:
        One row per condition and kind ("all" too): condition, kind, n (questions), seeds, accuracy, low,
        high, unread (the share that could not be read, where the table tells), difference, difference_low,
        difference_high, p, failed (where the table tells: questions that failed under the condition or under the
        baseline, and stand in neither); with several models, model first.

    Raises:
        InputError: a column is missing, the table is empty, or a condition was asked other questions.
    """
    import pandas as pd

    _check_columns(table, ("condition", "id", "correct"))
    if "model" in table.columns:
        parts = []
        for model, rows in table.groupby("model", sort=False):
            part = accuracy_summary(rows.drop(columns="model"), baseline, level, seed)
            part.insert(0, "model", model)
            parts.append(part)
        return pd.concat(parts, ignore_index=True)
    if baseline not in set(table["condition"]):
        known = ", ".join(map(repr, table["condition"].unique()))
        raise InputError(f"The table has no condition {baseline!r} to compare with, only {known}.")
    kinds: list[Any] = ["all"]
    if "kind" in table.columns:
        kinds += [k for k in table["kind"].unique() if k != "all"]
    out = []
    for condition in [baseline, *(c for c in table["condition"].unique() if c != baseline)]:
        for kind in kinds:
            part = table if kind == "all" else table[table["kind"] == kind]
            reference, rows = (part[part["condition"] == c] for c in (baseline, condition))
            out.append({"condition": condition, "kind": kind} | _compare(rows, reference, level, seed))
    return pd.DataFrame(out)


def mean_summary(
    table: pandas.DataFrame,
    values: Sequence[str],
    by: Sequence[str],
    level: float | int = 0.95,
    seed: int = 0,
) -> pandas.DataFrame:
    """Means of numbers by group, with bootstrap intervals over questions (over scenes where they share any).

    Args:
        table: rows with the columns named; ``scene`` or ``id`` says which rows hang together.
        values: the columns to average.
        by: the columns to group by.
        level: the coverage of the intervals.
        seed: of the bootstrap.

    Returns:
        One row per group: the columns of ``by``, n (questions), failed (how many could not be measured, where the table
        tells), then for each value v: v, v_low, v_high.

    Raises:
        InputError: a column is missing, the table is empty, or a value is NaN.
    """
    import pandas as pd

    if not by or not values:
        raise InputError(f"Nothing to average: values={list(values)}, by={list(by)}. Name a column of each.")
    _check_columns(table, (*values, *by))
    out = []
    for group, every in table.groupby(list(by), sort=False, dropna=False):
        rows, failed = without_failed(every)
        row: dict[str, Any] = dict(zip(by, group, strict=True)) | {"n": _questions(rows)} | failed
        for value in values:
            if rows.empty:  # every question failed
                row |= dict.fromkeys((value, f"{value}_low", f"{value}_high"), math.nan)
                continue
            estimate = statistics.mean_interval(rows[value].astype(float), _clusters(rows), level=level, seed=seed)
            row |= {value: estimate.value, f"{value}_low": estimate.low, f"{value}_high": estimate.high}
        out.append(row)
    return pd.DataFrame(out)


def without_failed(rows: pandas.DataFrame) -> tuple[pandas.DataFrame, dict[str, int]]:
    """The rows of questions that did not fail, and ``{"failed": how many did}``; ``{}`` where rows do not tell."""
    if "status" not in rows.columns:
        return rows, {}
    lost = rows["status"] != "ok"
    return rows[~lost], {"failed": int(rows.loc[lost, "id"].nunique())}


def environment() -> dict[str, str | None]:
    """The versions that a result depends on, None for what is not installed."""
    from importlib.metadata import PackageNotFoundError, version

    def installed(package: str) -> str | None:
        try:
            return version(package)
        except PackageNotFoundError:
            return None

    packages = ("torch", "transformers", "nnsight", "lostattn")
    return {"python": platform.python_version()} | {package: installed(package) for package in packages}


def _compare(rows: pandas.DataFrame, reference: pandas.DataFrame, level: float | int, seed: int) -> dict[str, Any]:
    """Accuracy of ``rows``, and its difference from ``reference`` question by question.

    A question that failed under either stands in neither.
    """
    failed: dict[str, int] = {}
    if "status" in rows.columns:
        lost = {name for part in (rows, reference) for name in part.loc[part["status"] != "ok", "id"]}
        rows, reference = (part[~part["id"].isin(lost)] for part in (rows, reference))
        failed = {"failed": len(lost)}
        if rows.empty:
            nothing = ("low", "high", "unread", "difference", "difference_low", "difference_high", "p")
            return {"n": 0, "seeds": 0, "accuracy": math.nan, **dict.fromkeys(nothing, math.nan), **failed}
        rows, reference = (part.astype({"correct": bool, "unread": bool}) for part in (rows, reference))
    accuracy = statistics.proportion_interval(rows["correct"], _clusters(rows), level)
    here, there = (part.groupby("id", sort=False)["correct"].mean() for part in (rows, reference))
    if set(here.index) != set(there.index):
        names = " and ".join(repr(part["condition"].iloc[0]) for part in (rows, reference))
        raise InputError(
            f"Conditions {names} were asked other questions: {len(here)} and {len(there)}, "
            f"{len(set(here.index) & set(there.index))} of them the same. Run both on one set of questions."
        )
    seeds = int(rows.groupby("id").size().max())
    out: dict[str, Any] = {"n": len(here), "seeds": seeds, "accuracy": accuracy.value}
    out |= {"low": accuracy.low, "high": accuracy.high}
    if "unread" in rows.columns:  # results that were saved before do not tell
        out["unread"] = float(rows["unread"].mean())
    a, b = here.to_numpy(dtype=float), there.loc[here.index].to_numpy(dtype=float)
    scenes = _clusters(rows.drop_duplicates("id"))
    difference = statistics.paired_difference(a, b, scenes, level=level, seed=seed)
    alone = scenes is None or len(set(scenes)) == len(a)
    if alone and seeds == 1:
        p = statistics.mcnemar(a, b)
    else:
        p = statistics.sign_flip(a, b, scenes, seed=seed)
    return out | {
        "difference": difference.value,
        "difference_low": difference.low,
        "difference_high": difference.high,
        "p": p,
        **failed,
    }


def _clusters(rows: pandas.DataFrame) -> list[Any] | None:
    """What hangs together: rows of one scene, or else of one question."""
    for column in ("scene", "id"):
        if column in rows.columns:
            return rows[column].tolist()
    return None


def _questions(rows: pandas.DataFrame) -> int:
    return int(rows["id"].nunique()) if "id" in rows.columns else len(rows)


def _check_columns(table: pandas.DataFrame, columns: Sequence[str]) -> None:
    missing = [c for c in columns if c not in table.columns]
    if missing:
        raise InputError(f"The table has no column {missing[0]!r}, only {', '.join(map(repr, table.columns))}.")
    if table.empty:
        raise InputError("The table is empty: there is nothing to summarise. Run it on at least one question.")


def _to_json(meta: dict[str, Any]) -> str:
    try:
        return json.dumps(meta, indent=2, ensure_ascii=False, allow_nan=False)
    except (TypeError, ValueError) as error:
        raise InputError(
            f"The metadata cannot be written as JSON ({error}). Pass strings, numbers, lists and dicts."
        ) from error


def _write_parquet(table: pandas.DataFrame, meta: str, sealed: str, path: Path) -> None:
    import pyarrow
    import pyarrow.parquet

    stored = pyarrow.Table.from_pandas(table, preserve_index=False)
    own = {_KEY: meta.encode(), _SEALED: sealed.encode()}
    stored = stored.replace_schema_metadata({**(stored.schema.metadata or {}), **own})
    pyarrow.parquet.write_table(stored, path, write_page_checksum=True)


def _check_beside(path: Path, sealed: dict[str, Any]) -> None:
    """Hold the files beside a parquet to the digests in it; one that is not there is not missed."""
    for name, held in sealed.items():
        if name != os.path.basename(name) or name in ("", ".", ".."):
            raise InputError(f"{str(path)!r} holds digests of {name[:200]!r}, which does not lie beside it.")
        beside = path.with_name(name)
        if path.stem == beside.stem and beside.is_file() and digest(beside) != held:
            raise InputError(
                f"{str(beside)!r} is not of one run with {path.name!r}, or was edited since. The table is whole in "
                f"{path.name!r}: load that file itself, or save what it holds again."
            )
