"""What the keys of an encoder-decoder's cross-attention are: the positions of its encoder.

An encoder reads a text with image tokens among it (Florence-2, T5Gemma 2), patches alone (Pix2Struct, a
vision-encoder-decoder), or a text with boxes and, behind it, the patches that no word lies on (UDOP).
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from jaxtyping import Bool, Int
from torch import Tensor, nn
from torch.func import functional_call

from lostattn.pictures.patch_grid import Grid, PatchGrid, UnknownGrid
from lostattn.prompt.cross_keys import CrossKeys
from lostattn.prompt.parts import CODE
from lostattn.prompt.token_map import TokenMap
from lostattn.weights.offload import device_of

Grids = tuple[tuple[Grid, ...], ...]


class _Found(Exception):
    """Ends a pass that has come as far as it should."""


def count_keys(module: nn.Module, inputs: Mapping[str, Tensor]) -> int | None:
    """How many positions the decoder is given of the encoder; None where it is given none.

    Only shapes are asked for, so the pass runs without weights; where its code looks at numbers, it runs for real, as
    far as the decoder.
    """
    found: list[int] = []

    def look(one: Any, args: Any, keywords: dict[str, Any]) -> None:
        given = keywords.get("encoder_hidden_states")
        if isinstance(given, Tensor):
            found.append(int(given.shape[1]))
            raise _Found

    given = {name: value for name, value in inputs.items() if name != "attention_mask"}  # which says nothing of shapes
    state = {**dict(module.named_parameters()), **dict(module.named_buffers())}
    hooks = [one.register_forward_pre_hook(look, with_kwargs=True) for one in module.modules()]
    try:
        for place in dict.fromkeys(("meta", str(device_of(module)))):
            moved = {name: value.to(place) for name, value in given.items()}
            try:
                with torch.no_grad():
                    if place == "meta":
                        functional_call(module, {name: value.to("meta") for name, value in state.items()}, (), moved)
                    else:
                        module(**moved)
            except _Found:
                return found[0]
            except Exception:  # whatever a pass without numbers runs into
                continue
    finally:
        for hook in hooks:
            hook.remove()
    return None


def text_keys(tokens: TokenMap) -> CrossKeys:
    """The positions of an encoder that reads a text with image tokens among it."""
    return CrossKeys(tokens.image_index, tokens.patch_index, tokens.part)


def patch_keys(config: Any, inputs: Mapping[str, Tensor], n_keys: int) -> tuple[CrossKeys, Grids]:
    """The positions of an encoder that reads patches alone, one picture an item."""
    flat = inputs.get("flattened_patches")
    if flat is not None:
        return _told_keys(flat)
    pixels = inputs["pixel_values"]
    grid, lead = _square(pixels, config, n_keys)
    index = torch.full((len(pixels), n_keys), -1)
    if isinstance(grid, PatchGrid):
        index[:, lead:] = torch.arange(n_keys - lead)
    return CrossKeys(torch.zeros_like(index), index), ((grid,),) * len(pixels)


def _told_keys(patches: Tensor) -> tuple[CrossKeys, Grids]:
    """Patches that say their own row and column, counted from 1 (Pix2Struct); 0 where there is none."""
    row, col = (patches[..., i].long() - 1 for i in (0, 1))
    wide, high = col.amax(-1) + 1, row.amax(-1) + 1
    there = row >= 0
    index = torch.where(there, row * wide[:, None] + col, -1)
    why = "its processor draws the picture anew"
    grids = tuple((PatchGrid(int(h), int(w), note=why),) for h, w in zip(high, wide, strict=True))
    return CrossKeys(torch.where(there, 0, -1), index), grids


def _square(pixels: Tensor, config: Any, n_keys: int) -> tuple[Grid, int]:
    """The grid of the keys of one tensor, and how many stand before it."""
    high, wide = pixels.shape[-2:]
    encoder = getattr(config, "encoder", None) or getattr(config, "vision_config", None)
    side = getattr(encoder, "patch_size", None)
    if isinstance(side, int) and 0 <= n_keys - (high // side) * (wide // side) <= 2:  # a class token, a distilled one
        lead = n_keys - (high // side) * (wide // side)
        return PatchGrid(high // side, wide // side), lead
    step = round((high * wide / n_keys) ** 0.5)
    if n_keys == (high // step) * (wide // step):
        return PatchGrid(high // step, wide // step), 0
    return UnknownGrid(f"{n_keys} keys for a tensor of {high} x {wide} pixels"), 0


def boxed_keys(config: Any, inputs: Mapping[str, Tensor], tokens: TokenMap) -> tuple[CrossKeys, Grids]:
    """The positions of an encoder whose text says where it lies (UDOP).

    A word's position also holds the patch at the middle of its box; the patches without a word follow, row by row.
    """
    n, side = len(tokens.part), config.image_size // config.patch_size
    boxes = inputs["bbox"].double()
    middle = ((boxes[..., :2] + boxes[..., 2:]) / 2 * side).floor().long().clamp(0, side - 1)
    patch: Int[Tensor, "batch pos"] = middle[..., 0] + side * middle[..., 1]
    mean = boxes.mean(-1)
    lies: Bool[Tensor, "batch pos"] = (mean != 0) & (mean != 1)
    image, index = torch.full((n, side * side), -1), torch.full((n, side * side), -1)
    for i in range(n):
        rest = torch.tensor([p for p in range(side * side) if p not in set(patch[i].tolist())], dtype=torch.long)
        image[i, : len(rest)], index[i, : len(rest)] = 0, rest
    behind = torch.where(image >= 0, CODE["image"], CODE["padding"]).to(tokens.part.dtype)
    keys = CrossKeys(
        torch.cat([torch.where(lies, 0, -1), image], 1),
        torch.cat([torch.where(lies, patch, -1), index], 1),
        torch.cat([tokens.part, behind], 1),
    )
    return keys, ((PatchGrid(side, side),),) * n
