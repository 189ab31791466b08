"""RealWorldQA: scenes as cars and people see them; options in the question's own text, or one word or number."""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import Any

from lostattn.data.public.benchmark import Benchmark, Item, Split, lettered, one_of, options_in, text_of, words_of
from lostattn.data.public.hallusion import HALLUSION
from lostattn.data.public.mmmu import MMMU
from lostattn.data.public.pope import POPE
from lostattn.data.public.tables import Row
from lostattn.data.public.vmcbench import VMCBENCH
from lostattn.errors import InputError

_OPTION = re.compile(r"^\s*\(?([A-Z])[.)]\s*(\S.*?)\s*$", re.MULTILINE)
_OTHERS = {"qid", "pid", "question_type", "gt_answer", "img_type", "answer_type"}
_YES_NO = ("yes", "no")


def _items(row: Row, split: str) -> Sequence[Item]:
    question, answer = words_of(row, "question"), words_of(row, "answer")
    number = text_of(row, "index", "id", "image_path") or str(row.get("row number", ""))
    where = f"question {number!r}"
    if not answer:
        raise InputError(f"{where} has no right answer; a split whose answers are held back cannot be scored.")
    options = options_in(row, "ABCD")
    text = lettered(question, options) if options else question
    options = options or (dict(_OPTION.findall(question)) if re.fullmatch("[A-Z]", answer) else {})
    fields: dict[str, Any] = {
        "id": number,
        "text": text,
        "kind": "open",
        "answer": answer,
        "choices": (),
        "row": number,
    }
    if options:
        letter = one_of(answer, tuple(options), where)
        fields |= {"kind": "choice", "answer": letter, "choices": tuple(options), "options": tuple(options.values())}
    elif answer.lower() in _YES_NO:
        other = "no" if answer.lower() == "yes" else "yes"
        fields |= {"kind": "yes or no", "choices": (answer, other.capitalize() if answer[0].isupper() else other)}
    elif re.fullmatch("[A-D]", answer):
        fields |= {"kind": "choice", "choices": tuple("ABCD")}
    return [Item(fields, ("image",), (fields["kind"],))]


REALWORLDQA = Benchmark(
    name="realworldqa",
    sources=("xai-org/RealworldQA", "lmms-lab/RealWorldQA", "lmms-lab-encoder/RealWorldQA"),
    splits={"test": Split(765, files=("data/test*.parquet", "*.parquet"), words=("test",))},
    needs=(("question",), ("answer",), ("image",)),
    belongs=lambda row: (
        not (_OTHERS & set(row)) and not any(one.belongs(row) for one in (POPE, VMCBENCH, MMMU, HALLUSION))
    ),
    items=_items,
    protocols=("realworldqa-lmms", "vlmevalkit-choice"),
    licence="CC BY-ND 4.0",
)
