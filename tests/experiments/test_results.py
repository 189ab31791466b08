from __future__ import annotations

import json
import os
import platform
import shutil
import sys

import numpy as np
import pandas as pd
import pytest

from lostattn.errors import InputError
from lostattn.experiments import results as module
from lostattn.experiments.results import Results, accuracy_summary, environment, mean_summary
from lostattn.experiments.statistics import mcnemar, mean_interval, paired_difference, sign_flip, wilson_interval
from lostattn.files import writable_folder

META = {"model": "tiny-llava", "revision": None, "seed": 3, "interventions": {"gaussian": {"layers": [2, 5]}}}


def answers(**conditions: list[int]) -> pd.DataFrame:
    """One row per question and condition, from lists of 0 and 1; the first three questions are counting."""
    return pd.DataFrame(
        [
            {
                "condition": name,
                "id": f"q{i}",
                "kind": "counting" if i < 3 else "colour",
                "correct": bool(right),
            }
            for name, values in conditions.items()
            for i, right in enumerate(values)
        ]
    )


TABLE = answers(gaussian=[0, 1, 0, 1, 1, 0, 1], untouched=[1, 1, 1, 1, 1, 0, 0])


# Saving and loading --------------------------------------------------------------------------------


@pytest.mark.parametrize("target", ["run", "run/results.parquet", "run/results.csv"])
def test_what_is_saved_is_loaded(tmp_path, target):
    paths = Results(TABLE, META).save(tmp_path / target)
    seal = ["run.json"] if target == "run" else []
    names = ["results.csv", "results.json", "results.parquet", *seal]
    assert sorted(p.name for p in (tmp_path / "run").iterdir()) == names
    loaded = Results.load(paths["parquet"])
    pd.testing.assert_frame_equal(loaded.table, TABLE)
    assert loaded.meta == META
    assert json.loads(paths["json"].read_text()) == META
    pd.testing.assert_frame_equal(pd.read_csv(paths["csv"]), TABLE)


def test_the_parquet_alone_holds_everything(tmp_path):
    Results(TABLE, META).save(tmp_path / "run", name="probe")
    shutil.copy(tmp_path / "run" / "probe.parquet", tmp_path / "elsewhere.parquet")
    assert Results.load(tmp_path / "elsewhere.parquet").meta == META
    assert Results.load(tmp_path / "run", name="probe").meta == META


def test_values_keep_their_types_and_an_odd_index_is_dropped(tmp_path):
    table = pd.DataFrame({"rid": [0.1, 1 / 3], "layer": [3, 5], "update": ["attn", "mlp"]}, index=[9, 4])
    loaded = Results.load(Results(table).save(tmp_path)["parquet"])
    pd.testing.assert_frame_equal(loaded.table, table.reset_index(drop=True), check_exact=True)


@pytest.mark.parametrize("failing", ["_write_parquet", "to_csv", "replace"])
def test_a_run_that_is_stopped_leaves_what_was_there(tmp_path, monkeypatch, failing):
    Results(TABLE, META).save(tmp_path)
    before = {p.name: p.read_bytes() for p in tmp_path.iterdir()}

    def stop(*args, **kwargs):
        raise KeyboardInterrupt

    if failing == "_write_parquet":

        def half(table, meta, sealed, path):
            path.write_bytes(b"PAR1 half a tab")
            raise KeyboardInterrupt

        monkeypatch.setattr(module, "_write_parquet", half)
    elif failing == "to_csv":
        monkeypatch.setattr(pd.DataFrame, "to_csv", stop)
    else:
        monkeypatch.setattr(os, "replace", stop)
    with pytest.raises(KeyboardInterrupt):
        Results(TABLE.iloc[:4], {"other": 1}).save(tmp_path)
    assert {p.name: p.read_bytes() for p in tmp_path.iterdir()} == before


def test_loading_refuses_what_is_not_results(tmp_path):
    with pytest.raises(InputError, match=r"There are no results at '.*missing.parquet'. Pass the folder or file"):
        Results.load(tmp_path / "missing.parquet")
    broken = tmp_path / "broken.parquet"
    broken.write_bytes(b"PAR1 half a table")
    with pytest.raises(InputError, match=r"broken.parquet' cannot be read as parquet"):
        Results.load(broken)
    TABLE.to_parquet(tmp_path / "plain.parquet")
    with pytest.raises(InputError, match=r"plain.parquet' does not say where it comes from"):
        Results.load(tmp_path / "plain.parquet")


@pytest.mark.parametrize("value", [{1, 2}, float("nan")])
def test_metadata_that_is_not_json_is_refused_before_anything_is_written(tmp_path, value):
    with pytest.raises(InputError, match="metadata cannot be written as JSON"):
        Results(TABLE, {"odd": value}).save(tmp_path)
    assert list(tmp_path.iterdir()) == []


# Folders -------------------------------------------------------------------------------------------


def test_a_writable_folder_is_made_and_left_empty(tmp_path):
    folder = writable_folder(tmp_path / "a" / "b")
    assert folder == tmp_path / "a" / "b" and list(folder.iterdir()) == []


def test_a_folder_below_a_file_is_refused(tmp_path):
    (tmp_path / "file").write_text("")
    for path in ("file", "file/below"):
        with pytest.raises(InputError, match=r"Cannot write to the folder '.*file.*' \(.+\). Pass a folder that"):
            writable_folder(tmp_path / path)


@pytest.mark.skipif(sys.platform != "linux", reason="/proc, where not even root may write, is Linux's")
def test_a_folder_that_not_even_root_may_write_to_is_refused(tmp_path):
    with pytest.raises(InputError, match=r"Cannot write to the folder '/proc/lostattn'"):
        writable_folder("/proc/lostattn")
    with pytest.raises(InputError, match=r"Cannot write to the folder '/proc'"):
        Results(TABLE).save("/proc")


# Summaries -----------------------------------------------------------------------------------------


def test_accuracy_summary_by_hand():
    summary = accuracy_summary(TABLE)
    assert list(zip(summary["condition"], summary["kind"], strict=True)) == [
        ("untouched", "all"),
        ("untouched", "counting"),
        ("untouched", "colour"),
        ("gaussian", "all"),
        ("gaussian", "counting"),
        ("gaussian", "colour"),
    ]
    row = summary.iloc[3]
    a, b = [0, 1, 0, 1, 1, 0, 1], [1, 1, 1, 1, 1, 0, 0]
    assert (row["n"], row["seeds"], row["accuracy"]) == (7, 1, 4 / 7)
    assert (row["low"], row["high"]) == wilson_interval(4, 7)
    assert (row["difference"], row["difference_low"], row["difference_high"]) == paired_difference(a, b)
    assert row["difference"] == pytest.approx(-1 / 7)
    assert row["p"] == mcnemar(a, b) == 1.0  # two lost, one gained
    colour = summary.iloc[5]
    assert (colour["n"], colour["accuracy"], colour["difference"]) == (4, 3 / 4, 1 / 4)
    untouched = summary.iloc[0]
    assert (untouched["difference"], untouched["p"]) == (0.0, 1.0)


def test_questions_are_paired_by_name_not_by_place():
    table = answers(gaussian=[0] * 6 + [1] * 5, untouched=[1] * 11)
    table.loc[table["id"] == "q10", "correct"] = [True, False]  # six lost, one gained
    gaussian, untouched = (table[table["condition"] == name] for name in ("gaussian", "untouched"))
    row = accuracy_summary(pd.concat([gaussian, untouched.iloc[::-1]])).set_index(["condition", "kind"]).loc["gaussian"]
    assert row.loc["all", "p"] == 2 * (1 + 7) / 2**7


def test_seeds_of_single_questions_flip_signs():
    untouched = answers(untouched=[1, 1, 1, 0, 1, 1, 1, 1, 1])
    noise = [answers(noise=values) for values in ([0, 0, 1, 0, 1, 0, 1, 0, 1], [0, 1, 1, 0, 0, 0, 1, 0, 1])]
    row = accuracy_summary(pd.concat([untouched, *noise])).set_index(["condition", "kind"]).loc[("noise", "all")]
    a = [0, 0.5, 1, 0, 0.5, 0, 1, 0, 1]
    assert (row["n"], row["seeds"], row["accuracy"]) == (9, 2, 4 / 9)
    assert row["p"] == sign_flip(a, [1, 1, 1, 0, 1, 1, 1, 1, 1])


def test_scenes_and_seeds_are_counted_as_what_they_are():
    rng = np.random.default_rng(1)
    rows = []
    for scene in range(19):
        ease = rng.choice([0.1, 0.95])
        for question in range(3):
            base = rng.random() < 0.95
            key = {"id": f"{scene}-{question}", "scene": scene}
            rows.append({"condition": "untouched", "seed": 0, "correct": base, **key})
            rows += [
                {"condition": "noise", "seed": seed, "correct": base and rng.random() < ease, **key}
                for seed in range(5)
            ]
    table = pd.DataFrame(rows)
    row = accuracy_summary(table).iloc[1]
    noise = table[table["condition"] == "noise"]
    assert (row["n"], row["seeds"]) == (57, 5)
    assert row["accuracy"] == noise["correct"].mean()
    low, high = wilson_interval(float(noise["correct"].sum()), len(noise))
    assert row["high"] - row["low"] > 1.5 * (high - low)  # 285 answers, but not of 285 questions
    a = noise.groupby("id", sort=False)["correct"].mean()
    b = table[table["condition"] == "untouched"].set_index("id")["correct"].astype(float)
    scenes = [key.split("-")[0] for key in a.index]
    assert row["difference"] == pytest.approx((a - b[a.index]).mean())
    assert row["p"] == sign_flip(a, b[a.index], scenes)


def test_models_are_compared_each_with_itself():
    other = TABLE.assign(correct=True)
    both = pd.concat([TABLE.assign(model="tiny-llava"), other.assign(model="tiny-qwen2_5-vl")])
    summary = accuracy_summary(both)
    assert summary.columns[0] == "model"
    pd.testing.assert_frame_equal(summary.iloc[:6, 1:], accuracy_summary(TABLE))
    assert set(summary.iloc[6:]["accuracy"]) == {1.0}


def test_accuracy_summary_refuses():
    with pytest.raises(InputError, match=r"no condition 'untouched' to compare with, only 'gaussian'"):
        accuracy_summary(TABLE[TABLE["condition"] == "gaussian"])
    with pytest.raises(InputError, match=r"'gaussian' and 'untouched' were asked other questions: 6 and 7, 6 of"):
        accuracy_summary(TABLE.iloc[1:])
    with pytest.raises(InputError, match=r"no column 'correct', only 'condition', 'id', 'kind'"):
        accuracy_summary(TABLE.drop(columns="correct"))
    with pytest.raises(InputError, match=r"The table is empty"):
        accuracy_summary(TABLE.iloc[:0])


def test_mean_summary_by_hand():
    table = pd.DataFrame(
        {
            "id": ["q0", "q1", "q2"] * 2,
            "layer": [2, 2, 2, 3, 3, 3],
            "update": ["attn"] * 3 + ["mlp"] * 3,
            "rid": [0.1, 0.2, 0.6, 0.0, 0.5, 1.0],
            "mixig": [0.3, 0.3, 0.3, 0.0, 0.0, 0.0],
        }
    )
    summary = Results(table).summary()
    assert list(summary.columns) == [
        *("update", "layer", "n"),
        *("rid", "rid_low", "rid_high", "mixig", "mixig_low", "mixig_high"),
    ]
    assert summary["n"].tolist() == [3, 3]
    assert summary["rid"].tolist() == pytest.approx([0.3, 0.5])
    estimate = mean_interval([0.1, 0.2, 0.6], ["q0", "q1", "q2"])
    assert tuple(summary.loc[0, ["rid", "rid_low", "rid_high"]]) == tuple(estimate)
    chosen = Results(table).summary(values=["mixig"], by=["update"])
    assert list(chosen.columns) == ["update", "n", "mixig", "mixig_low", "mixig_high"]


def test_mean_summary_takes_rows_of_a_scene_together():
    values = np.random.default_rng(0).normal(size=13)
    table = pd.DataFrame({"scene": np.repeat(range(13), 5), "update": "attn", "rid": np.repeat(values, 5)})
    row = mean_summary(table, ["rid"], ["update"]).iloc[0]
    assert (row["rid_low"], row["rid_high"]) == mean_interval(table["rid"], table["scene"])[1:]


def test_mean_summary_keeps_groups_without_a_layer():
    table = pd.DataFrame({"layer": [0.0, np.nan], "update": ["attn", "whole model"], "rid": [0.1, 0.4]})
    assert Results(table).summary()["update"].tolist() == ["attn", "whole model"]


def test_mean_summary_refuses():
    with pytest.raises(InputError, match=r"no column 'rid'"):
        mean_summary(TABLE, ["rid"], ["kind"])
    with pytest.raises(InputError, match=r"Nothing to average: values=\[\], by=\['kind'\]"):
        mean_summary(TABLE, [], ["kind"])
    with pytest.raises(InputError, match=r"holds NaN"):
        mean_summary(pd.DataFrame({"u": ["a"], "rid": [np.nan]}), ["rid"], ["u"])


def test_results_of_answers_summarise_to_accuracies():
    pd.testing.assert_frame_equal(Results(TABLE).summary(), accuracy_summary(TABLE))


# Environment ---------------------------------------------------------------------------------------


def test_environment_names_what_is_installed(monkeypatch):
    import torch

    found = environment()
    assert list(found) == ["python", "torch", "transformers", "nnsight", "lostattn"]
    assert found["python"] == platform.python_version()
    assert found["torch"] == torch.__version__

    def missing(name):
        import importlib.metadata

        raise importlib.metadata.PackageNotFoundError(name)

    monkeypatch.setattr("importlib.metadata.version", missing)
    assert environment()["nnsight"] is None
