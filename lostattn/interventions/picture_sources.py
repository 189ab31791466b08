"""Sources that come from the picture: its complexity, and what the vision encoder attends to."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from lostattn.errors import InputError
from lostattn.interventions.sources import Drawn, Source
from lostattn.kernels import priors
from lostattn.plan import Edit

if TYPE_CHECKING:
    from lostattn.interventions.setting import Setting


@dataclass(frozen=True, eq=False, repr=False)
class Complexity(Source):
    """Image complexity of each patch's place in the picture, softmaxed over the patches.

    Mean absolute horizontal plus vertical difference of the grey picture, plus its variance, scaled to [0, 1] over
    the patches of a picture (the paper's "image complexity" prior). The patches of each picture sum to one.
    """

    def draw(self, setting: Setting, layer: int, keys: Any) -> Drawn:
        """Complexity from the prompt's own pictures.

        Raises:
            InputError: the prompt has no pictures to look at, or no known place for their tokens.
        """
        from lostattn.interventions.complexity import prompt_complexity

        _only_image(setting, keys, "Complexity")
        return Drawn(priors.given, {"values": prompt_complexity(setting.prompt)[:, None, None, :]})


@dataclass(frozen=True, eq=False, repr=False)
class VisionPrior(Source):
    """The vision encoder's own attention, averaged over heads and queries, in the decoder's token order.

    ``layer`` is the vision layer to read (negative from the end of those that the decoder depends on; default the
    last). Window order is undone, and where several patches make one token the largest of them counts. A key's average
    is over the queries that see it; in a windowed layer these are the patches of its own window, so that attention is
    told apart within a window only.
    It is read earlier in the same pass, so it costs no pass of its own.
    """

    layer: int = -1

    def __post_init__(self) -> None:
        if not isinstance(self.layer, int) or isinstance(self.layer, bool):
            raise InputError(f"VisionPrior(layer) is {self.layer!r}; expected one vision layer as an int.")

    def draw(self, setting: Setting, layer: int, keys: Any) -> Drawn:
        """An observer in the vision tower, and a kernel that looks at what it left.

        Raises:
            InputError: the model has no vision tower, the layer is out of range, or the prompt holds no image.
        """
        vision = setting.sites.architecture.vision
        if vision is None:
            reason = setting.sites.architecture.no_vision
            raise InputError(
                f"VisionPrior needs a vision tower to look into, and this model has none. {reason}".strip()
            )
        if not -vision.n_read <= self.layer < vision.n_read:
            raise InputError(
                f"vision layer {self.layer} is out of range: the decoder depends on {vision.n_read} "
                f"(0 to {vision.n_read - 1}, or negative)."
            )
        image = _only_image(setting, keys, "VisionPrior")
        at = self.layer % vision.n_read
        slot = f"vision_prior.{at}"
        observer = Edit(
            f"{vision.stack.prefix}.{at}.attn.hook_pattern",
            priors.observe_vision,
            {"slot": slot, **vision_order(setting, setting.model.get_submodule(vision.path), image)},
            steps=(0, 1),
        )
        return Drawn(priors.remembered, {"slot": slot, "image_mask": image}, (observer,))


def _only_image(setting: Setting, keys: Any, source: str) -> Tensor:
    """The image positions, where the chosen keys are all among them.

    Raises:
        InputError: the prompt has no image, or keys that a picture says nothing about are asked for.
    """
    if setting.crossing:
        raise InputError(
            f"{source} has values for image tokens, and this model reads pictures through cross-attention: its "
            "sequence holds no image tokens. Expected a source that needs no picture, such as Gaussian or Fixed."
        )
    image = setting.positions("image")[0]
    others = setting.positions(keys)[0] & ~image
    if others.any():
        raise InputError(
            f"{source} has values for image tokens only, and keys={keys!r} takes {int(others.sum())} other positions; "
            "expected keys='image', or a part of it."
        )
    return image


def vision_order(setting: Setting, tower: Any, image: Tensor) -> dict[str, Any]:
    """How a tower's patches become the decoder's image tokens: leading tokens to skip, merge, and window order.

    Raises:
        InputError: the tower's tokens cannot be matched one to one with the decoder's image tokens.
    """
    config: Any = setting.model.config.vision_config
    grid = setting.prompt.inputs.get("image_grid_thw")
    if grid is None:
        skip = 1 if getattr(setting.model.config, "vision_feature_select_strategy", "full") == "default" else 0
        pixels = setting.prompt.inputs.get("pixel_values")
        tokens = None
        if pixels is not None and pixels.dim() == 4 and isinstance(getattr(config, "patch_size", None), int):
            tokens = len(pixels) * (_tower_tokens(config, tower, pixels) - skip)
        if tokens != int(image.sum()):
            raise InputError(
                f"VisionPrior cannot match the tower's tokens with the decoder's: {tokens or 'an unknown number of'} "
                f"tokens for {int(image.sum())} image positions."
            )
        return {"skip": skip, "merge": 1, "order": None}
    merge = int(getattr(config, "spatial_merge_size", 1)) ** 2
    order = None
    if getattr(config, "window_size", None):
        from transformers.vision_utils import get_vision_window_index

        index, _ = get_vision_window_index(
            grid.cpu(),
            spatial_merge_size=config.spatial_merge_size,
            window_size=config.window_size,
            patch_size=config.patch_size,
        )
        order = torch.argsort(index)
    tokens = int(grid.prod(-1).sum()) // merge
    if tokens != int(image.sum()):
        raise InputError(f"the pictures make {tokens} tokens, but the prompt has {int(image.sum())} image positions.")
    return {"skip": 0, "merge": merge, "order": order}


def _tower_tokens(config: Any, tower: Any, pixels: Tensor) -> int:
    """How many tokens a tower of whole pictures makes of each: its patches, and a class token where it has one."""
    lead = any(name.endswith("class_embedding") for name, _ in tower.named_parameters())
    return (pixels.shape[-2] // config.patch_size) * (pixels.shape[-1] // config.patch_size) + int(lead)
