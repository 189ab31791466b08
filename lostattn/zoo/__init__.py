"""The tiny trained models: real `LlavaForConditionalGeneration` and `Qwen2_5_VLForConditionalGeneration`.

They were trained by `lostattn.zoo.train` on `shapes`, and ship with the package, saved like a public
checkpoint.
"""

from __future__ import annotations

from pathlib import Path

from lostattn.arguments import checked_call
from lostattn.errors import LostAttnError
from lostattn.zoo.recipe import NAMES, check_name

__all__ = ["names", "path"]


def names() -> tuple[str, ...]:
    """The names of the tiny models: `"tiny-llava"` and `"tiny-qwen2_5-vl"`."""
    return NAMES


@checked_call
def path(name: str) -> Path:
    """The folder that holds a tiny model, its processor, model card and training log.

    Raises:
        UnknownName: no tiny model is called so.
        LostAttnError: the weights are not there, as in an incomplete installation.
    """
    folder = Path(__file__).parent / "weights" / check_name(name)
    if not (folder / "model.safetensors").is_file():
        raise LostAttnError(
            f"The weights of {name} are missing from {folder}. Install lostattn again, or train them: "
            f"lostattn train-tiny {name} --out {folder}"
        )
    return folder
