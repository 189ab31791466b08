"""The vision lens: what each patch says in words, as the projector hands it to the decoder."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import torch

from lostattn.errors import InputError
from lostattn.interventions.base import Intervention, normalise
from lostattn.kernels.workbench import put_last_rows
from lostattn.lenses.logit_lens import Readout, read
from lostattn.plan import Edit

if TYPE_CHECKING:
    from lostattn.interventions.setting import Setting
    from lostattn.model import LVLM
    from lostattn.prompt import Prompt


@dataclass(frozen=True, eq=False, repr=False)
class EarlyProjection(Intervention):
    """Let the projector read the tower's stream after an earlier layer, as if the later ones were not there.

    Where: at ``vision_projector.hook_in``. Assumes that the tower's stream means something to the projector before its
    last layer; when it is weak: the projector never saw such streams in training, and a norm that the tower applies
    at its end is skipped.
    """

    layer: int

    def __post_init__(self) -> None:
        if not isinstance(self.layer, int) or isinstance(self.layer, bool):
            raise InputError(f"layer is {self.layer!r}; expected a layer of the vision tower.")
        normalise(self, layer=self.layer)

    def compile(self, setting: Setting) -> list[Edit]:
        """One edit of what the projector reads."""
        vision = setting.sites.architecture.vision
        n = 0 if vision is None else vision.n_read
        if vision is None or not -n <= self.layer < n:
            raise InputError(f"layer is {self.layer}; the decoder depends on vision layers 0 to {n - 1}.")
        name = f"{vision.stack.prefix}.{self.layer % n}.hook_resid_post"
        return [Edit("vision_projector.hook_in", put_last_rows, {"name": name}, (0, 1), needs=(name,))]


def vision_lens(
    model: LVLM, prompt: Prompt | Any, item: int = 0, image: int = 0, layers: Iterable[int] | None = ()
) -> Readout:
    """Read an image's projected patches through the decoder's final norm and unembedding.

    The last stream, ``"projected"``, is what the decoder is handed at the image's positions, patch by patch. Before it
    come the tower's streams after ``layers``, each put through the projector in its stead (one pass each).

    Args:
        model: the model.
        prompt: a prompt, or what ``model.prompt`` makes one of.
        item: which item of it.
        image: which of its images.
        layers: vision layers to read early; None for all that the decoder depends on. Default: none.

    Returns:
        ``[stream, patch, token]``; ``.table(model)`` names the words, ``positions`` being patches row by row.

    Raises:
        InputError: an item, image or layer that is not there.
    """
    prompt = model._prompted(prompt)
    if not 0 <= item < len(prompt) or not 0 <= image < prompt.token_map.n_images[item]:
        raise InputError(f"item {item} or its image {image} is not there: {prompt!r}")
    alone = prompt[item]
    vision = model.architecture.vision
    asked = list(range(vision.n_read) if layers is None and vision else layers or ())
    edits: list[Intervention | None] = [EarlyProjection(layer) for layer in asked]
    streams = []
    for edit in [*edits, None]:
        _, cache = model.run_with_cache(alone, ["blocks.0.hook_resid_pre"], interventions=edit)
        streams.append(cache.at(("resid_pre", 0), f"image:{image}")[0])
    return read(cache, torch.stack(streams), [*(f"vision_{layer}_post" for layer in asked), "projected"])
