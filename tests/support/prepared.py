"""What an image processor makes of a picture, without a model: which tokens the painting of some pixels reaches.

Each case knows in which tensor, row or column the pixels of a token are, as the family's model reads them.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from types import SimpleNamespace as Holder
from typing import Any

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from lostattn.pictures.patch_grid import Grid
from lostattn.prompt.layouts.base import Batch
from lostattn.prompt.layouts.find import image_layouts

IMG, MARK = 9, 3
Cells = set[tuple[int, int, int]]  # tile of the grid, row, column


@dataclass(frozen=True)
class Prepared:
    """A family's image processor.

    Attributes:
        images: the processor's class by name, and its settings.
        vision: of the model's config.
        tokens: the numbers of image tokens in their unbroken runs.
        reached: the cells whose pixels are not zero in a difference of two inputs.
        more: other fields of the model's config.
        prepare: makes the inputs, where the family's processor does more than its image processor.
    """

    images: str
    vision: dict[str, Any]
    tokens: Callable[[dict[str, Tensor]], list[int]]
    reached: Callable[[dict[str, Tensor], dict[str, Tensor], Grid], Cells]
    settings: dict[str, Any]
    more: dict[str, Any]
    prepare: Callable[[Any, Image.Image], dict[str, Any]] | None = None

    def processor(self) -> Any:
        """What stands for a processor: its image processor alone."""
        import transformers

        return Holder(image_processor=getattr(transformers, self.images)(**self.settings))

    def inputs(self, picture: Image.Image) -> dict[str, Tensor]:
        """The image processor's output."""
        images = self.processor().image_processor
        made = self.prepare(images, picture) if self.prepare else images(picture, return_tensors="pt")
        return {name: torch.as_tensor(np.array(v) if isinstance(v, list) else v) for name, v in made.items()}

    def grid(self, size: tuple[int, int]) -> Grid:
        """The grid of a picture of that size."""
        inputs = self.inputs(Image.new("RGB", size))
        ids = [1, *[one for n in self.tokens(inputs) for one in (*[IMG] * n, MARK)]]
        config = Holder(vision_config=Holder(**self.vision), **self.more)
        (found,) = image_layouts(Batch(inputs, config, self.processor(), [ids], IMG, [[size]], ids.count(IMG))) or ()
        return found.grid


def strip(before: dict[str, Tensor], after: dict[str, Tensor], grid: Grid) -> Cells:
    """Patches along a strip, piece after piece."""
    changed = (before["pixel_values"] - after["pixel_values"])[0].abs().amax((0, 1)).reshape(-1, 14).amax(-1) > 0
    found, at = set(), 0
    for k, (high, wide) in enumerate(before["target_sizes"].tolist()):
        for place in changed[at : at + high * wide].nonzero().flatten().tolist():
            found.add((k, place // wide // grid.merge, place % wide // grid.merge))
        at += high * wide
    return found


def row_each(before: dict[str, Tensor], after: dict[str, Tensor], grid: Grid) -> Cells:
    """A row a token, row by row of the picture."""
    changed = (before["pixel_values"] - after["pixel_values"]).abs().flatten(1).amax(-1) > 0
    return {(0, *divmod(k, grid.tiles[0].cols)) for k in changed.nonzero().flatten().tolist()}


def squares(step: int, name: str = "pixel_values", first: int = 0) -> Callable[..., Cells]:
    """Squares of a tensor, the tiles of a grid from the first on."""

    def reached(before: dict[str, Tensor], after: dict[str, Tensor], grid: Grid) -> Cells:
        changed = (before[name] - after[name]).abs().amax(1) > 0
        return {(k + first, y // step, x // step) for k, y, x in changed.nonzero().tolist()}

    return reached


def as_fuyu(images: Any, picture: Image.Image) -> dict[str, Any]:
    """The patches that Fuyu's processor takes of what its image processor makes: whole ones, as far as the picture."""
    made = images([[picture]])
    cut = [-(-int(made[f"image_unpadded_{side}s"][0][0]) // 30) * 30 for side in ("height", "width")]
    image = np.asarray(made["images"][0][0])[:, : cut[0], : cut[1]]
    return {"pixel_values": images.patchify_image(image, images.patch_size), "sizes": np.array(cut)}


def rows_of_30(made: dict[str, Tensor]) -> list[int]:
    """A newline after each row of patches of 30 pixels."""
    rows, cols = (made["sizes"] // 30).tolist()
    return [cols] * rows


MINICPM = {"patch_size": 14}
PREPARED: dict[str, Prepared] = {
    "minicpmv4_6": Prepared(
        "MiniCPMV4_6ImageProcessorPil", MINICPM, lambda i: (i["target_sizes"].prod(-1) // 16).tolist(), strip, {}, {}
    ),
    "minicpmv4_6 4x": Prepared(
        "MiniCPMV4_6ImageProcessorPil", MINICPM, lambda i: (i["target_sizes"].prod(-1) // 4).tolist(), strip,
        {"downsample_mode": "4x", "max_slice_nums": 4}, {},
    ),
    "mistral3": Prepared(
        "PixtralImageProcessorPil", {"patch_size": 14},
        lambda i: [i["image_sizes"][0][1] // 28] * int(i["image_sizes"][0][0] // 28), squares(28),
        {"patch_size": {"height": 28, "width": 28}, "size": {"longest_edge": 448}}, {"spatial_merge_size": 2},
    ),
    "emu3": Prepared(
        "Emu3ImageProcessor", {}, lambda i: [int((i["image_sizes"][0] // 8 + torch.tensor([0, 1])).prod())], squares(8),
        {"min_pixels": 64 * 64, "max_pixels": 256 * 256}, {"vq_config": Holder(channel_multiplier=[1, 2, 2, 4])},
    ),
    "fuyu": Prepared(
        "FuyuImageProcessorPil", {}, rows_of_30, row_each, {"size": {"height": 360, "width": 600}},
        {"patch_size": 30}, as_fuyu,
    ),
}  # fmt: skip
