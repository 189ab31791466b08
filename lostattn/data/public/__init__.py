"""Readers of public benchmarks: from their files on the disk, or from the hub.

>>> import lostattn as la
>>> la.data.load("pope", split="adversarial", n=300, seed=0)  # doctest: +SKIP
Questions(300 of pope/adversarial; adversarial: 300)
"""

from __future__ import annotations

from collections.abc import Sequence

from lostattn.data.public.benchmark import Benchmark
from lostattn.data.public.hallusion import HALLUSION
from lostattn.data.public.mathvista import MATHVISTA
from lostattn.data.public.mmmu import MMMU
from lostattn.data.public.pope import POPE
from lostattn.data.public.reading import Where, read_benchmark
from lostattn.data.public.realworldqa import REALWORLDQA
from lostattn.data.public.threedsr import THREEDSR
from lostattn.data.public.vmcbench import VMCBENCH
from lostattn.data.question import Questions
from lostattn.errors import InputError, UnknownName, nearest

__all__ = ["BENCHMARKS", "Benchmark", "Where", "load_public", "split_of"]

BENCHMARKS: dict[str, Benchmark] = {
    one.name: one for one in (POPE, THREEDSR, REALWORLDQA, MMMU, VMCBENCH, MATHVISTA, HALLUSION)
}
"""Every public benchmark by its name."""


def split_of(name: str, split: str | None) -> str:
    """The split that is meant: the benchmark's first where none is named.

    Raises:
        UnknownName: no such benchmark.
        InputError: no such split.
    """
    if name not in BENCHMARKS:
        raise UnknownName(
            f"no public benchmark is called {name!r}; there are {', '.join(BENCHMARKS)}.{nearest(name, BENCHMARKS)}"
        )
    splits = BENCHMARKS[name].splits
    if split is None:
        return next(iter(splits))
    if split not in splits:
        raise InputError(f"{name} has no split {split!r}; it has {', '.join(splits)}.{nearest(str(split), splits)}")
    return split


def load_public(
    name: str,
    split: str | None,
    n: int | None,
    seed: int,
    kinds: Sequence[str] | None,
    where: Where,
    allow_rows: bool = False,
) -> Questions:
    """Questions of a public benchmark; see :func:`lostattn.data.load`.

    Raises:
        UnknownName: no such benchmark.
        InputError: no such split, or a file that is not what it claims to be.
    """
    found = split_of(name, split)
    return read_benchmark(BENCHMARKS[name], BENCHMARKS, found, n, seed, kinds, where, allow_rows)
