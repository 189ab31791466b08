"""Questions with pictures: the bundled generator, and folders of one's own.

>>> import lostattn as la
>>> la.data.load("shapes", split="test", n=7, seed=0)
Questions(7 of shapes; ...)
"""

from __future__ import annotations

import os
from collections.abc import Callable, Sequence
from pathlib import Path

import lostattn.data.scoring as scoring
from lostattn.arguments import checked_call
from lostattn.data.asked import AskedObject, asked_objects
from lostattn.data.asking import KINDS
from lostattn.data.folder import read_rows
from lostattn.data.from_table import from_table
from lostattn.data.public import BENCHMARKS, Where, load_public, split_of
from lostattn.data.public.checking import Checked, check_files
from lostattn.data.question import Question, Questions
from lostattn.data.scene import SPLITS
from lostattn.data.shapes import shapes as square_shapes
from lostattn.data.shapes import shapes_wide as wide_shapes
from lostattn.errors import InputError, UnknownName, nearest
from lostattn.saved.reading import told_where

__all__ = [
    "AskedObject",
    "Question",
    "Questions",
    "asked_objects",
    "check",
    "from_table",
    "load",
    "names",
    "register",
    "scoring",
]

Source = Callable[[str, int, int, Sequence[str]], Questions]
_SOURCES: dict[str, tuple[Source, tuple[str, ...]]] = {}


@checked_call
def register(name: str, source: Source, kinds: Sequence[str]) -> None:
    """Make `load(name)` call `source(split, n, seed, kinds)`.

    Args:
        name: what to call the data set; a name already taken is an error.
        source: returns exactly `n` questions of these kinds from that split.
        kinds: the kinds of questions that it can give.
    """
    if name in names():
        raise InputError(f"A data set called {name!r} is registered already; choose another name.")
    _SOURCES[name] = source, tuple(kinds)


def names() -> tuple[str, ...]:
    """The data sets that `load` knows by name: the bundled ones and those registered, and the public benchmarks."""
    return (*_SOURCES, *BENCHMARKS)


@checked_call
def load(
    name: str | Path,
    split: str | None = None,
    n: int | None = None,
    seed: int = 0,
    kinds: str | Sequence[str] | None = None,
    *,
    path: str | Path | None = None,
    source: str | None = None,
    revision: str | None = None,
    stream: bool = False,
    allow_rows: bool = False,
    on_error: str = "raise",
) -> Questions:
    """Questions of a data set known by name, or of a folder.

    Args:
        name: a name (see `names`), or a folder with a `questions.jsonl` (see `lostattn.data.folder`).
        split: of the bundled sets `"train"`, `"val"` or `"test"` (the default); the same scene is never in two of them.
            Of a public benchmark one of its own, such as `"adversarial"`. Folders have none.
        n: how many questions; 200 by default of a bundled set, all of a folder or a public benchmark. Of a benchmark
            whole groups are drawn (what shares a picture or must be right together), balanced as the set is: where
            their sizes do not add up to n, a few less.
        seed: the same seed gives the same questions and pixels. A folder is read in its own order.
        kinds: only these kinds of questions; None means all.
        path: a public benchmark's file or folder of files (parquet, or VLMEvalKit's TSV); None is the hub.
        source: another id on the hub that holds the benchmark.
        revision: the commit, branch or tag to read there; the newest by default. The commit is kept in each question's
            `facts`.
        stream: read over the network what is needed of parquet files, instead of downloading them.
        allow_rows: read a benchmark that has other rows than the published one.
        on_error: of a folder. `"raise"`: a picture that cannot be read ends the reading. `"row"`: its question has no
            pictures and says why (`Question.trouble`); it cannot be asked, and an experiment with `on_error="row"`
            makes a row of it.

    Raises:
        UnknownName: no such data set or folder; the message names the nearest.
        InputError: a bad split, number or kind, a folder that cannot be read, or a benchmark's file that is not what it
            claims to be.
    """
    if n is not None and (isinstance(n, bool) or not isinstance(n, int) or n <= 0):
        raise InputError(f"n is how many questions to load, a whole number above 0; got {n!r}.")
    if isinstance(seed, bool) or not isinstance(seed, int) or seed < 0:
        raise InputError(f"seed is a whole number, 0 or above; got {seed!r}.")
    if on_error not in ("raise", "row"):
        raise InputError(f"on_error is {on_error!r}; expected 'raise' or 'row'.")
    if isinstance(kinds, str):
        kinds = (kinds,)
    if kinds is not None and not kinds:
        raise InputError("kinds is empty; name at least one kind of question, or leave it out for all.")
    where = Where(path, source, revision, stream)
    if str(name) in BENCHMARKS:
        return load_public(str(name), split, n, seed, kinds, where, allow_rows)
    if where != Where():
        raise InputError(f"path=, source=, revision= and stream= say where a public benchmark lies; {name} is none.")
    if str(name) not in _SOURCES:
        return _load_folder(name, n, kinds, keep_broken=on_error == "row")
    return _generated(str(name), "test" if split is None else split, n, seed, kinds)


@checked_call
def check(
    name: str,
    split: str | None = None,
    *,
    path: str | Path | None = None,
    source: str | None = None,
    revision: str | None = None,
) -> Checked:
    """Whether files are the public benchmark that they claim to be: every row and picture of them is read.

    Args:
        name: of the benchmark.
        split: None is the one that the files come nearest to.
        path: a file or folder; None is the hub.
        source: another id on the hub that holds it.
        revision: the commit, branch or tag there.

    Returns:
        How much there is, and what is amiss (``.amiss``, empty where all is well).

    Raises:
        UnknownName: no such benchmark.
        InputError: no such files, or they are of another set.
    """
    split_of(name, split)
    return check_files(BENCHMARKS[name], BENCHMARKS, split, Where(path, source, revision))


def _generated(name: str, split: str, n: int | None, seed: int, kinds: Sequence[str] | None) -> Questions:
    if split not in SPLITS:
        raise InputError(f"There is no split {split!r}; there are {', '.join(SPLITS)}.{nearest(str(split), SPLITS)}")
    source, known = _SOURCES[name]
    for kind in kinds or ():
        if kind not in known:
            raise InputError(
                f"{name} has no questions of kind {kind!r}; it has {', '.join(known)}.{nearest(str(kind), known)}"
            )
    return source(split, 200 if n is None else n, seed, tuple(kinds or known))


def _load_folder(name: str | Path, n: int | None, kinds: Sequence[str] | None, keep_broken: bool) -> Questions:
    if not os.path.isdir(name):  # False of a name that is too long, or with a null byte
        said = str(name)[:200]
        raise UnknownName(
            f"No data set or folder is called {said!r}; the data sets are {', '.join(names())}.{nearest(said, names())}"
        )
    with told_where(name, "set of questions"):
        rows = read_rows(name, keep_broken)
        questions = Questions((Question(images=tuple(images), **fields) for fields, images in rows), Path(name).name)
    if kinds is not None:
        questions = questions.only(*kinds)
    if n is not None and n > len(questions):
        raise InputError(f"{name} holds {len(questions)} such questions; {n} were asked for.")
    return questions if n is None else questions[:n]


register("shapes", square_shapes, KINDS)
register("shapes-wide", wide_shapes, KINDS)
