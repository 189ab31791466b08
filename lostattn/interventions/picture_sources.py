"""Sources that come from the picture: its complexity, and what the vision encoder attends to."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from torch import Tensor

from lostattn.arguments import checked_call
from lostattn.errors import InputError
from lostattn.interventions.complexity import prompt_complexity
from lostattn.interventions.sources import Drawn, Source
from lostattn.interventions.tower_order import tower_order
from lostattn.kernels import priors
from lostattn.plan.program import Edit
from lostattn.plan.setting import Setting


@checked_call
@dataclass(frozen=True, eq=False, repr=False)
class Complexity(Source):
    """Image complexity of each patch's place in the picture, softmaxed over the patches.

    Mean absolute horizontal plus vertical difference of the grey picture, plus its variance, scaled to [0, 1] over
    the patches of a picture (the paper's "image complexity" prior). The patches of each picture sum to one. Of a
    picture that is cut into tiles, the tiles' patches are scaled together and the thumbnail's, whose boxes are larger,
    by themselves; both share the one by their number of patches. What stands for no place (a newline, a class token)
    gets nothing.
    """

    def draw(self, setting: Setting, layer: int, keys: Any) -> Drawn:
        """Complexity from the prompt's own pictures.

        Raises:
            InputError: the prompt has no pictures to look at, or no known place for their tokens.
        """
        _, grows = _only_image(setting, keys, "Complexity")
        values = prompt_complexity(setting.prompt)[:, None, None, :]
        return Drawn(priors.given_prior, {"values": values, "grows": grows})


@checked_call
@dataclass(frozen=True, eq=False, repr=False)
class VisionPrior(Source):
    """The vision encoder's own attention, averaged over heads and queries, in the decoder's token order.

    ``layer`` is the vision layer to read (negative from the end of those that the decoder depends on; default the
    last). Window order is undone, and where several patches make one token the largest of them counts. A key's average
    is over the queries that see it; in a windowed layer these are the patches of its own window, so that attention is
    told apart within a window only.

    Where a picture of an item is cut into tiles, the tower sees each of them (and the thumbnail) by itself: its softmax
    says how a tile's patches compare, and nothing of one tile against another. So each tile's tokens share out the part
    of the picture's tokens that they are, which is what equal weights would give the tile, and each picture of that
    item sums to one. In cross-attention the tower sees all tiles of a picture at once, and the keys of each picture sum
    to one. Newlines and marks get nothing.

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
            needs = "VisionPrior needs the attention of a vision tower, and in this model there is none to look at."
            raise InputError(f"{needs} {reason}".strip())
        if not -vision.n_read <= self.layer < vision.n_read:
            raise InputError(
                f"vision layer {self.layer} is out of range: the decoder depends on {vision.n_read} "
                f"(0 to {vision.n_read - 1}, or negative)."
            )
        image, grows = _only_image(setting, keys, "VisionPrior")
        at = self.layer % vision.n_read
        slot = f"vision_prior.{at}"
        observer = Edit(
            f"{vision.stack.prefix}.{at}.attn.hook_pattern",
            priors.observe_vision,
            {"slot": slot, **tower_order(setting)},
            steps=(0, 1),
            watches=True,
        )
        return Drawn(priors.remembered_prior, {"slot": slot, "image_mask": image, "grows": grows}, (observer,))


def _only_image(setting: Setting, keys: Any, source: str) -> tuple[Tensor, bool]:
    """The image keys of a layer, where the chosen keys are all among them, and whether generated tokens join them.

    Raises:
        InputError: the prompt has no image, or keys that a picture says nothing about are asked for.
    """
    if setting.crossing:
        cross = setting.prompt.token_map.cross
        if cross is None:
            raise InputError(
                f"{source} has values for the patches of pictures, and which of the keys of {setting.boundary} are "
                "patches is not known. Expected a source that needs no picture, such as Gaussian or Fixed."
            )
        return cross.resolve(), False
    image = setting.positions("image")[0]
    others = setting.positions(keys)[0] & ~image
    if others.any():
        raise InputError(
            f"{source} has values for image tokens only, and keys={keys!r} takes {int(others.sum())} other positions; "
            "expected keys='image', or a part of it."
        )
    return image, True
