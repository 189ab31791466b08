"""Inputs that another model's processor made, told from those that this model's could have made."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor

from lostattn.arguments.described import described
from lostattn.errors import InputError
from lostattn.pictures.crops import shown_parts
from lostattn.prompt.token_ids import MASKED

_LYING, _STANDING = (640, 200), (200, 640)
# What tokens of pictures, videos and sounds are made of; boxes on a page name the patches that words lie on.
_MADE_OF = (
    "pixel_values",
    "flattened_patches",
    "image_patches",
    "image_embeds",
    "video",
    "audio",
    "input_features",
    "bbox",
)
_OF_PICTURES = re.compile(r"(image_|pixel_)(?!.*(mask|video))")  # masks may be left out


def check_inputs(processor: Any, config: Any, inputs: Mapping[str, Tensor], placeholders: set[int]) -> None:
    """Refuse inputs that cannot be of this model's own processor; what they hold would mean something else here.

    Args:
        processor: the model's processor, with the options that the inputs are said to be made with.
        config: the model's config.
        inputs: a processor's output.
        placeholders: the ids that stand for pieces of pictures and videos, which may lie beyond the vocabulary.

    Raises:
        InputError: ids beyond the vocabulary; pictures of another form or size than this processor makes.
    """
    found = _beyond_vocabulary(config, inputs["input_ids"], placeholders)
    if found is None and "pixel_values" in inputs:
        found = _other_names(processor, inputs) or _other_size(processor, inputs["pixel_values"])
    if found is not None:
        raise InputError(
            f"inputs= were not made by this model's {type(processor).__name__}: {found}. Make them with this model's "
            "own model.processor, or give the question and its pictures to model.prompt."
        )


def check_values(inputs: Mapping[str, Tensor]) -> None:
    """Refuse inputs that hold no values a pass could be made of.

    Raises:
        InputError: ids or a mask that are no whole numbers, pixels that are, or that are NaN or infinite; tensors that
            hold nothing here.
    """
    for name, value in inputs.items():
        if value.is_meta or value.layout is not torch.strided or value.is_complex():
            raise InputError(f"inputs[{name!r}] is {described(value)}; expected a dense tensor that holds its values.")
        whole = not value.is_floating_point()
        if name == "attention_mask" and value.ndim == 2 and not bool(((value == 0) | (value == 1)).all()):
            raise InputError(f"inputs[{name!r}] holds other values than 0 (padding) and 1 (a real token).")
        if name.endswith("input_ids") and not whole:
            raise InputError(f"inputs[{name!r}] is {described(value)}; expected ids as whole numbers.")
        if name.startswith("pixel_values"):
            _check_pixels(name, value)


def _check_pixels(name: str, pixels: Tensor) -> None:
    if not pixels.is_floating_point():
        raise InputError(f"inputs[{name!r}] is {described(pixels)}; expected floating-point pixels.")
    bad = int((~pixels.isfinite()).sum())
    if bad:
        raise InputError(f"inputs[{name!r}] holds {bad} values of {pixels.numel()} that are NaN or infinite.")


def check_seen(inputs: Mapping[str, Tensor], image_id: int | None) -> None:
    """Refuse a text that stands tokens of pictures in, and no picture that they would be made of.

    Raises:
        InputError: with how many there are.
    """
    ids = inputs["input_ids"]
    n = 0 if image_id is None or image_id == MASKED else int((ids == image_id).sum())
    if n and not any(name.startswith(_MADE_OF) for name in inputs):
        raise InputError(
            f"inputs= hold {n} tokens that stand for pictures, and no pixel_values to make them of: the model would "
            "read the placeholder's own embedding. Give the processor's whole output."
        )


def _beyond_vocabulary(config: Any, ids: Tensor, placeholders: set[int]) -> str | None:
    text = config.get_text_config() if hasattr(config, "get_text_config") else config
    size = getattr(text, "vocab_size", None)
    if not isinstance(size, int):
        return None
    size += getattr(text, "additional_vocab_size", 0) or 0
    beyond = sorted(set(ids[ids >= size].tolist()) - placeholders)
    return f"they hold the token id {beyond[-1]}, but the vocabulary has {size} tokens" if beyond else None


def _other_names(processor: Any, inputs: Mapping[str, Tensor]) -> str | None:
    """What of a picture is there, or is not, otherwise than in this processor's output."""
    own = getattr(processor, "model_input_names", None)
    if getattr(processor, "image_processor", None) is None or not own or "pixel_values" not in own:
        return None
    given, expected = ({name for name in names if _OF_PICTURES.match(name)} for names in (inputs, own))
    if spare := sorted(given - expected):
        return f"they hold {', '.join(spare)}, and it makes {', '.join(sorted(expected))} of pictures"
    if missing := sorted(expected - given):
        return f"they lack {', '.join(missing)}, which it makes of pictures"
    return None


def _other_size(processor: Any, pixels: Tensor) -> str | None:
    """Pixels of another size than this processor's, where all its pictures become tensors of one size."""
    images = getattr(processor, "image_processor", None)
    if pixels.ndim == 2:  # patches of all pictures, one a row
        side, frames = getattr(images, "patch_size", None), getattr(images, "temporal_patch_size", None)
        if isinstance(side, int) and isinstance(frames, int):
            width = 3 * side**2 * frames
            if pixels.shape[1] != width:
                return f"their patches are of {pixels.shape[1]} numbers, and it makes patches of {width}"
        return None
    given = (pixels.shape[-1], pixels.shape[-2])
    side, merge = (getattr(processor, name, None) for name in ("patch_size", "spatial_merge_size"))
    if isinstance(side, int) and isinstance(merge, int):  # Pixtral's: pictures come in whole tokens
        step = side * merge
        if pixels.ndim != 4:
            return f"their pictures are cut into tiles ({pixels.ndim} dimensions), and it makes one tensor of each"
        if given[0] % step == 0 == given[1] % step:
            return None
        return f"their pictures are of {given[0]} x {given[1]} pixels, and it makes whole patches of {step} pixels"
    parts = [shown_parts(processor, size) for size in (_LYING, _STANDING)]
    sizes = {part.size for own in parts if not isinstance(own, str) for part in own}
    if any(isinstance(own, str) for own in parts) or len(sizes) != 1 or pixels.ndim < 4:
        return None
    (own,) = sizes
    if own == given or not all(own):
        return None
    options = "; if it was told to, give it the same options here (images_kwargs=)"
    return f"their pictures are of {given[0]} x {given[1]} pixels, and it makes {own[0]} x {own[1]}{options}"
