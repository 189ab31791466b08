"""Words of a prompt: at which positions they stand, however the tokenizer cut them."""

from __future__ import annotations

import re
from collections.abc import Sequence

from lostattn.errors import InputError, UnknownName, nearest

_APART = "\x00"  # what stands between two stretches of text: no word reaches over a picture
# Scripts that put no blank between words: there a word's end is seen by nothing.
_UNSPACED = re.compile(
    r"[\u0e00-\u0eff\u1000-\u109f\u1780-\u17ff\u3040-\u30ff\u3400-\u9fff\uf900-\ufaff\U00020000-\U0003ffff]"
)


def occurrences(strings: Sequence[str], is_text: Sequence[bool], word: str, case: bool = False) -> list[list[int]]:
    """The positions of each occurrence of a word, or of several words behind each other, in one item.

    Args:
        strings: the text of each position.
        is_text: which of them are text to look in.
        word: what to look for. It counts whole: "circle" is not in "circles".
        case: whether "Circle" is another word.

    Raises:
        InputError: the word is blank.
        UnknownName: it does not occur; the nearest words are named.
    """
    if not isinstance(word, str) or not word.strip():
        raise InputError(f"the word is {word!r}; expected a word of the prompt's text, such as 'circle'.")
    text, owners = _laid(strings, is_text)
    found = [
        sorted({owners[i] for i in range(*match.span())} - {-1})
        for match in re.finditer(_whole(word), text, 0 if case else re.IGNORECASE)
    ]
    if not found:
        words = list(dict.fromkeys(re.findall(r"[^\W_]+(?:['-][^\W_]+)*", text)))
        near = nearest(word.strip(), words) or nearest(word.strip().lower(), [one.lower() for one in words])
        raise UnknownName(f"the text has no word {word!r}.{near}")
    return found


def _laid(strings: Sequence[str], is_text: Sequence[bool]) -> tuple[str, list[int]]:
    """The text as one string, and the position of each of its characters; -1 for what was put in between."""
    shown = [one for one, own in zip(strings, is_text, strict=True) if own]
    # A vocabulary whose tokens hold no blanks says which ones go on with a word (BERT), or nothing at all.
    joined = any(piece[:1].isspace() or piece[-1:].isspace() for piece in shown)
    pieces: list[tuple[str, int]] = []
    for position, (piece, own) in enumerate(zip(strings, is_text, strict=True)):
        if not own:
            pieces.append((_APART, -1))
        elif not joined and piece.startswith("##") and len(piece) > 2:
            pieces.append((piece[2:], position))
        else:
            pieces += [] if joined or _UNSPACED.match(piece) else [(" ", -1)]
            pieces.append((piece, position))
    return "".join(piece for piece, _ in pieces), [position for piece, position in pieces for _ in piece]


def _whole(word: str) -> str:
    """A pattern for a word that is not part of a longer one; blanks in it may be any."""
    inner = r"\s+".join(map(re.escape, word.split()))
    first, last = word.strip()[0], word.strip()[-1]
    before = r"(?<!\w)" if _joins(first) else ""
    return before + inner + (r"(?!\w)" if _joins(last) else "")


def _joins(letter: str) -> bool:
    return (letter.isalnum() or letter == "_") and not _UNSPACED.match(letter)
