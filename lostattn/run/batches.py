"""A data set batch by batch: prompts of some questions at a time, under a progress bar."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sized
from itertools import islice
from typing import Any

from tqdm.auto import tqdm

from lostattn.errors import InputError
from lostattn.points.hooked_model import HookedModel
from lostattn.prompt.batch import Prompt
from lostattn.prompt.conversations.messages import is_conversation

EMPTY = "the data set is empty; give at least one question, such as la.data.load('shapes', n=200)."


def in_batches(data: Iterable[Any], size: int) -> Iterator[Any]:
    """The items of a data set in lists of ``size``, in their own order; the items of a prompt as parts of it.

    Nothing is read before it is needed, so a generator may be endless or larger than memory.

    Raises:
        InputError: batches would be empty, or what is given holds no items.
    """
    if not isinstance(size, int) or size < 1:
        raise InputError(f"batch_size is {size!r}; expected at least 1.")
    if isinstance(data, Prompt):
        for start in range(0, len(data), size):
            yield data[start : start + size]
        return
    if isinstance(data, str) or not isinstance(data, Iterable):
        raise InputError(
            f"the data set is {type(data).__name__}; expected questions or texts, one after another: a list, a data "
            "set of la.data.load, a generator, or a prompt."
        )
    rest = iter(data)
    while batch := list(islice(rest, size)):
        if is_conversation(batch):
            raise InputError("the data set is one conversation, a list of messages; give a list of such lists.")
        yield batch


def prompts_of(model: HookedModel, data: Iterable[Any], size: int, doing: str, progress: bool) -> Iterator[Prompt]:
    """The batches of a data set as prompts, one after another, with a bar.

    Raises:
        InputError: there are none; otherwise as :func:`in_batches`.
    """
    batch = None
    with passes_bar(model, data, size, doing, progress) as bar:
        for batch in in_batches(data, size):
            yield batch if isinstance(batch, Prompt) else model.prompt(batch)
            bar.update()
    if batch is None:
        raise InputError(EMPTY)


def passes_bar(model: HookedModel, data: Iterable[Any], size: int, doing: str, progress: bool) -> Any:
    """A progress bar over the passes of a data set; without an end where its length is not known."""
    total = -(-len(data) // max(1, size)) if isinstance(data, Sized) else None
    return bar(total, f"{doing} {model.name}", progress)


def bar(total: int | None, what: str, show: bool, unit: str = "pass") -> Any:
    """A progress bar over passes, or other units of work; hidden where ``show`` is False or nobody is watching.

    Without a total it has no end.
    """
    return tqdm(total=total, desc=what, unit=unit, disable=None if show else True, leave=False)
