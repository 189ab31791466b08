"""The main job on one model and a few questions: the folder it leaves."""

from __future__ import annotations

import json
from html.parser import HTMLParser

import pandas as pd
import pytest

import lostattn as la
from lostattn import demo
from lostattn.errors import InputError
from lostattn.files import check_run
from lostattn.remote.session import Session

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """A small run."""
    out = tmp_path_factory.mktemp("demo")
    report = demo.run(out, models=("tiny-llava",), n=8, seed=2)
    assert report == out / "report.html"
    return out


class _Links(HTMLParser):
    def __init__(self) -> None:
        super().__init__()
        self.found: list[str] = []

    def handle_starttag(self, tag, attrs):
        self.found += [value for name, value in attrs if name in ("src", "href") and value]


def test_the_report_asks_for_nothing_outside_itself(folder):
    links = _Links()
    links.feed((folder / "report.html").read_text())
    assert links.found
    assert all(link.startswith(("data:", "#")) for link in links.found)


def test_the_report_holds_both_tables_and_the_papers_figures(folder):
    text = (folder / "report.html").read_text()
    for expected in (
        "Noise QKV",
        "ε RoPE",
        "RID, paper",
        "0.610",
        "gaussian",
        "released",
        "tiny-llava",
        "AttentionHeads",
    ):
        assert expected in text, expected


def test_tables_and_figures_lie_beside_it(folder):
    for name in ("decouple", "decouple_released", "probe"):
        results = la.experiments.Results.load(folder / "tables", name)
        assert len(results.table) == len(pd.read_csv(folder / "tables" / f"{name}.csv"))
        assert results.meta["seed"] == 2
    figures = sorted(path.name for path in (folder / "figures").iterdir())
    assert len(figures) == 6 and all(f"{path[:-4]}.png" in figures for path in figures)


def test_the_run_can_be_drawn_again_from_its_file(folder):
    said = json.loads((folder / "run.json").read_text())
    assert said["models"] == ["tiny-llava"] and said["n"] == 8 and said["seed"] == 2
    probe = next(run for run in said["runs"] if run["experiment"] == "probe")
    edit = la.Intervention.from_json(json.dumps(probe["conditions"]["gaussian"]))
    questions = la.data.load(said["data"], split="test", n=said["n"], seed=said["seed"])
    model = la.load(probe["model"])
    again = la.experiments.probe(model, questions, {"gaussian": edit}, seeds=probe["seeds"], progress=False)
    stored = la.experiments.Results.load(folder / "tables", "probe").summary()
    stored = stored[(stored["condition"] == "gaussian") & (stored["kind"] == "all")]
    again = again[(again["condition"] == "gaussian") & (again["kind"] == "all")]
    assert again["accuracy"].item() == stored["accuracy"].item()


def test_the_folder_is_one_sealed_run(folder):
    assert check_run(folder)


def test_noise_by_thirds_of_the_layers():
    found = demo.conditions(n_layers=7, seed=0)
    thirds = [edit.layers for name, edit in found.items() if name.startswith("gaussian, layers")]
    assert thirds == [(0, 1), (2, 3, 4), (5, 6)]


def test_a_folder_that_cannot_be_written_is_refused_before_any_model_runs(tmp_path, monkeypatch):
    (tmp_path / "file").write_text("")
    monkeypatch.setattr(demo, "load", lambda *a, **k: pytest.fail("a model was loaded"))
    with pytest.raises(InputError, match="Cannot write to the folder"):
        demo.run(tmp_path / "file" / "out")
    with pytest.raises(InputError, match="models is empty"):
        demo.run(tmp_path / "out", models=())


def test_an_interrupted_run_leaves_no_table(tmp_path, monkeypatch):
    calls = []

    def interrupted(*arguments, **keywords):
        calls.append(arguments)
        raise KeyboardInterrupt

    monkeypatch.setattr(demo, "probe_questions", interrupted)
    with pytest.raises(KeyboardInterrupt):
        demo.run(tmp_path / "out", models=("tiny-llava",), n=4)
    assert calls and list((tmp_path / "out").rglob("*")) == []


def test_a_run_broken_off_goes_on_to_the_same_tables(folder, tmp_path, monkeypatch):
    """The second part ends it; what came before is there, and no part of it is run again."""
    probe = demo.probe_questions

    def interrupted(*arguments, **keywords):
        raise KeyboardInterrupt

    settings = {"models": ("tiny-llava",), "n": 8, "seed": 2}
    monkeypatch.setattr(demo, "probe_questions", interrupted)
    with pytest.raises(KeyboardInterrupt):
        demo.run(tmp_path / "out", **settings)
    assert [path.name for path in tmp_path.iterdir()] == ["out.unfinished"]
    with pytest.raises(InputError, match="n was 8 and is 9"):
        demo.run(tmp_path / "out", **{**settings, "n": 9}, resume=True)
    monkeypatch.setattr(demo, "probe_questions", probe)
    monkeypatch.setattr(Session, "measure", interrupted)  # what decouple asks
    demo.run(tmp_path / "out", **settings, resume=True)
    for path in (folder / "tables").iterdir():
        assert (tmp_path / "out" / "tables" / path.name).read_bytes() == path.read_bytes(), path.name
    assert [path.name for path in tmp_path.iterdir()] == ["out"] and check_run(tmp_path / "out")


def test_findings_are_made_of_the_numbers():
    table = pd.DataFrame(
        {
            "model": ["m"] * 5,
            "update": ["attention", "ffn", "noise_qkv", "noise_delta", "rope"],
            "rid": [0.1, 0.2, 0.3, 0.4, 0.05],
        }
    )
    assert "This is the paper's order." in demo.found_updates(table)
    table.loc[0, "rid"] = 0.25
    said = demo.found_updates(table)
    assert "FFN (0.200) < attention (0.250)" in said and "not the paper's order" in said
    overall = pd.DataFrame(
        {
            "model": ["m"] * 4,
            "condition": ["untouched", "a", "b", "c"],
            "difference": [0.0, -0.25, 0.01, 0.125],
            "p": [1.0, 0.01, 0.6, 0.02],
        }
    )
    said = demo.found_answers(overall)
    assert "can show: b;" in said and "better: c;" in said and "worse: a (-25.0 points)" in said


def test_models_of_one_name_are_told_apart_before_the_work_begins(tmp_path, monkeypatch):
    for folder in ("a/tiny", "b/tiny", "a/x y", "a/x-y", "c/模型"):
        (tmp_path / folder).mkdir(parents=True)
    monkeypatch.chdir(tmp_path)
    models = ["a/tiny", "b/tiny", "tiny-llava", "tiny-llava", "a/x y", "a/x-y", "org/tiny-llava"]
    labels = demo.distinct_names(models)
    assert labels == ["a/tiny", "b/tiny", "tiny-llava", "tiny-llava (2)", "x y", "x-y (2)", "org/tiny-llava"]
    assert demo.distinct_names(["c/模型"]) == ["模型"]
    files = {demo._file_name(label) for label in labels}
    assert len(files) == len(labels) and all(name.isascii() for name in files)
