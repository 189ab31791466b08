"""Gradient times input, patch by patch: on what the decoder is handed, or on the pixels themselves."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any

import torch
from jaxtyping import Float
from torch import Tensor

from lostattn.calls import Remote
from lostattn.errors import InputError
from lostattn.gradients import gradients
from lostattn.patch_grid import PatchGrid, TiledGrid, UnknownGrid

if TYPE_CHECKING:
    import matplotlib.figure

    from lostattn.model import LVLM
    from lostattn.prompt import Prompt

START = "blocks.0.hook_resid_pre"


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
            processor made of the picture, summed over the square of pixels that a token stands for.
        item: which item of the batch.
        image: which of its images.
        remote: as in :func:`lostattn.gradients.gradients`; of tokens.

    Raises:
        InputError: another word, an item or image that is not there, an image whose grid is not known, or (of pixels)
            one that the processor cuts into tiles, or a model that is somewhere else.
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
        return _of_pixels(model, alone, metric, image, grid)
    found = gradients(model, alone, metric, START, remote=remote)
    product = (found[START] * found.cache[START])[0].sum(-1)
    place = alone.token_map.patch_index[0].to(product.device)
    here = (alone.token_map.image_index[0].to(product.device) == image) & (place >= 0)
    out = torch.zeros(len(grid), dtype=product.dtype, device=product.device)
    return out.index_add(0, place[here], product[here])


def input_figure(
    model: LVLM,
    prompt: Prompt | Any,
    metric: Callable[[Tensor], Tensor],
    of: str = "tokens",
    item: int = 0,
    image: int = 0,
    title: str | None = None,
    remote: Remote = False,
) -> matplotlib.figure.Figure:
    """:func:`input_attribution` drawn over the picture; it takes the same arguments and raises the same errors."""
    from lostattn.view import overlay
    from lostattn.view.reading import picture_and_grid

    prompt = model._prompted(prompt)
    values = input_attribution(model, prompt, metric, of, item, image, remote)
    picture, grid = picture_and_grid(prompt, item, image)
    title = title or f"Gradient times input: {'image tokens' if of == 'tokens' else 'pixels'}"
    return overlay(picture, values, grid, title=title, label="metric")


def _of_pixels(
    model: LVLM, prompt: Prompt, metric: Callable[[Tensor], Tensor], image: int, grid: PatchGrid | TiledGrid
) -> Float[Tensor, "patch"]:
    """Of the processor's pixel values, in whichever of the two known layouts they are."""
    inputs = model._inputs(prompt)
    pixels = inputs["pixel_values"].detach().requires_grad_()
    with torch.enable_grad():
        logits = model.hf(**{**inputs, "pixel_values": pixels}, use_cache=False).logits
        (slope,) = torch.autograd.grad(metric(logits).sum(), pixels)
    product = (slope * pixels).detach()
    if not isinstance(grid, PatchGrid) or pixels.ndim not in (2, 4):
        raise InputError("of is 'pixels', but this picture is cut into tiles; give of='tokens'.")
    if "image_grid_thw" in inputs:  # packed: a row a patch of the tower, those that are merged next to each other
        rows = product.sum(-1).split(inputs["image_grid_thw"].prod(-1).tolist())[image]
        return rows.reshape(len(grid), -1).sum(-1)
    if product.dim() != 4:
        raise InputError(
            f"the pixel values have the shape {tuple(product.shape)}: pictures in tiles, whose pixels do not go by one "
            "grid. Take of='tokens'."
        )
    square = product[image].sum(0)
    shape = zip(square.shape, (grid.rows, grid.cols), strict=True)
    # A tower leaves out the last pixels that are no whole patch.
    side = [n // (count * grid.merge) * grid.merge for n, count in shape]
    cut = square[: grid.rows * side[0], : grid.cols * side[1]]
    return cut.reshape(grid.rows, side[0], grid.cols, side[1]).sum((1, 3)).flatten()
