"""Which part of a frame a processed frame shows, by the video processor that made it."""

from __future__ import annotations

from typing import Any

from lostattn.pictures.pipelines_resized import resized_and_cropped
from lostattn.pictures.shown import Box, Size


def frame_box(processor: Any, size: Size, tensor: Size | None) -> Box | str:
    """The box of an original frame under a whole processed frame, in original pixels, or why it cannot be said.

    Args:
        processor: a processor with its video processor.
        size: (width, height) of the frame.
        tensor: (width, height) of the processed frame.
    """
    frames = getattr(processor, "video_processor", None)
    if frames is None:
        return "the processor here has no video processor, whose sizes would say it"
    if tensor is None:
        return "the size of its processed frames is not known"
    written = getattr(getattr(type(frames), "_preprocess", None), "__module__", "")
    if written.endswith(".video_processing_smolvlm"):  # squashed, whatever came before
        return (0.0, 0.0, float(size[0]), float(size[1]))
    common = ("transformers.video_processing_utils", "transformers.models.internvl.video_processing_internvl")
    for method in ("resize", "center_crop"):
        if getattr(getattr(type(frames), method, None), "__module__", "") != "transformers.image_processing_backends":
            written = method
    if written not in common:
        return f"{type(frames).__name__} prepares frames in its own way"
    return resized_and_cropped(frames, size, tensor, tensor)
