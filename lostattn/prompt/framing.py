"""The marks that a processor puts around an image's tokens by itself, and a text without them."""

from __future__ import annotations

import re
from typing import Any

from lostattn.errors import InputError
from lostattn.prompt.rendering import NOTHING, around, has_template

_TILE = r"<row_\d+_col_\d+>|<global-img>"
"""Marks of rows and columns, plain text to some tokenizers (Idefics 3)."""
_CROPPED = "Here is the original image "
_CROPS = " and here are some crops to help you see better "
"""What Gemma 3's processor says before a picture that it shows crops of, and behind it."""


def without_frames(processor: Any, decoded: str, shown_as: str, placeholder: str) -> str:
    """A text with a placeholder for each image token in it and the marks that it stands in, as it was given.

    Marks that the chat template writes around an image are part of the text, and stay.

    Args:
        processor: the model's processor.
        decoded: a prompt's text, one image token an image, special tokens written out.
        shown_as: how an image token is written there.
        placeholder: what a text holds in an image's place.
    """
    if not shown_as or shown_as not in decoded or not placeholder:
        return decoded
    pieces = decoded.split(shown_as)
    left, right = _frame(processor, placeholder)
    last = len(pieces) - 1
    for k, piece in enumerate(pieces):
        inner = re.sub(f"^{right}", "", piece) if k else piece
        pieces[k] = re.sub(f"{left}$", "", inner) if k < last else inner
    return placeholder.join(pieces)


def _frame(processor: Any, placeholder: str) -> tuple[str, str]:
    """What may stand before and behind an image's tokens, as regular expressions."""
    whole = getattr(processor, "full_image_sequence", None)  # of Gemma 3: with white space of its own
    token = getattr(processor.tokenizer, "image_token", None)
    if isinstance(whole, str) and isinstance(token, str) and token in whole:
        head, *_, tail = whole.split(token)
        return f"(?:{re.escape(_CROPPED)})?{re.escape(head)}", re.escape(tail)
    kept = {placeholder}
    if has_template(processor):
        try:
            written = "".join((*around(processor, NOTHING, None), *around(processor, (1, 0), None)))
        except InputError:
            written = ""
        kept |= {mark for mark in special_tokens(processor) if mark in written}
    kept |= {str(getattr(processor.tokenizer, f"{name}_token", None)) for name in ("bos", "eos", "pad")}
    marks = [re.escape(mark) for mark in special_tokens(processor) if mark not in kept]
    any_of_them = f"(?:{'|'.join([_TILE, *marks])})*"
    return any_of_them, any_of_them


def says_words(processor: Any, within: str) -> bool:
    """Whether what stands among the tokens of one image is more than marks: then it is of several."""
    left = within.replace(_CROPS, "") if shows_crops(processor, within) else within
    for mark in special_tokens(processor):
        left = left.replace(mark, " ")
    return re.search(r"\w\w", re.sub("<[^<>]*>", " ", left)) is not None


def shows_crops(processor: Any, text: str) -> bool:
    """Whether a text holds what a processor writes before the crops of a picture."""
    return _CROPS in text and hasattr(processor, "full_image_sequence")


def special_tokens(processor: Any) -> list[str]:
    """The tokens of a tokenizer that are no text, longest first."""
    added = getattr(processor.tokenizer, "added_tokens_decoder", {})
    marks = {str(token) for token in added.values() if token.special}
    marks |= set(map(str, getattr(processor.tokenizer, "all_special_tokens", ())))
    return sorted(filter(None, marks), key=len, reverse=True)


def bare(processor: Any, text: str, blank: str = r"\s") -> str:
    """A text without the white space (or less, by `blank`) and the special tokens that it begins with."""
    return re.sub("^(?:" + "|".join([blank, *map(re.escape, special_tokens(processor))]) + ")+", "", text)
