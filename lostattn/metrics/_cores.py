"""Work on several states side by side: on a CPU an eigenvalue solver keeps little more than one core busy."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor

SMALL = 128  # a state whose shorter side is below this is done before a thread would have started


@contextmanager
def side_by_side(states: list[Tensor]) -> Iterator[Callable[..., Iterable[Any]]]:
    """A ``map`` for work on these states: on a CPU by threads that share torch's cores among them.

    How many threads torch uses elsewhere stays what it was.
    """
    whole = torch.get_num_threads()
    workers = min(whole, len(states) - 1)
    if states[0].is_cuda or workers < 2 or min(states[0].shape[-2:]) < SMALL:
        yield map
        return
    share = whole // workers
    try:
        # Set in a thread, the number holds for that thread, and for threads that are started later.
        torch.set_num_threads(share)
        with ThreadPoolExecutor(workers, initializer=torch.set_num_threads, initargs=(share,)) as pool:
            yield lambda function, *arguments: _in_order(pool, workers, function, arguments)
    finally:
        torch.set_num_threads(whole)


def _in_order(pool: ThreadPoolExecutor, ahead: int, function: Callable[..., Any], arguments: Any) -> Iterator[Any]:
    """The results in order, never more than ``ahead`` of them begun or waiting beyond the one that is asked for."""
    waiting: deque[Future[Any]] = deque()
    for given in zip(*arguments, strict=True):
        waiting.append(pool.submit(function, *given))
        if len(waiting) > ahead:
            yield waiting.popleft().result()
    while waiting:
        yield waiting.popleft().result()
