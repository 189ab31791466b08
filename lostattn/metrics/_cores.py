"""Work on several states side by side: on a CPU an eigenvalue solver keeps little more than one core busy."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor

SMALL = 128  # a state whose shorter side is below this is done before a thread would have started


@contextmanager
def side_by_side(states: list[Tensor]) -> Iterator[tuple[Callable[..., Any], int]]:
    """A ``map``, and how many states it does at a time: on a CPU, threads that share torch's cores among them.

    How many threads torch uses elsewhere stays what it was.
    """
    whole = torch.get_num_threads()
    workers = min(whole, len(states) - 1)
    if states[0].is_cuda or workers < 2 or min(states[0].shape[-2:]) < SMALL:
        yield map, 1
        return
    try:
        # Set in a thread, the number holds for that thread, and for threads that are started later.
        with ThreadPoolExecutor(workers, initializer=torch.set_num_threads, initargs=(whole // workers,)) as pool:
            yield pool.map, workers
    finally:
        torch.set_num_threads(whole)
