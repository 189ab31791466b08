"""What a processor is told of videos, and whether it takes any."""

from __future__ import annotations

import inspect
from typing import Any

from lostattn.checkpoint.kinds import is_text_only
from lostattn.errors import InputError
from lostattn.pictures.videos import Videos


def check_videos(processor: Any, config: Any, videos: Videos) -> None:
    """Refuse videos where nothing here can make tokens of them.

    Raises:
        InputError: a decoder of text; a processor that takes no videos; one whose video processor could not be built,
            because transformers' video processors need torchvision.
    """
    first = next((video for own in videos for video in own), None)
    if first is None:
        return
    if is_text_only(config):
        raise InputError(f"{config.model_type!r} is a decoder of text and takes no videos; leave videos= out.")
    name = type(processor).__name__
    parts = processor.get_attributes() if hasattr(processor, "get_attributes") else ()
    if "video_processor" not in parts or "videos" not in inspect.signature(type(processor).__call__).parameters:
        raise InputError(
            f"videos holds {first!r}, but {name} takes no videos. Give its frames as pictures, images=[…], or make the"
            " inputs yourself, as the model wants them: model.prompt(inputs=…)."
        )
    if getattr(processor, "video_processor", None) is None:
        raise InputError(
            f"videos holds {first!r}, but this {name} has no video processor: those of transformers need torchvision,"
            " which is not installed. Install the build that belongs to your torch (pip install torchvision), start"
            " again and load the model; its pictures will then be read by torchvision too. Or make the inputs where it"
            " is installed and give them here: model.prompt(inputs=…)."
        )


def video_placeholder(processor: Any) -> str:
    """What the text of a prompt holds in a video's place; empty where the processor names nothing.

    A processor may hold it as a str or as the tokenizer's own token.
    """
    found = getattr(processor, "video_token", None)
    return str(found) if found is not None else ""


def video_arguments(videos: Videos) -> dict[str, Any]:
    """What a processor is called with for the videos of a batch: every frame that was given, none left out."""
    flat = [video for own in videos for video in own]
    if not flat:
        return {}
    # A processor takes the first axis of 1 or 3 for colours, and what it finds in the first video for all of them.
    doubtful = any(video.size[1] in (1, 3) for video in flat)
    axes = (0, 3, 1, 2) if doubtful else (0, 1, 2, 3)
    return {
        "videos": [video.array().transpose(axes) for video in flat],
        "video_metadata": [video.metadata() for video in flat],
        "do_sample_frames": False,
    }
