"""What the proof is run on: two words and a picture, as small as the processor can make it."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from PIL import Image
from torch import Tensor

from lostattn.checkpoint.kinds import is_text_only
from lostattn.errors import LostAttnError
from lostattn.points.hooked_model import HookedModel
from lostattn.prompt.assemble import placeholder
from lostattn.prompt.batch import Prompt
from lostattn.prompt.picture_options import known_options
from lostattn.prompt.rendering import has_template

SIDE = 64
# What processors call the cutting of a picture into tiles and views, and what makes it one.
WHOLE: dict[str, Any] = {
    "do_image_splitting": False,
    "crop_to_patches": False,
    "do_pan_and_scan": False,
    "max_patches": 1,
}


def sample_picture() -> Image.Image:
    """A small picture of colour gradients: no two patches alike."""
    image = Image.new("RGB", (SIDE, SIDE))
    image.putdata([((x * 4) % 256, (y * 4) % 256, (x * y) % 256) for y in range(SIDE) for x in range(SIDE)])
    return image


def sample_prompt(model: HookedModel) -> Prompt:
    """A small picture and two words, or words alone where the model takes no pictures."""
    return next(sample_prompts(model))


def sample_prompts(model: HookedModel) -> Iterator[Prompt]:
    """The same with the picture as small as the processor's switches make it, then as it comes without them.

    Processors let a picture be cut into fewer tiles, or be made smaller, than some models can read.
    """
    if is_text_only(model.hf.config):
        yield model.prompt("What is this?")
        return
    # Without a chat template (PaliGemma) the text itself says where the picture stands.
    mark = "" if has_template(model.processor) else placeholder(model.processor, model.hf.config)
    text, images = f"{mark}What is this?", [sample_picture()]
    plain = model.prompt(text, images=images)
    smallest, options = plain, {}  # type: ignore[var-annotated]
    for name, value in _switches(getattr(model.processor, "image_processor", None)):
        try:
            found = model.prompt(text, images=images, images_kwargs={**options, name: value})
        except (LostAttnError, ValueError, TypeError, KeyError, IndexError, AttributeError, RuntimeError):
            continue  # a switch that this processor does not turn, by whatever it raises
        if _size(found) < _size(smallest):
            smallest, options = found, {**options, name: value}
    if smallest is not plain:
        yield smallest
    yield plain


def _switches(images: Any) -> Iterator[tuple[str, Any]]:
    """The options of an image processor that may make a picture smaller."""
    known = known_options(images)
    yield from ((name, value) for name, value in WHOLE.items() if name in known)
    size = getattr(images, "size", None)
    least, most = (getattr(size, edge, None) for edge in ("shortest_edge", "longest_edge"))
    if "merge_size" in known and least and most:  # of these processors they are areas: how many pixels at the least
        yield "size", {"shortest_edge": min(least, SIDE * SIDE), "longest_edge": most}
    if "min_pixels" in known and getattr(images, "min_pixels", None):
        yield "min_pixels", min(images.min_pixels, SIDE * SIDE)


def _size(prompt: Prompt) -> int:
    """How much a prompt gives a model to do: its positions, and the numbers of its picture."""
    return prompt.n_pos + sum(x.numel() for x in prompt.inputs.values() if isinstance(x, Tensor) and x.dim() > 1)
