"""The vision lens: what each patch says in words, as the projector hands it to the decoder."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import torch

from lostattn.arguments import checked_call
from lostattn.cache.logit_lens import Readout, read
from lostattn.errors import InputError
from lostattn.interventions.projection import EarlyProjection
from lostattn.model.lvlm import LVLM
from lostattn.plan.intervention import Intervention
from lostattn.prompt.batch import Prompt
from lostattn.remote.session import Session
from lostattn.run.calls import Remote


@checked_call
def vision_lens(
    model: LVLM,
    prompt: Prompt | Any,
    item: int = 0,
    image: int = 0,
    layers: Iterable[int] | None = (),
    remote: Remote = False,
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
        remote: as in :meth:`lostattn.LVLM.run_with_cache`.

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
    asked = list(range(vision.n_read) if layers is None and vision else layers if layers is not None else ())
    edits: list[Intervention | None] = [EarlyProjection(layer) for layer in asked]
    with Session(model, remote) as session:
        later = [session.run_with_cache(alone, ["blocks.0.hook_resid_pre"], edit) for edit in [*edits, None]]
    caches = [one.result()[1] for one in later]
    cache, streams = caches[-1], [cache.at(("resid_pre", 0), f"image:{image}")[0] for cache in caches]
    return read(cache, torch.stack(streams), [*(f"vision_{layer}_post" for layer in asked), "projected"])
