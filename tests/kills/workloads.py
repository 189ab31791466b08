"""What is killed: each workload writes to one place, and can tell of what stands there whose run it is."""

from __future__ import annotations

import contextlib
import io
import json
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pandas as pd

import lostattn as la
from lostattn import cli, commands, demo
from lostattn.data import load as load_questions
from lostattn.experiments.results import Results
from lostattn.files import check_run

N = 3  # questions


class Torn(Exception):
    """What stands there is no run whole."""


@dataclass(frozen=True)
class Workload:
    """``run(folder, seed)`` writes; ``seed_of(folder)`` is the seed of the run that stands there, None for none."""

    run: Callable[[Path, int, bool], object]
    seed_of: Callable[[Path], int | None]
    resumes: bool = False


def workloads(model: la.LVLM) -> dict[str, Workload]:
    """All of them, on a model that is loaded already."""
    commands.load = demo.load = lambda name: model  # type: ignore[assignment,misc]
    cache = model.run_with_cache(model.prompt(load_questions("shapes", n=1, seed=0)[0]))[1]

    def save_cache(folder: Path, seed: int, _: bool) -> None:
        cache.save(folder / "c.safetensors", seed=seed)

    def save_questions(folder: Path, seed: int, _: bool) -> None:
        load_questions("shapes", n=N, seed=seed).save(folder / f"q{seed}")

    return {
        "cache.save": Workload(save_cache, lambda folder: _of_cache(folder, model)),
        "Questions.save": Workload(save_questions, _of_questions),
        "probe": Workload(lambda *given: _table("probe", *given), lambda f: _of_table(f, "probe"), resumes=True),
        "decouple": Workload(lambda *given: _table("decouple", *given), lambda f: _of_table(f, "decouple"), True),
        "demo": Workload(_demo, _of_demo, resumes=True),
    }


def _command(*said: str) -> None:
    with contextlib.redirect_stdout(io.StringIO()), contextlib.redirect_stderr(io.StringIO()) as told:
        status = cli.main(said)
    if status:
        raise RuntimeError(f"status {status}: {told.getvalue()[-600:]}")


def _demo(folder: Path, seed: int, resume: bool) -> None:
    out = ["--out", str(folder / "demo"), "--models", "tiny-llava", "--n", str(N), "--max-new-tokens", "1"]
    _command("demo", *out, "--seed", str(seed), *(["--resume"] if resume else []))


def _table(command: str, folder: Path, seed: int, resume: bool) -> None:
    out = ["--out", str(folder / f"{command}.parquet"), "--n", str(N), "--seed", str(seed)]
    few = ["--sources", "gaussian", "--max-new-tokens", "1"] if command == "probe" else []
    _command(command, "tiny-llava", *out, *few, *(["--resume"] if resume else []))


def _one(seeds: set[Any]) -> int:
    if len(seeds) != 1:
        raise Torn(f"of several runs: seeds {sorted(map(str, seeds))}")
    return int(seeds.pop())


def _of_demo(folder: Path) -> int | None:
    place = folder / "demo"
    if not place.exists():
        return None
    if not check_run(place):  # as it stands, before anything of it is read or recovered
        raise Torn("no seal")
    seeds = {json.loads((place / "run.json").read_text())["seed"]}
    for name in ("decouple", "decouple_released", "probe"):
        seeds.add(Results.load(place / "tables", name).meta["seed"])
        seeds.add(json.loads((place / "tables" / f"{name}.json").read_text())["seed"])
    if f"(seed {max(seeds)})" not in (place / "report.html").read_text():
        raise Torn("the report is of another run")
    return _one(seeds)


def _of_table(folder: Path, name: str) -> int | None:
    try:
        held = Results.load(folder, name)
    except la.errors.InputError as error:
        if "There are no results" in str(error) and not list(folder.glob(f"{name}.[cj]*")):
            return None
        raise
    seeds = {held.meta["arguments"]["seed"]}
    seeds.add(json.loads((folder / f"{name}.json").read_text())["arguments"]["seed"])
    if len(pd.read_csv(folder / f"{name}.csv")) != len(held.table):
        raise Torn("the CSV is of another run")
    return _one(seeds)


def _of_cache(folder: Path, model: la.LVLM) -> int | None:
    path = folder / "c.safetensors"
    if not path.exists():
        return None
    return int(la.ActivationCache.load(path, model).meta["seed"])


def _of_questions(folder: Path) -> int | None:
    seeds = []
    for place in folder.glob("q*"):
        if not check_run(place) or len(load_questions(place)) != N:
            raise Torn("half a folder")
        seeds.append(int(place.name[1:]))
    return max(seeds, default=None)
