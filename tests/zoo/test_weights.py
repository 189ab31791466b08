"""The trained models that ship with the package."""

from __future__ import annotations

import json
from dataclasses import asdict
from pathlib import Path
from typing import Any

import pytest
import transformers

import lostattn.zoo.recipe as recipe
from lostattn import zoo
from lostattn.checkpoint.processors import load_processor
from lostattn.data import load
from lostattn.data.asking import KINDS
from lostattn.errors import LostAttnError, UnknownName
from lostattn.zoo.card import model_card, read_log
from lostattn.zoo.course import COURSES
from lostattn.zoo.evaluate import accuracy, answers

pytestmark = pytest.mark.slow

_CLASSES = {
    "tiny-llava": transformers.LlavaForConditionalGeneration,
    "tiny-qwen2_5-vl": transformers.Qwen2_5_VLForConditionalGeneration,
}


@pytest.mark.parametrize("name", zoo.names())
def test_the_model_answers_unseen_questions(name: str) -> None:
    model: Any = transformers.AutoModelForImageTextToText.from_pretrained(zoo.path(name)).eval()
    assert type(model) is _CLASSES[name]
    questions = load("shapes", split="test", n=140, seed=77)
    said = answers(model, load_processor(zoo.path(name)), questions)
    found = accuracy(questions, said)
    assert found["all"]["accuracy"] >= 0.92, found
    assert set(said) <= {c for q in questions for c in q.choices}
    assert min(found[kind]["accuracy"] for kind in KINDS) >= 0.75, found  # of 20 questions each


def test_qwen_reads_rectangular_pictures() -> None:
    path = zoo.path("tiny-qwen2_5-vl")
    model = transformers.AutoModelForImageTextToText.from_pretrained(path).eval()
    questions = load("shapes-wide", split="test", n=70, seed=5)
    found = accuracy(questions, answers(model, load_processor(path), questions))
    assert found["all"]["accuracy"] >= 0.88, found


@pytest.mark.parametrize("name", zoo.names())
def test_the_bar_is_met_as_measured_on_2000_questions(name: str) -> None:
    first = json.loads((zoo.path(name) / "evaluation.json").read_text())[0]
    assert (first["data"], first["split"], first["n"]) == ("shapes", "test", 2000)
    assert first["accuracy"]["all"]["n"] == 2000
    assert first["accuracy"]["all"]["accuracy"] >= 0.95
    assert all(first["accuracy"][kind]["accuracy"] >= 0.90 for kind in KINDS)


@pytest.mark.parametrize("name", zoo.names())
def test_the_card_says_what_the_files_say(name: str) -> None:
    assert (zoo.path(name) / "README.md").read_text(encoding="utf-8") == model_card(name, zoo.path(name))
    header, *log = read_log(zoo.path(name))
    assert (header["name"], header["parts"]) == (name, json.loads(json.dumps([asdict(p) for p in COURSES[name]])))
    for number, part in enumerate(COURSES[name], start=1):
        assert [line["step"] for line in log if line["part"] == number][-1] == (part.stop or part.steps)


@pytest.mark.parametrize("name", zoo.names())
def test_a_model_is_small_and_free_of_pickles(name: str) -> None:
    files = list(zoo.path(name).rglob("*"))
    assert sum(f.stat().st_size for f in files) <= 10_000_000
    assert {f.suffix for f in files} <= {".json", ".jsonl", ".jinja", ".safetensors", ".md"}


@pytest.mark.parametrize("name", zoo.names())
def test_the_tokenizer_saved_is_the_recipes(name: str) -> None:
    saved: Any = load_processor(zoo.path(name))
    assert saved.tokenizer.get_vocab() == recipe.build_tokenizer(name).get_vocab()


def test_missing_weights_say_how_to_get_them(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(zoo, "__file__", str(tmp_path / "__init__.py"))
    with pytest.raises(LostAttnError, match="weights of tiny-llava are missing .*train-tiny tiny-llava --out"):
        zoo.path("tiny-llava")
    with pytest.raises(UnknownName, match="Did you mean 'tiny-qwen2_5-vl'"):
        zoo.path("tiny-qwen2.5-vl")
