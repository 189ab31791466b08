"""HallusionBench: pairs of questions about figures that were altered, and questions without any figure."""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import Any

from lostattn.data.public.benchmark import Benchmark, Item, Split, one_of, text_of
from lostattn.data.public.tables import Row
from lostattn.errors import InputError

_INDEX = re.compile(r"(VD|VS)_([^_]+)_(\d)_([^_]+)_([^_]+)_([^_]+)")
_ANSWERS = {"0": "no", "1": "yes"}
_PARTS = ("category", "subcategory", "visual_input", "set_id", "figure_id", "question_id")


def _items(row: Row, split: str) -> Sequence[Item]:
    category, subcategory, visual, set_id, figure, question = _parts(row)
    shown = bool(text_of(row, "filename")) if "filename" in row else visual != "0"
    if shown != (split == "image") and split != "all":
        return []
    id = "_".join((category, subcategory, visual, set_id, figure, question))
    told = text_of(row, "gt_answer", "answer")
    answer = one_of(_ANSWERS.get(told, told), ("yes", "no"), f"question {id!r}")
    base = f"{category}_{subcategory}_{set_id}"
    together = {"figure": f"{base}_{figure}"} if shown else {}
    fields: dict[str, Any] = {
        "id": id,
        "text": text_of(row, "question"),
        "answer": answer,
        "choices": ("yes", "no"),
        "kind": subcategory,
        "together": {**together, "question": f"{base}_{question}"},
        "row": text_of(row, "index") or id,
        "facts": {"area": category, "visual_input": visual},
    }
    column = "image" if "image" in row else "filename"
    return [Item(fields, (column,) if shown else (), (answer,), drawn_with=base, shares=base)]


def _parts(row: Row) -> tuple[str, ...]:
    if "set_id" in row:
        return tuple(text_of(row, part) for part in _PARTS)
    index = text_of(row, "index")
    match = _INDEX.fullmatch(index)
    if match is None:
        raise InputError(
            f"a row has the index {index!r}; expected category_subcategory_visual_set_figure_question, such as "
            "'VD_chart_1_0_1_0'."
        )
    return match.groups()


HALLUSION = Benchmark(
    name="hallusionbench",
    sources=("lmms-lab/HallusionBench", "lmms-lab-encoder/HallusionBench"),
    splits={
        "image": Split(951, {"no": 550, "yes": 401}, ("data/image-*.parquet",), ("/image-", "image-")),
        "non_image": Split(178, files=("data/non_image-*.parquet",), words=("non_image",)),
        "all": Split(1129),
    },
    needs=(("question",), ("gt_answer", "answer"), ("set_id", "index"), ("subcategory", "category")),
    belongs=lambda row: "gt_answer" in row or bool(_INDEX.fullmatch(text_of(row, "index"))),
    items=_items,
    protocols=("hallusion-vlmevalkit",),
    licence="BSD-3-Clause",
)
