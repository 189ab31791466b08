"""POPE: whether an object is there; six questions a picture, three of each answer, in three categories."""

from __future__ import annotations

from collections.abc import Sequence

from lostattn.data.public.benchmark import Benchmark, Item, Split, one_of, text_of
from lostattn.data.public.tables import Row

CATEGORIES = ("adversarial", "popular", "random")
_HALVES = {"yes": 1500, "no": 1500}


def _categories(row: Row) -> list[str]:
    """A row of VLMEvalKit stands for every category that it names."""
    return [part.strip().lower() for part in text_of(row, "category").split(",")]


def _items(row: Row, split: str) -> Sequence[Item]:
    number = text_of(row, "question_id", "id", "index")
    found = []
    for category in _categories(row):
        if split not in ("all", category):
            continue
        id = f"{category}/{number}"
        answer = one_of(text_of(row, "answer"), ("yes", "no"), f"question {id!r}")
        shown = text_of(row, "image_source") or None
        fields = {
            "id": id,
            "text": text_of(row, "question"),
            "answer": answer,
            "choices": ("yes", "no"),
            "kind": category,
            "row": text_of(row, "id", "index", "question_id"),
        }
        found.append(Item(fields, ("image",), (answer,), drawn_with=shown and f"{category}/{shown}", shares=shown))
    return found


POPE = Benchmark(
    name="pope",
    sources=("lmms-lab/POPE", "lmms-lab-encoder/POPE"),
    splits={
        **{name: Split(3000, _HALVES, (f"Full/{name}-*.parquet", f"*{name}*.parquet"), (name,)) for name in CATEGORIES},
        "all": Split(9000, {"yes": 4500, "no": 4500}, ("data/test-*.parquet",), ("test",)),
    },
    needs=(("question",), ("answer",), ("image",), ("category",)),
    belongs=lambda row: set(_categories(row)) <= set(CATEGORIES),
    items=_items,
    protocols=("pope-official", "pope-lmms", "pope-vlmevalkit"),
    licence="MIT; pictures of COCO",
    by_picture=True,
)
