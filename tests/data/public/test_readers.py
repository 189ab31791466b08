"""The readers on small files in each set's true columns: what becomes of each row, and of the odd ones."""

from __future__ import annotations

import json
from collections import Counter
from pathlib import Path
from typing import Any

import pytest
from benchmark_files import PARQUET, TSV, hallusion_rows, png, pope_rows, write_parquet, write_tsv

from lostattn import data
from lostattn.data import Question, Questions, scoring
from lostattn.data.public import BENCHMARKS
from lostattn.pictures.loading import load_picture

FILES = [*((*key, write_parquet) for key in PARQUET), *((*key, write_tsv) for key in TSV)]
IDS = [f"{name}-{'parquet' if write is write_parquet else 'tsv'}" for name, _, write in FILES]


def loaded(name: str, split: str, write: Any, folder: Path, **more: Any) -> Questions:
    return data.load(name, split=split, path=write(name, split, folder), allow_rows=True, **more)


def by_id(questions: Questions, id: str) -> Question:
    (found,) = (question for question in questions if question.id == id)
    return found


@pytest.mark.parametrize(("name", "split", "write"), FILES, ids=IDS)
def test_every_row_is_a_question_with_its_pictures(name: str, split: str, write: Any, tmp_path: Path) -> None:
    questions = loaded(name, split, write, tmp_path)
    assert questions.name == f"{name}/{split}"
    for question in questions:
        assert question.text and question.answer and question.row and question.facts["benchmark"] == name
        assert all(image.mode == "RGB" for image in question.images) and len(question.images) >= 1
        assert not question.options or len(question.options) == len(question.choices)
        if question.options:
            assert all(option in question.text for option in question.options), "the options are asked about"
    assert data.load(questions.save(tmp_path / "saved")) == questions


@pytest.mark.parametrize(("name", "split", "write"), FILES, ids=IDS)
def test_an_oracle_is_always_right(name: str, split: str, write: Any, tmp_path: Path) -> None:
    questions = loaded(name, split, write, tmp_path)
    for protocol in ("strict", *BENCHMARKS[name].protocols):
        if protocol == "vlmevalkit-choice":
            continue  # it leaves single words and open answers to a judge
        for question in questions:
            for answer in question.answers or (question.answer,):
                assert scoring.right(protocol, answer, question), (protocol, question, answer)
        table = scoring.scores(questions, [question.answer for question in questions], protocol)
        assert set(table.loc[table["score"] != "yes ratio", "value"]) == {1.0}


@pytest.mark.parametrize(("name", "split", "write"), FILES, ids=IDS)
def test_what_is_asked_does_not_tell_what_is_right(name: str, split: str, write: Any, tmp_path: Path) -> None:
    table_of = PARQUET[name, split][1] if write is write_parquet else TSV[name, split]
    items = BENCHMARKS[name].items
    for i, row in enumerate(table_of()):
        full = {**row, "row number": i}
        for item in items(full, split):
            fields, others = item.fields, [c for c in item.fields["choices"] if c != item.fields["answer"]]
            for other in others if name != "mathvista" else ():
                changed = {**full, "gt_answer" if "gt_answer" in full else "answer": other}
                assert [one.fields["text"] for one in items(changed, split) if one.fields["id"] == fields["id"]] == [
                    fields["text"]
                ]


def test_pope(tmp_path: Path) -> None:
    path = write_parquet("pope", "all", tmp_path)
    questions = data.load("pope", split="popular", path=path, allow_rows=True)
    assert len(questions) == 24 and questions.kinds == ("popular",)
    assert Counter(question.answer for question in questions) == {"yes": 12, "no": 12}
    first = questions[0]
    assert (first.id, first.choices, first.cluster, first.row) == ("popular/1", ("yes", "no"), "scene_000", "24")
    assert first.images[0] == load_picture(png(0))
    assert questions[1].images[0] == first.images[0] and questions[6].images[0] != first.images[0]
    assert questions[1].images.files[0] is first.images.files[0], "a picture that rows share is held once"  # type: ignore[union-attr]
    whole = data.load("pope", split="all", path=path, allow_rows=True)
    assert len(whole) == 72 and len({question.cluster for question in whole}) == 4
    tsv = data.load("pope", split="popular", path=write_tsv("pope", "all", tmp_path), allow_rows=True)
    assert len(tsv) == 18 and len({question.cluster for question in tsv}) == 3
    assert Counter(q.answer for q in tsv) == {"yes": 9, "no": 9}, "those that categories share are in each"
    assert tsv[0].images[0] == tsv[1].images[0] == load_picture(png(0))


def test_3dsrbench(tmp_path: Path) -> None:
    for write in (write_parquet, write_tsv):
        questions = loaded("3dsrbench", "flip_circular", write, tmp_path)
        assert len(questions) == 2 * (2 + 2 + 4 + 2)
        turned = by_id(questions, "CCCC3333-flip-2")
        assert turned.together == {"flip": "CCCC3333-2", "circular": "CCCC3333-flip", "flip_circular": "CCCC3333"}
        assert turned.facts["set_sizes"] == {"flip": 2, "circular": 4, "flip_circular": 8}
        assert turned.options == ("back", "right", "front", "left") and turned.answer == "D"
        assert by_id(questions, "AAAA1111").choices == ("A", "B"), "the word nan is no option"
        assert by_id(questions, "AAAA1111-1").images[0] == by_id(questions, "AAAA1111").images[0]
        assert turned.facts["area"] == "orientation" and turned.cluster == "CCCC3333"
        path = write("3dsrbench", "flip_circular", tmp_path)
        flip = data.load("3dsrbench", split="flip", path=path, allow_rows=True)
        assert [q.id for q in flip][:3] == ["AAAA1111", "AAAA1111-flip", "BBBB2222"]
        assert flip[0].together == {"flip": "AAAA1111"}
        base = data.load("3dsrbench", split="base", path=path, allow_rows=True)
        assert len(base) == 4 and base[0].together == {}


def test_realworldqa(tmp_path: Path) -> None:
    questions = loaded("realworldqa", "test", write_parquet, tmp_path)
    assert [q.kind for q in questions] == ["choice", "choice", "open", "yes or no", "open"]
    assert questions[0].options == ("Left", "Right", "Neither") and questions[0].answer == "B"
    assert questions[0].text.endswith("Please give just the letter."), "the question is as it was written"
    assert questions[2].choices == () and questions[3].choices == ("Yes", "No")
    assert scoring.right("strict", "It is a no... Yes.", questions[3]) is False
    assert scoring.right("strict", "two", questions[2]) and not scoring.right("realworldqa-lmms", "two", questions[2])
    tsv = loaded("realworldqa", "test", write_tsv, tmp_path)
    assert tsv[0].choices == ("A", "B") and tsv[1].choices == ("A", "C", "D")
    assert tsv[1].options[0] == "None", "the word None is an option, nan is none"


def test_mmmu(tmp_path: Path) -> None:
    questions = loaded("mmmu", "validation", write_parquet, tmp_path)
    several = by_id(questions, "validation_Math_19")
    assert several.facts["image_order"] == [1, 2, 1, 2] and len(several.images) == 2
    swapped = by_id(questions, "validation_Pharmacy_4")
    assert [image.size for image in swapped.images] == [load_picture(png(k)).size for k in (2, 1)]
    assert len(swapped.images) == 2, "a picture that nothing refers to stays away"
    assert by_id(questions, "validation_Finance_8").choices == tuple("ABCDEFGHI")
    listed = by_id(questions, "validation_Chemistry_30")
    assert listed.answers == ("$XyZ$", "XyZ") and listed.choices == ()
    for protocol in ("mmmu-official", "strict"):
        assert scoring.right(protocol, "xyz", listed), protocol
    assert by_id(questions, "validation_Math_1").kind == "Math"
    assert by_id(questions, "validation_Math_1").facts["area"] == "Science"
    tsv = loaded("mmmu", "validation", write_tsv, tmp_path)
    assert [(q.id, len(q.images), q.choices) for q in tsv] == [
        ("validation_Math_1", 2, ("A", "B")),
        ("validation_Math_2", 1, ("A", "B", "C")),
    ]
    dev = data.load("mmmu", split="dev", path=tmp_path / "mmmu.tsv", allow_rows=True)
    assert dev[0].images[0] == load_picture(png(3)), "by the index of another row"


def test_vmcbench(tmp_path: Path) -> None:
    questions = loaded("vmcbench", "dev", write_parquet, tmp_path)
    assert [q.facts["area"] for q in questions] == ["general", "reason", "ocr", "doc", "doc", "general"]
    assert questions[2].id == questions[2].row == "102" and questions[2].answer == "C"
    table = scoring.scores(questions, ["A"] * 6, "vmcbench-lmms")
    assert table.query("part == 'doc' and score == 'accuracy'")["value"].item() == 0.5


def test_mathvista(tmp_path: Path) -> None:
    parquet = loaded("mathvista", "testmini", write_parquet, tmp_path)
    for questions in (parquet, loaded("mathvista", "testmini", write_tsv, tmp_path)):
        first, _, twice, whole, tenths, _, several = questions
        assert first.choices == tuple("ABCD") and first.answer == "B" and first.options[1] == "4.5"
        assert first.text.count("(B) 4.5") == 1, "the query has the choices already"
        assert twice.answers == ("A", "C")
        assert whole.choices == () and tenths.facts["precision"] == 1.0
        for said, question in (("(B)", first), ("4.5", first), ("5", twice), ("12.0", whole), ("1.19", tenths)):
            assert scoring.right("mathvista-official", said, question), said
        assert scoring.right("mathvista-official", "[1, 3]", several)
        nothing = scoring.scores(questions, [""] * 7, "mathvista-official")
        assert nothing.query("score == 'accuracy' and part == 'all'")["value"].item() == 0.0
    skills = scoring.scores(parquet, [q.answer for q in parquet], by=["skills"])
    assert skills.query("part == 'arithmetic reasoning'")["n"].item() == 3


def test_hallusionbench(tmp_path: Path) -> None:
    for write in (write_parquet, write_tsv):
        questions = loaded("hallusionbench", "image", write, tmp_path)
        one = questions[0]
        assert one.id == "VS_chart_1_0_1_0" and one.answer == "yes" and one.facts["area"] == "VS"
        assert one.together == {"figure": "VS_chart_0_1", "question": "VS_chart_0_0"}
        assert one.facts["set_sizes"] == {"figure": 3, "question": 2} and one.cluster == "VS_chart_0"
        table = scoring.scores(questions, ["no"] * len(questions), "hallusion-vlmevalkit").set_index(["score", "part"])
        assert table.loc[("fAcc", "all"), "n"] == 6 and table.loc[("qAcc", "all"), "n"] == 9
    (tmp_path / "none.json").write_text(json.dumps([without_picture(row) for row in hallusion_rows(False)]))
    none = data.load("hallusionbench", split="non_image", path=tmp_path / "none.json", allow_rows=True)
    assert len(none) == 9 and len(none[0].images) == 0
    assert none[0].together == {"question": "VS_chart_0_0"}, "what has no figure is in no figure's set"


def test_hallusionbench_as_its_authors_publish_it(tmp_path: Path) -> None:
    rows = [without_picture(row) for row in [*hallusion_rows(), *hallusion_rows(False)]]
    for i, row in enumerate(rows):
        if row["filename"]:
            file = tmp_path / row["filename"]
            file.parent.mkdir(parents=True, exist_ok=True)
            file.write_bytes(png(i))
    (tmp_path / "HallusionBench.json").write_text(json.dumps(rows))
    path = tmp_path / "HallusionBench.json"
    counts = [len(data.load("hallusionbench", split, path=path, allow_rows=True)) for split in ("image", "non_image")]
    assert counts == [18, 9] and len(data.load("hallusionbench", "all", path=path, allow_rows=True)) == 27
    assert data.load("hallusionbench", "image", path=path, allow_rows=True)[3].images[0] == load_picture(png(5))


def without_picture(row: dict[str, Any]) -> dict[str, Any]:
    return {name: value for name, value in row.items() if name != "image"}


def test_names() -> None:
    assert data.names() == (
        "shapes",
        "shapes-wide",
        "pope",
        "3dsrbench",
        "realworldqa",
        "mmmu",
        "vmcbench",
        "mathvista",
        "hallusionbench",
    )


def test_a_folder_of_files_is_read_by_split(tmp_path: Path) -> None:
    from benchmark_files import POPE_COLUMNS, parquet

    for category in ("adversarial", "popular"):
        parquet(tmp_path / "Full" / f"{category}-00000-of-00001.parquet", pope_rows(2, (category,)), POPE_COLUMNS)
    assert len(data.load("pope", split="popular", path=tmp_path, allow_rows=True)) == 12
