"""A prompt whose items stand several times in the batch, as a generation of several answers to each needs it."""

from __future__ import annotations

from lostattn.errors import InputError
from lostattn.prompt.batch import Prompt


def repeated(prompt: Prompt, copies: int) -> Prompt:
    """Each item ``copies`` times, those of one item beside each other, on the same columns.

    Raises:
        InputError: columns that are padding in every item, which would be left out.
    """
    if copies == 1:
        return prompt
    longer = prompt[[i for i in range(len(prompt)) for _ in range(copies)]]
    if longer.n_pos != prompt.n_pos:
        raise InputError(
            f"the prompt has {prompt.n_pos - longer.n_pos} columns that are padding in every item; take prompt[:], "
            "which leaves them out, and choose positions of that."
        )
    return longer
