"""What the views take from a prompt and a cache: real positions, labels of tokens, values on patches."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from lostattn.errors import InputError, UnknownName


def real_positions(prompt: Any, item: int) -> Int[Tensor, "real"]:
    """The positions of an item that are not padding.

    Raises:
        InputError: the batch has no such item.
    """
    real = prompt.token_map.real
    if not 0 <= item < len(real):
        raise InputError(f"There is no item {item} in a batch of {len(real)}. Pass item=0 to {len(real) - 1}.")
    return real[item].nonzero().flatten().cpu()


def token_labels(prompt: Any, item: int) -> list[str]:
    """What each real position is called: its text, or the row and column of its patch.

    A picture's tokens all have the same text; their places tell them apart.
    """
    token_map = prompt.token_map
    grids = token_map.grids[item]
    images, patches = token_map.image_index[item].tolist(), token_map.patch_index[item].tolist()
    labels = []
    for position in real_positions(prompt, item).tolist():
        image, patch = images[position], patches[position]
        if image >= 0 and patch >= 0 and grids[image]:
            labels.append(f"img{'' if len(grids) == 1 else image}[{grids[image].name(patch)}]")
        else:
            # A line break would tear a row of tokens apart.
            labels.append(prompt.str_tokens[item][position].replace("\n", "⏎"))
    return labels


def check_prompt(cache: Any, prompt: Any) -> None:
    """Refuse a prompt that a cache was not made with: its map would be drawn over another picture.

    Raises:
        InputError: the cache knows its prompt, and that holds other ids or pixels.
    """
    own = getattr(cache, "prompt", None)
    if own is not None:
        check_same_prompt(own, prompt)


def check_same_prompt(own: Any, prompt: Any) -> None:
    """Refuse another prompt than one's own.

    Raises:
        InputError: it holds other ids or pixels.
    """
    if own is prompt:
        return
    mine, theirs = own.inputs, prompt.inputs
    same = mine.keys() == theirs.keys() and all(
        mine[name].shape == theirs[name].shape and torch.equal(mine[name].cpu(), theirs[name].cpu()) for name in mine
    )
    if not same:
        raise InputError(
            "the cache was made with another prompt than the one given: its attention would be drawn over a picture "
            "that it is not about. Pass cache.prompt, or make a cache of this prompt."
        )


def query_row(prompt: Any, item: int, query: Any) -> int:
    """A query's place among the real positions of an item: an int counts them, anything else is a choice of one.

    A text that is no name of positions is a word of the prompt.

    Raises:
        InputError: the choice names no position of the item, or several.
        UnknownName: a text that is neither a name nor a word of the item.
    """
    if isinstance(query, int | np.integer) and not isinstance(query, bool):
        return int(query)
    chosen = _mask_of(prompt, item, query)[item].cpu()[real_positions(prompt, item)].nonzero().flatten().tolist()
    if len(chosen) == 1:
        return int(chosen[0])
    labels = token_labels(prompt, item)
    which = ", ".join(f"{place} ({labels[place]!r})" for place in chosen[:8])
    if isinstance(query, str) and chosen:
        raise InputError(
            f"query is {query!r}, which names {len(chosen)} positions of item {item}: {which}"
            f"{', …' if len(chosen) > 8 else ''}. A row is of one position: give its number."
        )
    raise InputError(f"query is {query!r}, which names {len(chosen)} positions of item {item}; expected one.")


def _mask_of(prompt: Any, item: int, query: Any) -> Bool[Tensor, "batch pos"]:
    """The positions that a choice names, words of the prompt among the choices."""
    try:
        named: Tensor = prompt.token_map.resolve(query)
        return named
    except UnknownName:
        found: Tensor = prompt.find(query, item=item)
        return found


def pattern(cache: Any, prompt: Any, layer: int, item: int) -> Float[Tensor, "head query key"]:
    """The attention of one item at its real keys; its real queries, or the single one that was kept.

    In a layer that reads pictures through cross-attention the keys are all of the pictures'; beside self-attention
    it is the pattern of cross-attention, where the cache holds that.

    Raises:
        InputError: the cache holds another prompt's pattern.
    """
    check_prompt(cache, prompt)
    beside = prompt.token_map.cross is not None and ("cross_pattern", layer) in cache
    try:
        found = cache["cross_pattern" if beside else "pattern", layer]
    except KeyError as error:
        if isinstance(error, InputError):
            raise
        raise InputError(f"the cache holds no pattern of layer {layer}; keep it: names_filter='pattern'.") from error
    positions = real_positions(prompt, item)
    batch, n_pos = prompt.token_map.real.shape
    crossed = found.ndim == 4 and found.shape[0] == batch and found.shape[3] == n_cross_keys(prompt)
    if not crossed and (found.ndim != 4 or found.shape[0] != batch or found.shape[3] != n_pos):
        raise InputError(
            f"The pattern of layer {layer} has the shape {tuple(found.shape)}, but the prompt has {batch} "
            f"items of {n_pos} positions. Pass the prompt that the cache was made with."
        )
    kept = found[item].detach().float().cpu()
    kept = kept if crossed else kept[:, :, positions]
    return kept[:, positions] if kept.shape[1] == n_pos else kept[:, -1:]


def pick_heads(heads: Any, n_heads: int, who: str = "the layer") -> list[int]:
    """The heads asked for, all where None.

    Raises:
        InputError: a head is out of range, or none is asked for, or what is asked for is no head.
    """
    given = [heads] if isinstance(heads, int) else range(n_heads) if heads is None else heads
    if isinstance(given, str | Mapping) or not all(isinstance(h, int | np.integer) for h in given):
        raise InputError(f"heads is {heads!r}; expected some of 0 to {n_heads - 1}, or None for all of them.")
    chosen = [int(h) for h in given]
    wrong = [h for h in chosen if not 0 <= h < n_heads]
    if wrong or not chosen:
        what = f"head {wrong[0]}" if wrong else "no head at all"
        raise InputError(f"heads asks for {what}; {who} has heads 0 to {n_heads - 1}.")
    return chosen


def heads_of_all(heads: Any, counts: Mapping[int, int]) -> list[int]:
    """The heads asked for, of layers with so many heads each; all where None.

    Raises:
        InputError: a layer has no such head, or all are asked for and layers have unlike numbers of them.
    """
    if heads is None and len(set(counts.values())) > 1:
        said = ", ".join(f"layer {layer} has {n}" for layer, n in counts.items())
        raise InputError(f"the layers differ in their heads ({said}); say which with heads=, or take layers alike.")
    least = min(counts, key=lambda layer: counts[layer])
    return pick_heads(heads, counts[least], f"layer {least}")


def n_cross_keys(prompt: Any) -> int:
    """How many keys a cross-attention layer has of a prompt's pictures; 0 where pictures are tokens."""
    cross = prompt.token_map.cross
    return 0 if cross is None else int(cross.image_index.shape[1])


def on_patches(values: Float[Tensor, "*lead real"], prompt: Any, item: int, image: int) -> Float[Tensor, "*lead patch"]:
    """Of values at the real positions (or at cross-attention's keys), those at an image's patches, in its grid's order.

    Raises:
        InputError: there is no such image, or its grid is not known.
    """
    _, grid = picture_and_grid(prompt, item, image)
    where, positions = prompt.token_map, real_positions(prompt, item)
    if where.cross is not None and values.shape[-1] == n_cross_keys(prompt):
        where, positions = where.cross, torch.arange(values.shape[-1])
    own = where.image_index[item].cpu()[positions] == image
    patch = where.patch_index[item].cpu()[positions]
    at = (own & (patch >= 0)).nonzero().flatten()
    out = torch.zeros(*values.shape[:-1], len(grid))  # a patch that has no token (VideoLLaMA 3) gets nothing
    out[..., patch[at].long()] = values[..., at].float().cpu()
    return out


def picture_and_grid(prompt: Any, item: int, image: int) -> tuple[Any, Any]:
    """The picture (or `Video`) and the patch grid of an image.

    Raises:
        InputError: there is no such image, its pixels are not in the prompt, or its grid is not known.
    """
    real_positions(prompt, item)  # there is such an item
    grids = prompt.token_map.grids[item]
    if not 0 <= image < len(grids):
        raise InputError(f"There is no image {image}: item {item} of the prompt has {len(grids)}.")
    if not grids[image]:
        grids[image].boxes()  # raises, with the reason
    picture = prompt.source(item, image)
    if picture is None:
        kind = "video" if grids[image].is_video else "picture"
        given = "videos=" if grids[image].is_video else "images="
        raise InputError(
            f"The prompt does not hold the {kind} of image {image} of item {item}, only its tensor. Make "
            f"the prompt from the {kind}, or pass {given} beside inputs=."
        )
    return picture, grids[image]
