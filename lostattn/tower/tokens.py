"""Which patches of the vision tower each image token is made of: the tower's order against the decoder's.

A tower works on *sequences*: a tile or a whole picture each, all pictures of the inputs one behind another, or all
tiles of a picture. Places are counted through all of them: ``sequence * length + place``. Where patches lie follows
from the shape of the pixels and from the token map (`lostattn.tower.layouts`).
"""

from __future__ import annotations

import ast
from dataclasses import dataclass
from typing import Any

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor, nn

from lostattn.architecture.source import source_of
from lostattn.pictures.patch_grid import UnknownGrid
from lostattn.prompt.batch import Prompt
from lostattn.tower.layouts import Given, Order, Picture, order_of

_CLASS = ("class_embedding", "cls_token", "class_token")
_REGISTERS = ("register_tokens", "reg_token")


@dataclass(frozen=True, eq=False)
class TowerTokens:
    """The patches of every image token of a prompt, in the order of its positions (or of its cross-attention keys).

    Attributes:
        index: the places of a token's patches in the tower; -1 where it has fewer of them than others.
        weights: each patch's share in the token where the model interpolates; None: it is made of all of them.
        shape: (number of sequences, length of each).
        mask: the image tokens among the positions, or among the keys.
        item, image: of each token, which item it is of, and which picture of all those in the batch.
        side: pixels along a patch.
        queries: the places that stand for something of a picture; None: all of them.
    """

    index: Int[Tensor, "token part"]
    weights: Float[Tensor, "token part"] | None
    shape: tuple[int, int]
    mask: Bool[Tensor, "batch pos"]
    item: Int[Tensor, " token"]
    image: Int[Tensor, " token"]
    side: int
    queries: Bool[Tensor, "sequence place"] | None = None

    @property
    def sequence(self) -> Int[Tensor, " token"]:
        """Which of the tower's sequences a token is of; that of its largest part, where it is interpolated."""
        largest = torch.zeros_like(self.index[:, :1]) if self.weights is None else self.weights.argmax(-1, keepdim=True)
        return self.index.gather(1, largest)[:, 0] // self.shape[1]


def tower_tokens(
    config: Any, prompt: Prompt, lead: int = 0, behind: int = 0, pixels: bool = False
) -> TowerTokens | str:
    """The patches that every image token of a prompt is made of, or why that cannot be said.

    Args:
        config: the model's.
        prompt: the prompt.
        lead: places of a sequence before its patches (class tokens).
        behind: places after them.
        pixels: count places as the squares of the processor's pixel tensor lie, not as the tower's keys do.
    """
    given = Given(config, prompt, 0 if pixels else lead, 0 if pixels else behind, pixels)
    unknown = next((grid for grid in given.grids if isinstance(grid, UnknownGrid)), None)
    if unknown is not None:
        return f"the patch grid of an image is not known: {unknown.reason}"
    if "pixel_values" not in prompt.inputs or not given.tiles:
        return "the inputs hold no pixel_values of a picture"
    if "pixel_values_videos" in prompt.inputs:
        return "the inputs hold a video"
    order = order_of(given)
    if order is None or len(order.pictures) != len(given.grids):
        shape = tuple(prompt.inputs["pixel_values"].shape)
        return f"how pixel values of shape {shape} become image tokens is not known"
    return _assembled(given, order)


def _assembled(given: Given, order: Order) -> TowerTokens | str:
    """The patches of each picture's tokens, laid onto the prompt's image positions."""
    token_map = given.prompt.token_map
    where: Any = token_map if token_map.cross is None else token_map.cross
    mask = (token_map["image"] if token_map.cross is None else where.resolve()).cpu()
    n, parts = int(mask.sum()), max(picture.index.shape[1] for picture in order.pictures)
    index, weights = torch.full((n, parts), -1), torch.zeros(n, parts)
    item, image = torch.zeros(n, dtype=torch.long), torch.zeros(n, dtype=torch.long)
    number = torch.full(mask.shape, -1)
    number[mask] = torch.arange(n)
    pictures = enumerate(order.pictures)
    for i, own in enumerate(token_map.grids):
        for k in range(len(own)):
            which, picture = next(pictures)
            here = mask[i] & (where.image_index[i].cpu() == k)
            at, patch = number[i, here], where.patch_index[i].cpu()[here]
            if (wrong := _unmatched(patch, picture, given.pixels)) is not None:
                return wrong
            index[at], weights[at] = _of_patches(patch, picture, parts)
            item[at], image[at] = i, which
    weighted = any(picture.weights is not None for picture in order.pictures)
    side = given.side or given.values.shape[-2] // given.cells[0]
    return TowerTokens(index, weights if weighted else None, order.shape, mask, item, image, side, order.queries)


def _unmatched(patch: Int[Tensor, " token"], picture: Picture, pixels: bool) -> str | None:
    """Why a picture's tokens are not made of its patches; None where they are."""
    placeless, known = int((patch < 0).sum()), len(picture.index)
    if placeless and not pixels and placeless != len(picture.leading):
        return f"{placeless} image tokens have no place in the picture"
    if len(patch) and int(patch.max()) >= known:
        return f"the prompt has patch {int(patch.max())} of a picture, which makes {known} tokens"
    return None


def _of_patches(
    patch: Int[Tensor, " token"], picture: Picture, parts: int
) -> tuple[Int[Tensor, "token part"], Float[Tensor, "token part"]]:
    """The places of chosen tokens, and the weight of each; those without a patch are the leading ones, in order."""
    own = picture.index.shape[1]
    index, weights = torch.full((len(patch), parts), -1), torch.zeros(len(patch), parts)
    index[:, :own] = picture.index[patch.clamp(min=0)]
    index[patch < 0] = -1
    if (patch < 0).any() and picture.leading:  # class tokens; no pixels are theirs
        index[patch < 0, 0] = torch.tensor(picture.leading)
    if picture.weights is None:
        weights[:, 0] = 1.0
    else:
        weights[:, :own] = picture.weights[patch.clamp(min=0)]
    return index, weights


def places_around(tower: nn.Module) -> tuple[int, int]:
    """How many places of a tower's sequence stand before its patches (class tokens, registers), and how many behind."""
    names = {name.rpartition(".")[2]: tensor for name, tensor in tower.named_parameters()}
    classes = sum(name in _CLASS for name in names)
    registers = sum(names[name].shape[-2] for name in _REGISTERS if name in names)
    return (0, classes + registers) if classes and _class_comes_last(tower) else (classes + registers, 0)


def _class_comes_last(tower: nn.Module) -> bool:
    """Whether a tower lays its class token behind the patches: the order of what its source puts together."""
    for module in tower.modules():
        source = source_of(type(module).forward)
        for call in ast.walk(source) if source is not None else ():
            if isinstance(call, ast.Call) and getattr(call.func, "attr", "") == "cat" and call.args:
                parts = [ast.unparse(part) for part in getattr(call.args[0], "elts", [])]
                classes = ["class" in part or "cls" in part for part in parts]
                if any(classes):
                    return not classes[0]
    return False
