"""Gradient times input, patch by patch: on what the decoder is handed, or on the pixels themselves."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any

import torch
from jaxtyping import Float, Int
from torch import Tensor

from lostattn.arguments import check_handed_on, checked_call
from lostattn.errors import InputError
from lostattn.gradients import gradients
from lostattn.model.lvlm import LVLM
from lostattn.pictures.patch_grid import UnknownGrid
from lostattn.prompt.batch import Prompt
from lostattn.run.calls import Remote
from lostattn.tower.tokens import TowerTokens, tower_tokens
from lostattn.view.image import overlay
from lostattn.view.reading import picture_and_grid

if TYPE_CHECKING:
    import matplotlib.figure


START = "blocks.0.hook_resid_pre"


@checked_call
def input_attribution(
    model: LVLM,
    prompt: Prompt | Any,
    metric: Callable[[Tensor], Tensor],
    of: str = "tokens",
    item: int = 0,
    image: int = 0,
    remote: Remote = False,
) -> Float[Tensor, "patch"]:
    """``sum(gradient · input)`` of each patch of an image, in the order of its grid.

    Args:
        model: the model.
        prompt: a prompt, or what ``model.prompt`` makes one of.
        metric: ``logits [1, pos, d_vocab] -> [1]`` or one number, of this item alone; differentiable.
        of: ``"tokens"``: the projected patches as the decoder is handed them; ``"pixels"``: the values that the
            processor made of the picture, summed over the squares of pixels that a token's patches are. A picture in
            tiles has its own number for each patch of each tile and of the thumbnail, as its grid has patches: where
            they show the same place, none is added to another. Pixels that are no token's (padding) are in none.
        item: which item of the batch.
        image: which of its images.
        remote: as in :func:`lostattn.gradients.gradients`; of tokens.

    Raises:
        InputError: another word, an item or image that is not there, an image whose grid is not known; of tokens, a
            model that reads pictures through cross-attention; of pixels, a layout of them that is not known, or a model
            that is somewhere else.
    """
    prompt = model._prompted(prompt)
    if of not in ("tokens", "pixels"):
        raise InputError(f"of is {of!r}; expected 'tokens' or 'pixels'.")
    if not 0 <= item < len(prompt) or not 0 <= image < prompt.token_map.n_images[item]:
        raise InputError(f"item {item} or its image {image} is not there: {prompt!r}")
    alone = prompt[item]
    grid = alone.token_map.grids[0][image]
    if isinstance(grid, UnknownGrid):
        raise InputError(grid.why)
    if of == "pixels":
        if remote is not False or model.is_described_only:
            raise InputError(
                "gradients of pixels are taken where the weights are: load the model with them and leave remote= out, "
                "or ask for of='tokens'."
            )
        if any(own.is_video for own in alone.token_map.grids[0]):
            raise InputError("of is 'pixels', but this item holds a video; give of='tokens'.")
        return _of_pixels(model, alone, metric, image)
    if alone.token_map.cross is not None:
        raise InputError("of is 'tokens', but this model reads pictures through cross-attention: give of='pixels'.")
    found = gradients(model, alone, metric, START, remote=remote)
    product = (found[START] * found.cache[START])[0].sum(-1)
    place = alone.token_map.patch_index[0].to(product.device)
    here = (alone.token_map.image_index[0].to(product.device) == image) & (place >= 0)
    out = torch.zeros(len(grid), dtype=product.dtype, device=product.device)
    return out.index_add(0, place[here], product[here])


@checked_call
def input_figure(
    model: LVLM,
    prompt: Prompt | Any,
    metric: Callable[[Tensor], Tensor],
    of: str = "tokens",
    item: int = 0,
    image: int = 0,
    title: str | None = None,
    remote: Remote = False,
    **looks: Any,
) -> matplotlib.figure.Figure:
    """:func:`input_attribution` drawn over the picture; it takes the same arguments and raises the same errors.

    ``looks``: ``ax=``, ``cmap=``, ``lines=``, … of :func:`lostattn.view.overlay`.
    """
    check_handed_on(looks, overlay)
    prompt = model._prompted(prompt)
    values = input_attribution(model, prompt, metric, of, item, image, remote)
    picture, grid = picture_and_grid(prompt, item, image)
    title = title or f"Gradient times input: {'image tokens' if of == 'tokens' else 'pixels'}"
    return overlay(picture, values, grid, title=title, **{"label": "metric", **looks})


def _of_pixels(model: LVLM, prompt: Prompt, metric: Callable[[Tensor], Tensor], image: int) -> Float[Tensor, "patch"]:
    """Of the processor's pixel values, summed over the squares of pixels that each token's patches are."""
    tokens = tower_tokens(model.hf.config, prompt, pixels=True)
    if isinstance(tokens, str):
        raise InputError(f"which pixels an image token is made of is not known: {tokens}. Take of='tokens'.")
    inputs = model._inputs(prompt)
    pixels = inputs["pixel_values"].detach().requires_grad_()
    with torch.enable_grad():
        logits = model.hf(**{**inputs, "pixel_values": pixels}, use_cache=False).logits
        (slope,) = torch.autograd.grad(metric(logits).sum(), pixels)
    patches = _by_patch((slope * pixels).detach(), tokens)
    index, mine = tokens.index.to(patches.device), (tokens.image == image).to(patches.device)
    shares = _shares(index, tokens.weights)
    values = (patches[index.clamp(min=0)] * shares)[mine].sum(-1)
    where: Any = prompt.token_map if prompt.token_map.cross is None else prompt.token_map.cross
    place = where.patch_index[0].to(values.device)[tokens.mask[0].to(values.device)][mine]
    out = torch.zeros(len(prompt.token_map.grids[0][image]), dtype=values.dtype, device=values.device)
    return out.index_add(0, place[place >= 0], values[place >= 0])


def _by_patch(product: Tensor, tokens: TowerTokens) -> Float[Tensor, "place"]:
    """The sum over each patch's square of pixels, tensor after tensor; of packed patches over each row."""
    n, length = tokens.shape
    if product.ndim < 4 or len(product) == n * length:
        return product.reshape(n * length, -1).sum(-1)
    high, wide = product.shape[-2:]
    side = tokens.side  # a tower leaves out the last pixels that are no whole patch
    summed = product.reshape(n, -1, high, wide).sum(1)[:, : high // side * side, : wide // side * side]
    return summed.unflatten(2, (-1, side)).unflatten(1, (-1, side)).sum((2, 4)).flatten()


def _shares(
    index: Int[Tensor, "token part"], weights: Float[Tensor, "token part"] | None
) -> Float[Tensor, "token part"]:
    """What part of a patch's number goes to each token: all of it, or by the weights with which it is in them."""
    if weights is None:
        return (index >= 0).to(torch.float32)
    weights = weights.to(index.device)
    total = weights.new_zeros(int(index.max()) + 1).index_add(0, index.clamp(min=0).flatten(), weights.flatten())
    return weights / total[index.clamp(min=0)].clamp_min(1e-30)
