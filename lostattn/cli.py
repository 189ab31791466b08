"""The ``lostattn`` command: its arguments, and how it ends; what it runs is in :mod:`lostattn.commands`.

Arguments are checked before anything heavy is imported, and the place to write to before any model runs.
What a caller can put right is printed as one line, with exit status 2; ``--debug`` shows where it arose.
"""

from __future__ import annotations

import argparse
import re
import signal
import sys
import threading
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, NoReturn

from lostattn import __version__
from lostattn.errors import LostAttnError, nearest
from lostattn.saved.text import printable

TINY_MODELS = ("tiny-llava", "tiny-qwen2_5-vl")
SOURCES = ("gaussian", "dirichlet", "uniform", "vision", "complexity")
SCORINGS = ("strict", "log_probability", "first_token")
TABLES = (".parquet", ".csv")


def main(argv: Sequence[str] | None = None) -> int:
    """Run one command.

    Args:
        argv: the arguments after the program's name; those of the process where None.

    Returns:
        The exit status: 0 done, 2 something the caller can put right, 130 interrupted, 143 ended by SIGTERM.
    """
    args = _parser().parse_args(argv)
    from lostattn import commands  # torch, transformers: nothing that --help or a wrong argument should wait for

    try:
        with _ended_by_sigterm():
            commands.COMMANDS[args.command](args)
    except LostAttnError as error:
        if args.debug:
            raise
        print(f"lostattn {args.command}: {' '.join(printable(error).split())}", file=sys.stderr)
        return 2
    except KeyboardInterrupt as error:
        if args.debug:
            raise
        print(f"lostattn {args.command}: interrupted; no half-written file is left{_goes_on(args)}", file=sys.stderr)
        return 143 if isinstance(error, _Terminated) else 130
    return 0


class _Terminated(KeyboardInterrupt):
    """SIGTERM, which ends a command as Ctrl-C does: what is done stays, and what was begun is cleaned up."""


@contextmanager
def _ended_by_sigterm() -> Iterator[None]:
    def end(*_: object) -> None:
        raise _Terminated

    if threading.current_thread() is not threading.main_thread():  # signals are the main thread's alone
        yield
        return
    before = signal.signal(signal.SIGTERM, end)
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, before)


def _goes_on(args: argparse.Namespace) -> str:
    """How to go on, where rows were kept."""
    if not hasattr(args, "resume") or getattr(args, "out", None) is None:
        return ""
    from lostattn.files.journal import unfinished

    rows = unfinished(args.out)
    return f"; what is done is kept in {rows}, and --resume goes on with it" if rows.exists() else ""


# Reading arguments ----------------------------------------------------------------------------------


MOST = 10_000_000  # of whatever is counted: questions, tokens, seconds
LAST_SEED = 2**63 - 1
LAST_LAYER = 9999  # far beyond any model; how many the one at hand has is asked before it is loaded


def _whole(text: str, low: int, high: int) -> int | None:
    """A whole number of that range; ``None`` for anything else, however long it is."""
    digits = text.strip().lstrip("0") or "0"
    fits = text.strip().isdecimal() and len(digits) <= len(str(high)) and low <= int(digits) <= high
    return int(digits) if fits else None


def _count(text: str) -> int:
    found = _whole(text, 1, MOST)
    if found is None:
        raise argparse.ArgumentTypeError(
            f"{_short(text)} is not a count; pass a whole number of at least 1 and at most {MOST}"
        )
    return found


def _seed(text: str) -> int:
    found = _whole(text, 0, LAST_SEED)
    if found is None:
        raise argparse.ArgumentTypeError(
            f"{_short(text)} is not a seed; pass a whole number of at least 0 that fits 64 bits"
        )
    return found


def _layers(text: str) -> list[int]:
    """``"2-4,7"`` as [2, 3, 4, 7]."""
    layers: set[int] = set()
    for part in text.split(","):
        match = re.fullmatch(r"(\d+)(?:-(\d+))?", part.strip())
        first, last = (_whole(one, 0, LAST_LAYER) for one in (match[1], match[2] or match[1])) if match else (1, 0)
        if first is None or last is None:
            raise argparse.ArgumentTypeError(f"{_short(text)} names a layer beyond {LAST_LAYER}, which no model has")
        if last < first:
            raise argparse.ArgumentTypeError(
                f"{_short(text)} does not name layers; pass numbers and ranges counted from 0, such as 2-5 or 0,3,6"
            )
        layers.update(range(first, last + 1))
    return sorted(layers)


def _short(text: str) -> str:
    return repr(text if len(text) <= 60 else f"{text[:60]}…")


def _table_path(text: str) -> Path:
    path = Path(text)
    if path.suffix not in TABLES:
        raise argparse.ArgumentTypeError(f"{_short(text)} must end with {' or '.join(TABLES)}")
    return path


class _HelpFormatter(argparse.ArgumentDefaultsHelpFormatter, argparse.RawDescriptionHelpFormatter):
    """Keeps the line breaks of examples, and shows each default that says something."""

    def _get_help_string(self, action: argparse.Action) -> str | None:
        silent = action.default is None or action.default is False
        return action.help if silent else super()._get_help_string(action)


class _Parser(argparse.ArgumentParser):
    """Refuses in one line, with the nearest of the names that there are."""

    def error(self, message: str) -> NoReturn:
        print(f"{self.prog}: {message} (see {self.prog} --help)", file=sys.stderr)
        raise SystemExit(2)

    def _check_value(self, action: argparse.Action, value: Any) -> None:
        if action.choices is not None and value not in action.choices:
            known = [str(choice) for choice in action.choices]
            told = f"{_short(str(value))} is none of {', '.join(known)}.{nearest(str(value), known)}"
            raise argparse.ArgumentError(action, told)

    def parse_args(self, args: Any = None, namespace: Any = None) -> Any:
        """The arguments; one that is not known is refused with the nearest option of its command."""
        found, rest = self.parse_known_args(args, namespace)
        if rest:
            options = self._options_of(found.command)
            near = nearest(rest[0].partition("=")[0], options) if rest[0].startswith("-") else ""
            self.error(f"{found.command} takes no argument {_short(rest[0])}.{near}")
        return found

    def _options_of(self, command: str) -> list[str]:
        groups = (action.choices for action in self._actions if isinstance(action, argparse._SubParsersAction))
        return [name for group in groups for name in group[command]._option_string_actions]


def _parser() -> argparse.ArgumentParser:
    parser = _Parser(
        prog="lostattn",
        description="Mechanistic interpretability for large vision-language models.",
        epilog="See `lostattn COMMAND --help` for what a command does, with examples.",
    )
    parser.add_argument("--version", action="version", version=f"lostattn {__version__}")
    commands = parser.add_subparsers(dest="command", metavar="COMMAND", required=True)
    _add_demo(commands)
    _add_decouple(commands)
    _add_probe(commands)
    _add_flow(commands)
    _add_agreement(commands)
    _add_train_tiny(commands)
    _add_conformance(commands)
    _add_data(commands)
    _add_rescore(commands)
    return parser


Commands = Any  # argparse keeps the type of its sub-parsers private


def _add(commands: Commands, name: str, about: str, example: str) -> argparse.ArgumentParser:
    """A sub-command with its description and examples, and the option that all of them have."""
    command: argparse.ArgumentParser = commands.add_parser(
        name,
        help=about.split(". ")[0].rstrip("."),
        description=about,
        epilog=f"examples:\n{example}",
        formatter_class=_HelpFormatter,
    )
    command.add_argument("--debug", action="store_true", help="show the traceback of an error")
    return command


def _add_demo(commands: Commands) -> None:
    command = _add(
        commands,
        "demo",
        "Run both experiments on the tiny models and write a report. The folder then holds report.html,\n"
        "which opens offline, the tables, the figures, and run.json, from which all can be drawn again.",
        "  lostattn demo\n  lostattn demo --out runs/first --models tiny-llava --n 50",
    )
    command.add_argument("--out", type=Path, default=Path("demo"), metavar="FOLDER", help="where to write")
    command.add_argument(
        "--models", nargs="+", default=list(TINY_MODELS), metavar="MODEL", help="names, folders or hub ids"
    )
    command.add_argument("--n", type=_count, default=200, help="questions of the probing experiment")
    command.add_argument("--seed", type=_seed, default=0, help="seed of questions and noise")
    _add_room(command)
    _add_resume(command)


def _add_resume(command: argparse.ArgumentParser) -> None:
    command.add_argument(
        "--resume",
        action="store_true",
        help="go on with a run that was broken off; what it did is kept beside --out, in a folder .unfinished",
    )


def _add_question_options(command: argparse.ArgumentParser, table: str) -> None:
    """The model and the questions, as decouple and probe take them."""
    command.add_argument("model", metavar="MODEL", help=f"{', '.join(TINY_MODELS)}, a hub id or a folder")
    command.add_argument("--data", default="shapes", metavar="NAME", help="the data set")
    command.add_argument("--split", metavar="NAME", help="its split; test, or the first of a public benchmark")
    command.add_argument("--path", type=Path, metavar="PATH", help="a public benchmark's file or folder of files")
    command.add_argument("--n", type=_count, default=200, help="how many questions")
    command.add_argument("--seed", type=_seed, default=0, help="seed of questions and noise")
    command.add_argument(
        "--out",
        type=_table_path,
        default=Path(table),
        metavar="FILE",
        help="a .parquet or .csv file; both are written, and a .json that says where they come from",
    )


def _add_decouple(commands: Commands) -> None:
    command = _add(
        commands,
        "decouple",
        "Measure what attention and the FFN add to the residual stream. One row for each layer and update,\n"
        "with spectral change, subspace innovation, RID and MixIG, beside the noise controls.",
        "  lostattn decouple tiny-llava\n  lostattn decouple tiny-qwen2_5-vl --n 50 --out runs/qwen.csv",
    )
    _add_question_options(command, "decouple.parquet")
    _add_resume(command)


def _add_flow(commands: Commands) -> None:
    command = _add(
        commands,
        "flow",
        "Cut attention between parts of the prompt and see the answer go. One row for each pair of parts and\n"
        "window of layers, with what the right answer's probability loses.",
        "  lostattn flow tiny-llava\n  lostattn flow tiny-llava --windows 2 --out runs/flow.csv",
    )
    _add_question_options(command, "flow.parquet")
    command.add_argument("--windows", type=_count, default=1, metavar="N", help="layers that are cut together")
    _add_resume(command)


def _add_probe(commands: Commands) -> None:
    command = _add(
        commands,
        "probe",
        "Replace the attention to the image by predefined values and answer the questions again. One row\n"
        "for each source and kind of question, compared with the untouched run on the same questions.",
        "  lostattn probe tiny-llava\n  lostattn probe tiny-llava --sources gaussian vision --layers 2-5",
    )
    _add_question_options(command, "probe.parquet")
    command.add_argument(
        "--sources",
        nargs="+",
        choices=SOURCES,
        default=list(SOURCES),
        metavar="SOURCE",
        help=f"what to put in its place, of {', '.join(SOURCES)}",
    )
    command.add_argument(
        "--layers", type=_layers, metavar="LAYERS", help="such as 2-5 or 0,3,6-7; every layer where not given"
    )
    command.add_argument("--answers", type=Path, metavar="FOLDER", help="keep every answer as it was said, for rescore")
    command.add_argument("--queries", choices=("last", "text", "all"), default="last", help="which query rows")
    _add_room(command)
    command.add_argument(
        "--scoring",
        choices=SCORINGS,
        default="strict",
        help="read what is said, or take the choice that is likeliest, whole or by its first token",
    )
    _add_resume(command)


def _add_room(command: argparse.ArgumentParser) -> None:
    command.add_argument(
        "--max-new-tokens",
        type=_count,
        metavar="N",
        help="where an answer is cut off; room for the longest choice of its kind and a sentence where not given",
    )


def _add_agreement(commands: Commands) -> None:
    command = _add(
        commands,
        "agreement",
        "Compare attribution patching with true patching. Each question is paired with itself about another\n"
        "scene and under noise; the effects of all cells of a sweep are correlated with their estimates.",
        "  lostattn agreement tiny-llava --n 8\n  lostattn agreement tiny-qwen2_5-vl --n 8 --out runs/agreement.csv",
    )
    _add_question_options(command, "agreement.parquet")


def _add_train_tiny(commands: Commands) -> None:
    command = _add(
        commands,
        "train-tiny",
        "Train one of the tiny models again. Runs the recipe that made the bundled weights, on the CPU,\n"
        "and writes a folder in the layout of the public checkpoints.",
        "  lostattn train-tiny tiny-llava --out runs/tiny-llava --seed 1",
    )
    command.add_argument("name", choices=TINY_MODELS, metavar="NAME", help=" or ".join(TINY_MODELS))
    command.add_argument("--out", type=Path, required=True, metavar="FOLDER", help="where to write")
    command.add_argument("--seed", type=_seed, default=0, help="seed of weights and questions")


def _add_conformance(commands: Commands) -> None:
    command = _add(
        commands,
        "conformance",
        "Put every family of transformers to the self-test. A tiny random model of each is built from its own\n"
        "config class, resolved by its structure, and every hook point is proven on a picture.",
        "  lostattn conformance\n  lostattn conformance llava qwen3_vl gemma3 --kernels sdpa --out runs/models",
    )
    command.add_argument("families", nargs="*", metavar="FAMILY", help="names in transformers' mapping; all if none")
    command.add_argument(
        "--kernels", nargs="+", choices=("eager", "sdpa"), default=["eager", "sdpa"], help="attention implementations"
    )
    command.add_argument("--seed", type=_seed, default=0, help="seed of weights and pictures")
    command.add_argument("--limit", type=_count, default=120, help="seconds for one family under one kernel")
    command.add_argument("--out", type=Path, metavar="FOLDER", help="where to write conformance.json and .md")
    _add_resume(command)
    command.add_argument("--page", type=Path, metavar="FILE", help="a page whose summary and table are made new")
    command.add_argument(
        "--packages",
        default=".conformance",
        metavar="FOLDER",
        help="what `make conformance` installed for some families",
    )


def _add_data(commands: Commands) -> None:
    command = _add(
        commands,
        "data",
        "List the data sets, show one, or check the files of a public benchmark. Without a name it lists them;\n"
        "--check reads every row and picture, tells what is amiss, and ends with status 2 where something is.",
        "  lostattn data\n  lostattn data pope --check files/POPE.tsv\n"
        "  lostattn data mmmu --path files/mmmu --n 50 --out runs/mmmu-50",
    )
    command.add_argument("name", nargs="?", metavar="NAME", help="the data set; all are listed if none")
    command.add_argument("--check", type=Path, metavar="PATH", help="a file or folder that claims to be the benchmark")
    command.add_argument("--split", metavar="NAME", help="its split; its first, or what a file comes nearest to")
    command.add_argument("--path", type=Path, metavar="PATH", help="read a benchmark from files; from the hub if none")
    command.add_argument("--source", metavar="ID", help="another id on the hub that holds the benchmark")
    command.add_argument("--revision", metavar="NAME", help="the commit, branch or tag to read there")
    command.add_argument("--n", type=_count, help="how many questions to draw")
    command.add_argument("--seed", type=_seed, default=0, help="seed of the draw")
    command.add_argument("--allow-rows", action="store_true", help="take other rows than the published ones")
    command.add_argument("--out", type=Path, metavar="FOLDER", help="write the questions to a new folder")


def _add_rescore(commands: Commands) -> None:
    command = _add(
        commands,
        "rescore",
        "Read the answers of a run again under another protocol. No model is needed: what was said is in the\n"
        "run that `lostattn probe --answers` wrote. One row for each condition, seed, score and part of the set.",
        "  lostattn rescore runs/pope --data pope --path files/POPE.tsv --protocol pope-official\n"
        "  lostattn rescore runs/first --protocol strict --out strict.csv",
    )
    command.add_argument("run", type=Path, metavar="RUN", help="the folder or file of answers")
    command.add_argument("--protocol", required=True, metavar="NAME", help="such as strict, pope-official, mmmu-lmms")
    command.add_argument("--guesses", action="store_true", help="count what a public scorer draws by its average")
    command.add_argument("--data", default="shapes", metavar="NAME", help="the data set that was asked, or its folder")
    command.add_argument("--split", metavar="NAME", help="its split")
    command.add_argument("--path", type=Path, metavar="PATH", help="a public benchmark's file or folder of files")
    command.add_argument("--n", type=_count, help="how many questions were drawn; all of a benchmark if none")
    command.add_argument("--seed", type=_seed, default=0, help="seed of the draw")
    command.add_argument("--out", type=_table_path, default=Path("rescored.parquet"), metavar="FILE", help="the table")


if __name__ == "__main__":
    sys.exit(main())
