"""Tokens of a prompt, coloured by a value each."""

from __future__ import annotations

from collections.abc import Sequence

import torch

from lostattn.arguments import checked_call
from lostattn.arguments.known_by import Numbers, PromptLike
from lostattn.errors import InputError
from lostattn.view.drawing import Drawing, colored_markup
from lostattn.view.reading import real_positions, token_labels


@checked_call
def tokens(
    prompt: PromptLike,
    values: Numbers,
    item: int = 0,
    labels: Sequence[str] | None = None,
    title: str = "Values of tokens",
) -> Drawing:
    """The tokens of an item, coloured by CircuitsVis: blue above 0, red below.

    Args:
        prompt: the prompt that the values belong to.
        values: one per position, [pos] or [batch, pos]; or several, [pos, kind], with a label for each kind.
            Positions are those of the prompt, or its real ones only; what stands at padding is left out.
        item: which item of the batch.
        labels: the names of the kinds, to choose from in the drawing.
        title: what is shown.

    Raises:
        InputError: the values do not fit the prompt or the labels, or hold NaN.
    """
    positions = real_positions(prompt, item)
    batch, n_pos = prompt.token_map.real.shape
    given = torch.stack([torch.as_tensor(one) for one in values]) if isinstance(values, list | tuple) else values
    given = torch.as_tensor(given).detach().float().cpu()
    if labels is None and given.ndim == 2 and tuple(given.shape) == (batch, n_pos):
        given = given[item]
    shown = given[positions] if given.ndim and len(given) == n_pos else given
    wanted = (len(positions),) if labels is None else (len(positions), len(labels))
    if tuple(shown.shape) != wanted:
        raise InputError(
            f"values has the shape {tuple(given.shape)}; item {item} has {len(positions)} real positions of "
            f"{n_pos}. "
            + ("Pass one for each." if labels is None else f"Pass [pos, kind] with {len(labels)} kinds, as labels.")
        )
    if not shown.isfinite().all():
        raise InputError("values holds NaN or infinity, which has no colour. Pass numbers for every position.")
    rounded = [round(x, 6) if labels is None else [round(y, 6) for y in x] for x in shown.tolist()]
    body = colored_markup(token_labels(prompt, item), rounded, None if labels is None else list(labels))
    return Drawing(f'<div style="background: #fff; color: #1c1c1c; color-scheme: light">{body}</div>', title)
