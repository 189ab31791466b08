"""VMCBench: twenty sources of questions about pictures, all made into four options."""

from __future__ import annotations

from collections.abc import Sequence

from lostattn.data.public.benchmark import Benchmark, Item, Split, lettered, one_of, options_in, text_of
from lostattn.data.public.tables import Row

AREAS = {
    "general": ("SEEDBench", "MMStar", "A-OKVQA", "VizWiz", "MMVet", "VQAv2", "OKVQA"),
    "reason": ("MMMU", "MathVista", "ScienceQA", "RealWorldQA", "GQA", "MathVision"),
    "ocr": ("TextVQA", "OCRVQA"),
    "doc": ("AI2D", "ChartQA", "DocVQA", "InfoVQA", "TableVQABench"),
}
_AREA_OF = {source: area for area, sources in AREAS.items() for source in sources}


def _items(row: Row, split: str) -> Sequence[Item]:
    id, category = text_of(row, "index"), text_of(row, "category")
    options = options_in(row, "ABCD")
    answer = one_of(text_of(row, "answer"), tuple(options), f"question {id!r}")
    fields = {
        "id": id,
        "text": lettered(text_of(row, "question"), options),
        "answer": answer,
        "choices": tuple(options),
        "options": tuple(options.values()),
        "kind": category,
        "row": id,
        "facts": {"area": _AREA_OF.get(category, category)},
    }
    return [Item(fields, ("image",), (answer,))]


VMCBENCH = Benchmark(
    name="vmcbench",
    sources=("suyc21/VMCBench",),
    splits={
        "dev": Split(1000, files=("data/dev-*.parquet", "*DEV.tsv"), words=("dev",)),
        "test": Split(8018, files=("data/test-*.parquet", "*TEST.tsv"), words=("test",)),
    },
    needs=(("index",), ("question",), ("A",), ("B",), ("C",), ("D",), ("answer",), ("category",), ("image",)),
    belongs=lambda row: text_of(row, "category") in _AREA_OF,
    items=_items,
    protocols=("vmcbench-lmms", "vlmevalkit-choice"),
    licence="MIT",
)
