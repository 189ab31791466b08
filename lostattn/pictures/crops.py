"""Which part of an original picture each processed tensor shows: resized, cropped, padded, cut into tiles.

Every pipeline of transformers' image processors that is understood is one function of
`lostattn.pictures.pipelines_resized` or `lostattn.pictures.pipelines_tiled`; it is chosen by the code that the
processor runs (where its ``_preprocess`` is written), since many models share one. A pipeline that is not understood
is not guessed at.
"""

from __future__ import annotations

from typing import Any

from lostattn.pictures.pipelines_resized import (
    any_resolution,
    best_canvas,
    best_ratio,
    enlarged_tiles,
    padded_square,
    pan_and_scan,
    resize_and_crop,
    whole_patches,
)
from lostattn.pictures.pipelines_tiled import (
    beyond_patches,
    enlarged_slices,
    large_in_tiles,
    overlapping_crops,
    own_size,
    padded_lines,
    sliding_windows,
    square_canvas,
)
from lostattn.pictures.shown import Pipeline, Shown, Size


def shown_parts(processor: Any, size: Size, together: int = 1, cut: bool | None = None) -> list[Shown] | str:
    """What the tensors made of one picture show, in their order, or why it cannot be said.

    Args:
        processor: a processor with its image processor.
        size: (width, height) of the picture.
        together: how many pictures its item holds; some pipelines cut only a picture that is alone.
        cut: whether pictures are cut into tiles, where the processor leaves the choice; None for its own setting.
    """
    images = getattr(processor, "image_processor", None)
    if images is None:
        return "the model has no image processor"
    written = getattr(getattr(type(images), "_preprocess", None), "__module__", "")
    package = written.rpartition(".")[0].rpartition(".")[2]
    pipeline = _PIPELINES.get(package)
    if pipeline is None or not written.startswith("transformers."):
        return f"{type(images).__name__} prepares pictures in its own way (_preprocess)"
    settings = getattr(processor, "images_kwargs", None)
    return pipeline(images, settings if isinstance(settings, dict) else {}, size, together, cut)


_PIPELINES: dict[str, Pipeline] = {
    "transformers": resize_and_crop,
    "llava": padded_square,
    "llava_next": any_resolution,
    "llava_onevision": any_resolution,
    "got_ocr2": best_ratio,
    "idefics3": enlarged_tiles,
    "smolvlm": enlarged_tiles,
    "gemma3": pan_and_scan,
    "mllama": best_canvas,
    "qwen2_vl": whole_patches,
    "pixtral": own_size,
    "emu3": own_size,
    "fuyu": padded_lines,
    "inkling": beyond_patches,
    "minicpmv4_6": enlarged_slices,
    "minicpm_ocr": enlarged_slices,
    "lfm2_vl": large_in_tiles,
    "step3p7": sliding_windows,
    "unlimited_ocr": square_canvas,
    "molmo2": overlapping_crops,
}
"""By the package of transformers that the code of `_preprocess` is written in; the first is the shared one."""
