"""What each command of the command line runs, on arguments that are read already."""

from __future__ import annotations

import argparse
import shutil
from collections.abc import Callable
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import pandas as pd

from lostattn import data, demo
from lostattn.conformance.judge import DEFAULTS, Verdict
from lostattn.conformance.models import families
from lostattn.conformance.scan import scan, write_table
from lostattn.conformance.table import in_page, summary
from lostattn.data.question import Questions
from lostattn.errors import InputError, UnknownName, nearest
from lostattn.experiments.attention_flow import flow
from lostattn.experiments.decoupling import decouple
from lostattn.experiments.probing import probe_questions
from lostattn.experiments.rescoring import score_table
from lostattn.experiments.results import Results, environment
from lostattn.files import Journal, writable_folder, write_text
from lostattn.files.journal import unfinished
from lostattn.interventions.attention import ReplaceAttention
from lostattn.interventions.picture_sources import Complexity, VisionPrior
from lostattn.interventions.sources import Dirichlet, Gaussian, Source, Uniform
from lostattn.model.load import load
from lostattn.model.load_module import config_of
from lostattn.patching.agreement import agreement
from lostattn.patching.corruptions import another_scene, corrupt
from lostattn.saved.reading import read_text
from lostattn.saved.text import printable
from lostattn.zoo import train

LONGEST_NAME = 220  # bytes of a file's name, with room for what is added while it is written

SOURCES: dict[str, Callable[[int], Source]] = {
    "gaussian": lambda seed: Gaussian(seed=seed),
    "dirichlet": lambda seed: Dirichlet(seed=seed),
    "uniform": lambda seed: Uniform(),
    "vision": lambda seed: VisionPrior(),
    "complexity": lambda seed: Complexity(),
}


def _demo(args: argparse.Namespace) -> None:
    writable_folder(args.out if args.out.exists() else args.out.parent)
    for name in args.models:
        config_of(name)
    found = demo.run(
        args.out,
        models=tuple(args.models),
        n=args.n,
        seed=args.seed,
        max_new_tokens=args.max_new_tokens,
        resume=args.resume,
    )
    print(f"wrote {found}")


def _decouple(args: argparse.Namespace) -> None:
    questions = _checked_data(args, args.n, on_error="row")
    model = load(args.model)
    finish(decouple(model, questions, seed=args.seed, **keeping(args)), args)


def _probe(args: argparse.Namespace) -> None:
    _check_layers(args.model, args.layers)
    questions = _checked_data(args, args.n, on_error="row")
    model = load(args.model)
    conditions = {
        name: ReplaceAttention(SOURCES[name](args.seed), keys="image", queries=args.queries, layers=args.layers)
        for name in args.sources
    }
    if args.answers is not None:
        writable_folder(args.answers)
    room, scoring = args.max_new_tokens, args.scoring
    found = probe_questions(model, questions, conditions, max_new_tokens=room, scoring=scoring, **keeping(args))
    if args.answers is not None:
        found.save(args.answers)
    table = found.summary()
    table.attrs.update(found.meta)
    finish(table, args)


def _flow(args: argparse.Namespace) -> None:
    _check_layers(args.model, [args.windows - 1])
    questions = _checked_data(args, args.n, on_error="row")
    model = load(args.model)
    finish(flow(model, questions, windows=args.windows, **keeping(args)), args)


def _agreement(args: argparse.Namespace) -> None:
    questions = _checked_data(args, max(40, 4 * args.n))
    model = load(args.model)
    clean = [q for q in questions if q.images][: args.n]
    spoilt = {
        "scene": [another_scene(q, questions, args.seed) for q in clean],
        "noise": [corrupt(q, "noise", seed=args.seed) for q in clean],
    }
    found = [agreement(model, clean, those, progress=True).assign(how=how) for how, those in spoilt.items()]
    table = pd.concat(found, ignore_index=True)
    write(table, args)
    shown = table.pivot_table("correlation", ["how", "point"], "method", ["mean", "min"])
    print(shown.round(2).to_string())


def _checked_data(args: argparse.Namespace, n: int, on_error: str = "raise") -> Questions:
    """The questions, once everything else has been looked at that can be wrong before the weights are read.

    With ``on_error="row"`` one whose picture cannot be read is among them, and says so.

    Raises:
        InputError: the table cannot be written; the questions cannot be read.
        UnknownName: there is no such model or data set.
    """
    writable_folder(args.out.parent)
    if args.out.is_dir():
        raise InputError(f"--out is {str(args.out)!r}, which is a folder; pass the name of a file.")
    if len(args.out.name.encode()) > LONGEST_NAME:
        raise InputError(f"--out ends in {args.out.name[:40]!r}…, whose name is too long; pass a shorter one.")
    config_of(args.model)
    return data.load(args.data, args.split, n, args.seed, path=args.path, on_error=on_error)


def _check_layers(model: str, layers: list[int] | None) -> None:
    """Refuse a layer that a model lacks, as far as its config tells how many it has."""
    text = config_of(model).get_text_config(decoder=True)
    n = getattr(text, "num_hidden_layers", None)
    if not isinstance(n, int):
        return
    beyond = [i for i in layers or () if i >= n]
    if beyond:
        raise InputError(f"layer {beyond[-1]} is out of range: {model} has {n} layers (0 to {n - 1}).")


def _train_tiny(args: argparse.Namespace) -> None:
    out = writable_folder(args.out)
    train.train(args.name, out, seed=args.seed)
    print(f"wrote {out}")


def _conformance(args: argparse.Namespace) -> None:
    known = families()
    for name in args.families:
        if name not in known:
            raise UnknownName(f"transformers has no family {name!r}.{nearest(name, list(known))}")
    if args.out is not None:
        writable_folder(args.out if args.out.exists() else args.out.parent)
    elif args.resume:
        raise InputError("--resume goes on with what is kept beside --out; name that folder: --out runs/conformance.")
    if args.page is not None:
        if not args.page.is_file():
            raise InputError(f"--page is {args.page}, which is no file; expected a page such as docs/models.md.")
        in_page(read_text(args.page, "page"), [])  # it has a place for the table
    asked, kernels = args.families or list(known), [*args.kernels, DEFAULTS]
    settings = {"families": asked, "kernels": kernels, "seed": args.seed, "versions": environment()}
    with ExitStack() as opened:
        journal = None
        if args.out is not None:
            journal = opened.enter_context(Journal(unfinished(args.out), settings, args.resume))
        verdicts = []
        done = [] if journal is None else [Verdict(**held) for held in journal.done.values()]
        for verdict in scan(asked, kernels, args.limit, args.seed, args.packages, done):
            if journal is not None and verdict not in done:
                journal.add(f"{verdict.family}/{verdict.kernel}", verdict.to_dict())
            verdicts.append(verdict)
            told = f"{verdict.outcome:10} {verdict.kinds} {verdict.remarks[:100]}"
            print(f"{verdict.family:24} {verdict.kernel:14} {told}")
        print(summary(verdicts))
        if args.out is not None:
            print(f"wrote {', '.join(map(str, write_table(verdicts, args.out)))}")
        if args.page is not None:
            write_text(args.page, in_page(read_text(args.page, "page"), verdicts))
        if journal is not None:
            journal.remove()


def _data(args: argparse.Namespace) -> None:
    if args.name is None:
        print("\n".join(data.names()))
        return
    if args.check is not None:
        checked = data.check(args.name, args.split, path=args.check)
        print(checked)
        if checked.amiss:
            raise InputError(f"{args.check} is not {args.name} as published ({len(checked.amiss)} things amiss).")
        return
    questions = data.load(
        args.name,
        args.split,
        args.n,
        args.seed,
        path=args.path,
        source=args.source,
        revision=args.revision,
        allow_rows=args.allow_rows,
    )
    print(questions)
    if args.out is not None:
        print(f"wrote {questions.save(args.out)}")


def _rescore(args: argparse.Namespace) -> None:
    writable_folder(args.out.parent)
    run = Results.load(args.run)
    # The run may hold some of the questions only: those that it names must be there, however many others are.
    questions = data.load(args.data, args.split, args.n, args.seed, path=args.path, allow_rows=True)
    table = score_table(run, questions, args.protocol, args.guesses)
    table.attrs.update({**run.meta, "scoring": args.protocol})
    write(table, args)


def keeping(args: argparse.Namespace) -> dict[str, Any]:
    """Where a command keeps its rows, and that a question that fails is a row."""
    return {"journal": unfinished(args.out), "resume": args.resume, "on_error": "row"}


def finish(table: pd.DataFrame, args: argparse.Namespace) -> None:
    """:func:`write` a table, whose rows need not be kept any longer then."""
    write(table, args)
    shutil.rmtree(unfinished(args.out), ignore_errors=True)


def write(table: pd.DataFrame, args: argparse.Namespace) -> None:
    """Show ``table``, and write it with what it takes to make it again."""

    said = {name: value for name, value in vars(args).items() if name not in ("debug", "resume")}
    asked = {name: str(value) if isinstance(value, Path) else value for name, value in said.items()}
    meta: dict[str, Any] = {
        **{str(k): v for k, v in table.attrs.items()},
        "arguments": asked,
        "environment": environment(),
    }
    paths = Results(table, meta).save(args.out)
    print(printable(table.to_string(index=False, max_rows=40)))
    print(f"wrote {', '.join(map(str, paths.values()))}")


COMMANDS: dict[str, Callable[[argparse.Namespace], None]] = {
    "demo": _demo,
    "decouple": _decouple,
    "probe": _probe,
    "flow": _flow,
    "agreement": _agreement,
    "train-tiny": _train_tiny,
    "conformance": _conformance,
    "data": _data,
    "rescore": _rescore,
}
