"""The pictures of a batch, encoded once for all passes over it."""

from __future__ import annotations

import inspect
from typing import Any

import torch

from lostattn.model.lvlm import LVLM


def encoded_inputs(model: LVLM, inputs: dict[str, Any]) -> dict[str, Any]:
    """A batch's inputs with what the vision tower makes of its pictures in the place of the pictures.

    A pass over them gives the same to the last bit. Where a model does not take that, or there are no pictures (or
    videos as well), the inputs as they are.
    """
    encode = getattr(model.hf, "get_image_features", None)
    takes = inspect.signature(model.hf.forward).parameters
    pictures = inputs.get("pixel_values")
    if encode is None or pictures is None or "pixel_values_videos" in inputs or "mm_encoder_outputs" not in takes:
        return inputs
    wanted = inspect.signature(encode).parameters
    with torch.no_grad():
        found = encode(**{name: value for name, value in inputs.items() if name in wanted}, return_dict=True)
    rest = {name: value for name, value in inputs.items() if name != "pixel_values"}
    return rest | {"mm_encoder_outputs": {"image": found}}
