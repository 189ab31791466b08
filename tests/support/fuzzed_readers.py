"""Every reader of files that may come from anybody, with sound files of its kind."""

from __future__ import annotations

import io
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import torch
from fuzzing import Reader
from hostile_files import saved
from PIL import Image

import lostattn as la
from lostattn.checkpoint.adapter_folder import read_adapter
from lostattn.data.folder import FILE
from lostattn.data.public.tables import read_table
from lostattn.experiments.results import Results
from lostattn.files import check_run, write_folder
from lostattn.files.recovery import reading
from lostattn.means import Means
from lostattn.pictures.loading import load_picture
from lostattn.pools import Pool
from lostattn.remote.jobs import Job
from lostattn.remote.results import read_result

FIRST = Path(__file__).parents[1] / "saved" / "first"
HOST = "http://127.0.0.1:8399"


def readers(model: Any, folder: Path) -> Iterator[Reader]:
    """All of them; sound files are made in a folder."""
    yield from _of_tensors(model, folder)
    yield from _of_tables(folder)
    yield from _of_json(model, folder)
    yield from _of_pictures(folder)


def _of_tensors(model: Any, folder: Path) -> Iterator[Reader]:
    question = la.data.load("shapes", n=1, seed=3)[0]
    edit = la.KnockOut("last", "image", layers=1)
    _, cache = model.run_with_cache(
        model.prompt(question),
        ["blocks.1.attn.hook_pattern", "blocks.2.attn.hook_pattern", "blocks.1.hook_resid_post"],
        edit,
    )
    own = cache.save(folder / "own.safetensors").read_bytes()

    def load(path: Path) -> None:
        found = la.ActivationCache.load(path, model)
        repr(found)
        for name in found:
            assert isinstance(found[name], torch.Tensor)
        if found.prompt is not None:
            found.prompt._repr_html_()

    yield Reader("cache", load, [(FIRST / "cache.safetensors").read_bytes(), own], ".safetensors", "tensors")
    for name, kind in (("means", Means), ("pool", Pool)):
        sound = [(FIRST / f"{name}.safetensors").read_bytes()]
        yield Reader(name, lambda path, kind=kind: repr(kind.load(path)), sound, ".safetensors", "tensors")
    sent = saved({"sent": {"logits": torch.zeros(1, 2, 3), "kept": {"a": torch.ones(2).half(), "b": [1, "two", None]}}})
    yield Reader("result of a service", lambda path: read_result(path.read_bytes(), False, HOST), [sent])


def _of_tables(folder: Path) -> Iterator[Reader]:
    mixed = pd.DataFrame(
        {"condition": ["a", "b", None], "n": [1, 2, 3], "rid": [0.5, np.nan, 2.0], "l": [[1], [], [2, 3]]}
    )
    own = Results(mixed, {"seed": 3}).save(folder / "mixed")["parquet"].read_bytes()
    sound = [own, (FIRST / "probe.parquet").read_bytes()]
    yield Reader("results", lambda path: repr(Results.load(path).table.head()), sound, ".parquet")

    def rows(path: Path) -> None:
        table = read_table([path])
        list(table.cells([(0, column) for column in table.columns] if len(table.rows) else []))

    pictures = pd.DataFrame({"index": [0, 1], "question": ["a?", "b?"], "image": [b"x", b"y"], "answer": ["A", "B"]})
    pictures.to_parquet(folder / "public.parquet")
    yield Reader("benchmark (parquet)", rows, [(folder / "public.parquet").read_bytes()], ".parquet")
    plain = pictures.assign(image=["a.png", "b.png"])
    for ending, text in ((".tsv", plain.to_csv(sep="\t", index=False)), (".csv", plain.to_csv(index=False))):
        yield Reader(f"benchmark ({ending[1:]})", rows, [text.encode()], ending)
    lines = "\n".join(json.dumps(row) for row in plain.to_dict("records"))
    yield Reader("benchmark (JSON lines)", rows, [lines.encode()], ".jsonl", "lines")


def _of_json(model: Any, folder: Path) -> Iterator[Reader]:
    job = json.loads((FIRST / "job.json").read_text())
    yield Reader(
        "job", lambda path: repr(Job.load(path, model, host=HOST)), [json.dumps(job).encode()], ".json", "json"
    )
    written = json.loads((FIRST / "expected.json").read_text())["interventions"]

    def intervention(path: Path) -> None:
        text = path.read_bytes().decode("utf-8", "replace")
        found = la.Intervention.from_json(text)
        assert found == type(found).from_json(found.to_json())
        repr(found)

    yield Reader("intervention", intervention, [json.dumps(one).encode() for one in written], ".json", "json")
    yield _questions(folder)
    write_folder(folder / "run", lambda place: (place / "a.txt").write_text("a"), about={"seed": 3})

    def run(path: Path) -> None:
        (folder / "run" / "run.json").write_bytes(path.read_bytes())
        check_run(folder / "run")

    yield Reader("run.json", run, [(folder / "run" / "run.json").read_bytes()], ".json", "json")

    def commit(path: Path) -> None:
        stage = folder / "staged" / ".run.0123456789abcdef.part"
        (stage / "new").mkdir(parents=True, exist_ok=True)
        (stage / "commit").write_bytes(path.read_bytes())
        with reading(folder / "staged"):
            assert (folder / "run" / "a.txt").read_text() == "a"

    said = [
        {"place": "x", "files": True, "gone": ["b.txt"]},
        {"place": "", "files": True},
        {"place": "y", "files": False},
    ]
    yield Reader("commit of a stage", commit, [json.dumps(one).encode() for one in said], ".json", "json")
    adapter = {"base_model_name_or_path": "llava-hf/llava-1.5-7b-hf", "revision": None, "peft_type": "LORA"}
    yield Reader("adapter_config.json", read_adapter, [json.dumps(adapter).encode()], ".json", "json")


def _questions(folder: Path) -> Reader:
    place = la.data.load("shapes", n=3, seed=1).save(folder / "questions")
    own = (place / FILE).read_bytes().strip()
    (place / "run.json").unlink()  # the lines are what is tried, and a seal would refuse them all

    def questions(path: Path) -> None:
        (place / FILE).write_bytes(path.read_bytes())
        la.data.load(place)._repr_html_()

    short = {"text": "One?", "images": "images/00000-0.png", "answer": 3, "choices": [3, "x"], "id": 7, "group": "g"}
    return Reader("questions", questions, [own, json.dumps(short).encode()], ".jsonl", "lines")


def _of_pictures(folder: Path) -> Iterator[Reader]:
    pixels = np.random.default_rng(0).integers(0, 256, (9, 14, 3), dtype=np.uint8)
    picture = Image.fromarray(pixels)
    tag = Image.Exif()
    tag[0x0112] = 6
    stills = []
    for kind in ("PNG", "JPEG", "GIF", "BMP", "WEBP", "TIFF", "PPM", "ICO", "TGA", "AVIF", "JPEG2000"):
        file = io.BytesIO()
        picture.save(file, kind, **({"exif": tag} if kind in ("PNG", "JPEG", "WEBP", "TIFF", "AVIF") else {}))
        stills.append(file.getvalue())
    yield Reader("picture", lambda path: load_picture(path).size, stills)
    moving = []
    frames = [Image.fromarray(np.roll(pixels, k, 1)) for k in range(3)]
    for kind in ("GIF", "WEBP", "PNG", "TIFF"):
        file = io.BytesIO()
        frames[0].save(file, kind, save_all=True, append_images=frames[1:], duration=[70, 130, 200])
        moving.append(file.getvalue())
    yield Reader("animated picture", lambda path: la.Video(path).metadata(), moving)
