"""What the keys of cross-attention layers are made of."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from jaxtyping import Bool, Int
from torch import Tensor

from lostattn.prompt.parts import CODE, NO_TEXT


@dataclass(frozen=True, eq=False)
class CrossKeys:
    """What every key of a cross-attention layer is: a picture's patch, or a position of the encoder's text.

    Attributes:
        image_index: which image of its item a key is made of; -1 for keys without a picture in them (padded tiles).
        patch_index: which patch of that image's grid; -1 for a class token.
        part: the index in `lostattn.prompt.parts.PARTS` of the part of each key, where the keys are the positions of an
            encoder that reads text beside the picture. None where all keys are of pictures, or padding.
    """

    image_index: Int[Tensor, "batch key"]
    patch_index: Int[Tensor, "batch key"]
    part: Int[Tensor, "batch key"] | None = None

    @property
    def parts(self) -> Int[Tensor, "batch key"]:
        """`part`, written out."""
        if self.part is not None:
            return self.part
        return torch.where(self.image_index >= 0, CODE["image"], CODE["padding"])

    @property
    def real(self) -> Bool[Tensor, "batch key"]:
        """Every key that is not padding."""
        return self.parts != CODE["padding"]

    def resolve(self, image: int | None = None) -> Bool[Tensor, "batch key"]:
        """The keys of one image of each item, or of every image."""
        return self.image_index >= 0 if image is None else self.image_index == image

    def chosen(self, spec: Any) -> Bool[Tensor, "batch key"]:
        """The keys that a choice of positions names; none where it names positions of the decoder alone.

        Images by name; ``"all"``; of an encoder that reads text, its parts (``"question"``) and ``"text"`` too; a mask
        over the keys. In an encoder that lays a patch over the word at its place (UDOP), that key is both.
        """
        none = torch.zeros_like(self.image_index, dtype=torch.bool)
        if isinstance(spec, tuple) and len(spec) == 2 and spec[0] == "image" and type(spec[1]) is int:
            spec = f"image:{spec[1]}"
        if isinstance(spec, tuple):
            return torch.stack([none, *(self.chosen(one) for one in spec)]).any(0)
        if isinstance(spec, str):
            return torch.stack([none, *(self._named(name.strip()) for name in spec.split("|"))]).any(0)
        mask = torch.as_tensor(spec) if isinstance(spec, Tensor | np.ndarray) else None
        if mask is not None and mask.dtype == torch.bool and mask.shape[-1:] == none.shape[-1:]:
            return none | mask.to(none.device)
        return none

    def _named(self, name: str) -> Bool[Tensor, "batch key"]:
        if name in ("image", "all"):
            return self.resolve() if name == "image" else self.real
        if (found := re.fullmatch(r"image:(\d+)", name)) is not None:
            return self.resolve(int(found[1]))
        if name == "text":
            return ~torch.isin(self.parts, torch.tensor([CODE[one] for one in NO_TEXT], device=self.parts.device))
        return self.parts == CODE.get(name, -1) if name != "padding" else torch.zeros_like(self.real)

    def to(self, device: torch.device | str) -> CrossKeys:
        """The same on another device."""
        part = None if self.part is None else self.part.to(device)
        return CrossKeys(self.image_index.to(device), self.patch_index.to(device), part)

    def select(self, items: Sequence[int]) -> CrossKeys:
        """Those of some items."""
        rows = torch.as_tensor(list(items), device=self.image_index.device)
        part = None if self.part is None else self.part[rows]
        return CrossKeys(self.image_index[rows], self.patch_index[rows], part)
