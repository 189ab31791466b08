"""3DSRBench: where things are in space; plain, with mirrored pictures, and with every rotation of the options too."""

from __future__ import annotations

import re
from collections.abc import Sequence

from lostattn.data.public.benchmark import Benchmark, Item, Split, lettered, one_of, options_in, text_of
from lostattn.data.public.tables import Row
from lostattn.errors import InputError

_QID = re.compile(r"(?P<base>[A-Za-z0-9]{8})(?P<flip>-flip)?(?:-(?P<turn>\d+))?")
_AREAS = ("height", "location", "orientation", "multi_object")


def _items(row: Row, split: str) -> Sequence[Item]:
    qid = text_of(row, "qid", "index")
    match = _QID.fullmatch(qid)
    if match is None:
        raise InputError(
            f"a row has the qid {qid!r}; expected eight letters and digits, then -flip for a mirrored picture and -1, "
            "-2, … for options turned so often."
        )
    plain = match["flip"] is None and match["turn"] is None
    if split == "base" and not plain or split == "flip" and match["turn"] is not None:
        return []
    options = options_in(row, "ABCD")
    answer = one_of(text_of(row, "answer"), tuple(options), f"question {qid!r}")
    category = text_of(row, "category")
    sets = {
        "flip": qid.replace("-flip", ""),
        "circular": match["base"] + (match["flip"] or ""),
        "flip_circular": match["base"],
    }
    kept = {"base": (), "flip": ("flip",), "flip_circular": tuple(sets)}[split]
    fields = {
        "id": qid,
        "text": lettered(text_of(row, "question"), options),
        "answer": answer,
        "choices": tuple(options),
        "options": tuple(options.values()),
        "kind": category,
        "together": {name: sets[name] for name in kept},
        "row": text_of(row, "index", "qid"),
        "facts": {"area": next((area for area in _AREAS if category.startswith(area)), category)},
    }
    return [Item(fields, ("image",), (answer,), drawn_with=match["base"], shares=match["base"])]


THREEDSR = Benchmark(
    name="3dsrbench",
    sources=("ccvl/3DSRBench", "oscarqjh/3DSRBench_lmmseval"),
    splits={
        "flip_circular": Split(
            11686, files=("3dsrbench_v1_vlmevalkit_circular.tsv", "3dsr_circular/*.parquet"), words=("circular",)
        ),
        "flip": Split(5157, files=("3dsrbench_v1_vlmevalkit.tsv", "3dsr/*.parquet"), words=("vlmevalkit.tsv", "3dsr/")),
        "base": Split(2772, files=("3dsrbench_v1_vlmevalkit.tsv", "3dsr/*.parquet"), words=("vlmevalkit.tsv", "3dsr/")),
    },
    needs=(("qid",), ("question",), ("A",), ("B",), ("answer",), ("category",), ("image",)),
    belongs=lambda row: bool(_QID.fullmatch(text_of(row, "qid"))),
    items=_items,
    protocols=("3dsrbench-lmms", "vlmevalkit-choice"),
    licence="CC BY 4.0",
)
