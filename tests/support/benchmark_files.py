"""Small files of the seven public benchmarks, in their exact columns and types, with pictures and words of our own.

Odd rows that the true files have are among them: lists for right answers, missing options as the word "nan", pictures
by the index of another row, pictures that nothing refers to, nine options, several options of one text.
"""

from __future__ import annotations

import base64
import io
import itertools
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
from PIL import Image

PICTURE = pa.struct([("bytes", pa.binary()), ("path", pa.string())])
Rows = list[dict[str, Any]]


def png(number: int) -> bytes:
    """A picture of its own for each number; sizes differ."""
    image = Image.new("RGB", (5 + number % 7, 4 + number % 3), (number % 251, number * 7 % 253, number * 31 % 255))
    buffer = io.BytesIO()
    image.save(buffer, format="PNG")
    return buffer.getvalue()


def cell(number: int) -> dict[str, Any]:
    return {"bytes": png(number), "path": f"{number}.png"}


def text_cell(number: int) -> str:
    return base64.b64encode(png(number)).decode()


def parquet(path: Path, rows: Rows, columns: dict[str, pa.DataType], group: int = 4) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    schema = pa.schema(list(columns.items()))
    pq.write_table(pa.Table.from_pylist(rows, schema=schema), path, row_group_size=group)
    return path


def tsv(path: Path, rows: Rows) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    pd.DataFrame(rows).to_csv(path, sep="\t", index=False)
    return path


TEXT = pa.string()

# POPE -------------------------------------------------------------------------------------------------

POPE_COLUMNS = dict.fromkeys(("id", "question_id", "question", "answer", "image_source"), TEXT) | {
    "image": PICTURE,
    "category": TEXT,
}


def pope_rows(images: int = 4, categories: tuple[str, ...] = ("adversarial", "popular", "random")) -> Rows:
    return [
        {
            "id": str(k * images * 6 + i * 6 + q),
            "question_id": str(i * 6 + q + 1),
            "question": f"Is there a {'cup' if q % 2 == 0 else category + ' pot'} {q} in the image?",
            "answer": "yes" if q % 2 == 0 else "no",
            "image_source": f"scene_{i:03d}",
            "image": cell(i),
            "category": category,
        }
        for k, category in enumerate(categories)
        for i in range(images)
        for q in range(6)
    ]


def pope_tsv_rows(images: int = 3) -> Rows:
    """Questions that several categories share stand once; the picture stands in the first row that shows it."""
    found: dict[tuple[str, str], dict[str, Any]] = {}
    for row in pope_rows(images):
        key = (row["image_source"], row["question"])
        if key in found:
            found[key]["category"] += f",{row['category']}"
        else:
            found[key] = {
                "question": row["question"],
                "answer": row["answer"].capitalize(),
                "category": row["category"],
            }
    first: dict[str, int] = {}
    rows = []
    for i, ((source, _), row) in enumerate(found.items()):
        number = int(source[-3:])
        picture = str(first[source]) if source in first else text_cell(number)
        first.setdefault(source, i)
        rows.append({"index": i, "image": picture, **row})
    return rows


# 3DSRBench --------------------------------------------------------------------------------------------

THREEDSR_COLUMNS = (
    {"index": pa.int64()}
    | dict.fromkeys(("qid", "question", "A", "B", "C", "D", "answer", "category"), TEXT)
    | {"image": PICTURE, "image_source": TEXT, "image_url": TEXT}
)
_BASES = (
    ("AAAA1111", "height_higher", ("the cup", "the pot")),
    ("BBBB2222", "location_above", ("yes", "no")),
    ("CCCC3333", "orientation_viewpoint", ("front", "left", "back", "right")),
    ("DDDD4444", "multi_object_facing", ("the cup", "the pot")),
)


def threedsr_rows(turned: bool = True) -> Rows:
    rows: Rows = []
    for b, (base, category, options) in enumerate(_BASES):
        for flip, turn in itertools.product((False, True), range(len(options) if turned else 1)):
            order = options[turn:] + options[:turn]
            right = options[1 if flip else 0]
            letters = dict(zip("ABCD", (*order, "nan", "nan")[:4], strict=True))
            rows.append(
                {
                    "index": len(rows),
                    "qid": base + ("-flip" if flip else "") + (f"-{turn}" if turn else ""),
                    "question": f"What is {category} there?",
                    **letters,
                    "answer": "ABCD"[order.index(right)],
                    "category": category,
                    "image": cell(2 * b + flip),
                    "image_source": "MS-COCO",
                    "image_url": "http://images.invalid/1.jpg",
                }
            )
    return rows


def threedsr_tsv_rows(turned: bool = True) -> Rows:
    first: dict[bytes, int] = {}
    rows = []
    for row in threedsr_rows(turned):
        picture = row["image"]["bytes"]
        told = str(first[picture]) if picture in first else base64.b64encode(picture).decode()
        first.setdefault(picture, row["index"])
        kept = {name: None if value == "nan" else value for name, value in row.items()}
        rows.append({**kept, "image": told})
    return rows


# RealWorldQA ------------------------------------------------------------------------------------------

REALWORLDQA_COLUMNS = {"image": PICTURE, "question": TEXT, "answer": TEXT, "image_path": TEXT}
_LETTER = "Please give just the letter."


def realworldqa_rows() -> Rows:
    asked = [
        (f"Which way?\n\nA. Left\nB. Right\nC. Neither\n{_LETTER}", "B"),
        (f"What is next to it?\n\nA. A bus\nB. A tram\n{_LETTER}", "A"),
        ("How many cars are there? Use one word or number.", "2"),
        ("Is the light green? Use one word or number.", "Yes"),
        ("What does the sign say? Use one word or number.", "Stop"),
    ]
    return [
        {"image": cell(i), "question": question, "answer": answer, "image_path": None}
        for i, (question, answer) in enumerate(asked)
    ]


def realworldqa_tsv_rows() -> Rows:
    return [
        {
            "index": 10,
            "image": text_cell(1),
            "question": "Which way?",
            "A": "Left",
            "B": "Right",
            "C": "",
            "D": "",
            "answer": "B",
        },
        {
            "index": 11,
            "image": text_cell(2),
            "question": "What?",
            "A": "None",
            "B": "nan",
            "C": "x",
            "D": "y",
            "answer": "A",
        },
    ]


# MMMU -------------------------------------------------------------------------------------------------

MMMU_COLUMNS = (
    dict.fromkeys(("id", "question", "options", "explanation"), TEXT)
    | {f"image_{k}": PICTURE for k in range(1, 8)}
    | dict.fromkeys(("img_type", "answer", "topic_difficulty", "question_type", "subfield"), TEXT)
)


def mmmu_row(
    id: str, question: str, options: list[str] | None, answer: str, pictures: tuple[int, ...]
) -> dict[str, Any]:
    return {
        "id": id,
        "question": question,
        "options": repr(options or []),
        "explanation": "",
        **{f"image_{k}": cell(k) if k in pictures else None for k in range(1, 8)},
        "img_type": "['Diagrams']",
        "answer": answer,
        "topic_difficulty": "Easy",
        "question_type": "open" if options is None else "multiple-choice",
        "subfield": "Mine",
    }


def mmmu_rows() -> Rows:
    nine = [f"value {k}" for k in range(9)]
    return [
        mmmu_row("validation_Math_1", "What is <image 1>?", ["one", "two", "three", "four"], "C", (1,)),
        mmmu_row("validation_Math_19", "See <image 1>, <image 2>: which?", ["<image 1>", "<image 2>"], "B", (1, 2)),
        mmmu_row("validation_Pharmacy_4", "Which of <image 2> and <image 1>?", ["a", "b", "c"], "A", (1, 2, 3)),
        mmmu_row("validation_Finance_8", "Of nine in <image 1>?", nine, "I", (1,)),
        mmmu_row("validation_Chemistry_30", "Name <image 1>.", None, "['$XyZ$', 'XyZ']", (1,)),
        mmmu_row("validation_Physics_21", "Which part of <image 1>?", None, "A", (1,)),
        mmmu_row("validation_Math_15", "How much is <image 1>?", None, "24/7", (1,)),
        mmmu_row("validation_Economics_2", "How much is <image 1>?", None, "1250", (1,)),
    ]


def mmmu_tsv_rows() -> Rows:
    return [
        {"index": 1, "id": "validation_Math_1", "question": "See <image 1> and <image 2>.", "A": "p", "B": "q", "C": "",
         "answer": "B", "split": "validation", "category": "Math", "image": repr([text_cell(1), text_cell(2)])},
        {"index": 2, "id": "validation_Math_2", "question": "See <image 1>.", "A": "p", "B": "q", "C": "r",
         "answer": "C", "split": "validation", "category": "Math", "image": text_cell(3)},
        {"index": 3, "id": "dev_Math_2", "question": "See <image 1>.", "A": "p", "B": "q", "C": "r",
         "answer": "C", "split": "dev", "category": "Math", "image": "2"},
    ]  # fmt: skip


# VMCBench ---------------------------------------------------------------------------------------------

VMCBENCH_COLUMNS = (
    {"index": pa.int64()}
    | dict.fromkeys(("question", "A", "B", "C", "D", "answer", "category"), TEXT)
    | {"image": PICTURE}
)


def vmcbench_rows() -> Rows:
    categories = ("SEEDBench", "MMMU", "TextVQA", "ChartQA", "ChartQA", "VQAv2")
    return [
        {
            "index": 100 + i,
            "question": f"What is {i}?",
            **{letter: f"{letter.lower()} of {i}" for letter in "ABCD"},
            "answer": "ABCD"[i % 4],
            "category": category,
            "image": cell(i),
        }
        for i, category in enumerate(categories)
    ]


# MathVista --------------------------------------------------------------------------------------------

_METADATA = pa.struct(
    [(name, TEXT) for name in ("category", "context", "grade")]
    + [("img_height", pa.int64()), ("img_width", pa.int64()), ("language", TEXT), ("skills", pa.list_(TEXT))]
    + [(name, TEXT) for name in ("source", "split", "task")]
)
MATHVISTA_COLUMNS = {
    "pid": TEXT,
    "question": TEXT,
    "image": TEXT,
    "decoded_image": PICTURE,
    "choices": pa.list_(TEXT),
    "unit": TEXT,
    "precision": pa.float64(),
    "answer": TEXT,
    "question_type": TEXT,
    "answer_type": TEXT,
    "metadata": _METADATA,
    "query": TEXT,
}


def mathvista_rows() -> Rows:
    asked: list[tuple[list[str] | None, str, str, float | None]] = [
        (["3", "4.5", "6", "7"], "4.5", "text", None),
        (["Yes", "No"], "No", "text", None),
        (["5", "6", "5"], "5", "text", None),  # two options of one text
        (None, "12", "integer", None),
        (None, "1.2", "float", 1.0),
        (None, "0.25", "float", 2.0),
        (None, "[1, 3]", "list", None),
    ]
    rows = []
    for i, (choices, answer, answer_type, precision) in enumerate(asked):
        question = f"How much is {i}?"
        listed = "".join(f"\n({letter}) {text}" for letter, text in zip("ABCDEFGH", choices or [], strict=False))
        rows.append(
            {
                "pid": str(i + 1),
                "question": question,
                "image": f"images/{i}.jpg",
                "decoded_image": cell(i),
                "choices": choices,
                "unit": None,
                "precision": precision,
                "answer": answer,
                "question_type": "multi_choice" if choices else "free_form",
                "answer_type": answer_type,
                "metadata": {
                    "category": "general-vqa",
                    "context": "bar chart",
                    "grade": "daily life",
                    "img_height": 4,
                    "img_width": 5,
                    "language": "english",
                    "skills": ["statistical reasoning", "arithmetic reasoning"][: 1 + i % 2],
                    "source": "mine",
                    "split": "testmini",
                    "task": "figure question answering" if i % 2 else "math word problem",
                },
                "query": f"Say it shortly.\nQuestion: {question}" + (f"\nChoices:{listed}" if choices else ""),
            }
        )
    return rows


def mathvista_tsv_rows() -> Rows:
    return [
        {"index": row["pid"], "image": text_cell(i), "question": row["query"], "choices": repr(row["choices"] or []),
         "answer": row["answer"], "question_type": row["question_type"], "answer_type": row["answer_type"],
         "precision": row["precision"], "task": row["metadata"]["task"], "skills": repr(row["metadata"]["skills"])}
        for i, row in enumerate(mathvista_rows())
    ]  # fmt: skip


# HallusionBench ---------------------------------------------------------------------------------------

HALLUSION_COLUMNS = dict.fromkeys(
    ("category", "subcategory", "visual_input", "set_id", "figure_id", "sample_note", "question_id", "question"), TEXT
) | {"gt_answer_details": TEXT, "gt_answer": TEXT, "image": PICTURE, "filename": TEXT}


def hallusion_rows(with_pictures: bool = True, sets: int = 3) -> Rows:
    """Of each set two figures (or none) with three questions."""
    rows = []
    for s in range(sets):
        category, subcategory = ("VD", "illusion") if s % 2 and with_pictures else ("VS", "chart")
        for figure in (1, 2) if with_pictures else (0,):
            for question in range(3):
                rows.append(
                    {
                        "category": category,
                        "subcategory": subcategory,
                        "visual_input": str(figure),
                        "set_id": str(s),
                        "figure_id": str(figure),
                        "sample_note": "",
                        "question_id": str(question),
                        "question": f"Is bar {question} longer?",
                        "gt_answer_details": "",
                        "gt_answer": str((figure + question) % 2),
                        "image": cell(10 * s + figure) if with_pictures else None,
                        "filename": f"./{category}/{subcategory}/{s}_{figure}.png" if with_pictures else None,
                    }
                )
    return rows


def hallusion_tsv_rows() -> Rows:
    parts = ("category", "subcategory", "visual_input", "set_id", "figure_id", "question_id")
    return [
        {"index": "_".join(row[part] for part in parts), "question": row["question"], "category": row["category"],
         "l2-category": row["subcategory"], "answer": ("No", "Yes")[int(row["gt_answer"])],
         "image": base64.b64encode(row["image"]["bytes"]).decode()}
        for row in hallusion_rows()
    ]  # fmt: skip


# All of them ------------------------------------------------------------------------------------------

PARQUET: dict[tuple[str, str], tuple[str, Callable[[], Rows], dict[str, pa.DataType]]] = {
    ("pope", "all"): ("data/test-00000-of-00001.parquet", pope_rows, POPE_COLUMNS),
    ("3dsrbench", "flip_circular"): ("3dsr_circular/test-00000-of-00001.parquet", threedsr_rows, THREEDSR_COLUMNS),
    ("realworldqa", "test"): ("data/test-00000-of-00001.parquet", realworldqa_rows, REALWORLDQA_COLUMNS),
    ("mmmu", "validation"): ("Math/validation-00000-of-00001.parquet", mmmu_rows, MMMU_COLUMNS),
    ("vmcbench", "dev"): ("data/dev-00000-of-00001.parquet", vmcbench_rows, VMCBENCH_COLUMNS),
    ("mathvista", "testmini"): ("data/testmini-00000-of-00001.parquet", mathvista_rows, MATHVISTA_COLUMNS),
    ("hallusionbench", "image"): ("data/image-00000-of-00001.parquet", hallusion_rows, HALLUSION_COLUMNS),
}
"""By set and split: the name of its file on the hub, its rows, its columns."""
TSV: dict[tuple[str, str], Callable[[], Rows]] = {
    ("pope", "all"): pope_tsv_rows,
    ("3dsrbench", "flip_circular"): threedsr_tsv_rows,
    ("realworldqa", "test"): realworldqa_tsv_rows,
    ("mmmu", "validation"): mmmu_tsv_rows,
    ("mathvista", "testmini"): mathvista_tsv_rows,
    ("hallusionbench", "image"): hallusion_tsv_rows,
}


def write_parquet(name: str, split: str, folder: Path) -> Path:
    file, rows, columns = PARQUET[name, split]
    return parquet(folder / file, rows(), columns)


def write_tsv(name: str, split: str, folder: Path) -> Path:
    return tsv(folder / f"{name}.tsv", TSV[name, split]())
