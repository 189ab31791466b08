"""The processor of a decoder of text alone: its tokenizer, called as a processor is."""

from __future__ import annotations

import os
from collections.abc import Sequence
from typing import Any

from lostattn.arguments.described import described
from lostattn.errors import InputError


class TextProcessor:
    """A tokenizer in a processor's place; there is no image processor, and a prompt holds no pictures."""

    image_processor = None

    def __init__(self, tokenizer: Any) -> None:
        self.tokenizer = tokenizer

    def __repr__(self) -> str:
        return f"TextProcessor({type(self.tokenizer).__name__})"

    @property
    def chat_template(self) -> Any:
        """The tokenizer's own."""
        return getattr(self.tokenizer, "chat_template", None)

    def __call__(self, text: Sequence[str], images: Any = None, **keywords: Any) -> Any:
        """The tokenizer's output."""
        if images:
            raise InputError("this processor holds a tokenizer alone and takes no images.")
        return self.tokenizer(list(text), **keywords)

    def apply_chat_template(self, turns: Sequence[dict[str, Any]], **keywords: Any) -> Any:
        """A conversation through the tokenizer's template, which takes a turn's content as one text."""
        plain = [
            {**turn, "content": "".join(piece["text"] for piece in turn["content"])}
            if isinstance(turn.get("content"), list)
            else turn
            for turn in turns
        ]
        return self.tokenizer.apply_chat_template(plain, **keywords)


def as_processor(given: Any) -> Any:
    """A processor as it is; a tokenizer as a processor of text.

    Raises:
        InputError: it is neither.
    """
    from transformers import PreTrainedTokenizerBase

    if isinstance(given, PreTrainedTokenizerBase):
        return TextProcessor(given)
    if isinstance(given, type) or not callable(given) or not hasattr(given, "tokenizer"):
        raise InputError(
            f"processor is {described(given)}; expected a processor that holds a tokenizer, or a tokenizer, such as "
            "transformers.AutoProcessor.from_pretrained(…) gives."
        )
    return given


def load_text_processor(source: str | os.PathLike[str], **options: Any) -> TextProcessor:
    """The tokenizer of a checkpoint, as a processor.

    Raises:
        InputError: it cannot be loaded; the message says why.
    """
    from transformers import AutoTokenizer

    try:
        return TextProcessor(AutoTokenizer.from_pretrained(source, **options))
    except Exception as error:  # transformers raises OSError, ValueError, ImportError or KeyError, by family
        first = next((line.strip() for line in str(error).splitlines() if line.strip()), type(error).__name__)
        raise InputError(
            f"No tokenizer could be loaded from {str(source)!r}: {first[:300]} Save one beside the model, or give "
            "it as processor=."
        ) from error
