"""Which ids stand for pieces of pictures, videos and sounds, and at which positions they do."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from jaxtyping import Int
from torch import Tensor

MASKED = -1
"""Stands for an image token where a mask says which positions are a picture's, and their ids may be any (Kosmos-2)."""
_MASK = "image_embeds_position_mask"
_SOUNDS = ("input_features", "input_values", "audio_")


def image_token_id(processor: Any, config: Any) -> int | None:
    """The id of the token that stands for a piece of a picture; None where config and processor name none."""
    words = getattr(config, "vocabulary_map", None)  # of a model that puts pictures into tokens of its own
    if isinstance(words, dict) and isinstance(words.get("<image>"), int):
        return int(words["<image>"])
    text = getattr(config, "text_config", None)
    for holder, name in (
        *((holder, name) for holder in (config, text) for name in ("image_token_id", "image_token_index")),
        *((holder, "image_patch_id") for holder in (config, text)),
        (processor, "image_token_id"),
    ):
        value = getattr(holder, name, None)
        if isinstance(value, int):
            return value
    return None


def mark_id(processor: Any, config: Any) -> int | None:
    """The id of what stands in an image's place in a text, where it is another than an image token (Gemma 3)."""
    image_id, own = image_token_id(processor, config), getattr(processor, "image_token", None)
    if image_id is None or not isinstance(own, str):
        return None
    found = processor.tokenizer.convert_tokens_to_ids(own)
    return found if isinstance(found, int) and found != image_id else None


def shown_id(processor: Any, config: Any, inputs: Mapping[str, Tensor]) -> int | None:
    """The id of a picture's positions in `marked` ids."""
    return MASKED if _MASK in inputs else image_token_id(processor, config)


def marked_ids(inputs: Mapping[str, Tensor]) -> Int[Tensor, "batch pos"]:
    """The ids, with `MASKED` where a mask says that a position is a picture's."""
    mask = inputs.get(_MASK)
    return inputs["input_ids"] if mask is None else inputs["input_ids"].masked_fill(mask == 1, MASKED)


def token_text(tokenizer: Any, token: int) -> str:
    """The text of one token, with the blank before it where its piece of the vocabulary has one.

    Tokenizers of the SentencePiece kind leave it out where a token is decoded by itself.
    """
    text: str = tokenizer.decode([token], clean_up_tokenization_spaces=False)
    piece = tokenizer.convert_ids_to_tokens(token) if hasattr(tokenizer, "convert_ids_to_tokens") else None
    if isinstance(piece, str) and piece.startswith("\u2581") and not text[:1].isspace():
        return " " + text
    return text


def audio_token_id(config: Any, inputs: Mapping[str, Any]) -> int | None:
    """The id of a sound's token, where the inputs hold a sound."""
    if not any(name.startswith(_SOUNDS) for name in inputs):
        return None
    for name in ("audio_token_id", "audio_token_index"):
        if isinstance(found := getattr(config, name, None), int):
            return found
    return None
