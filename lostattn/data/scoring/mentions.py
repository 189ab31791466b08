"""Where a text names one of some choices, and where it says that it is not that one."""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Mapping
from typing import NamedTuple

_BEFORE = re.compile(
    r"(?:\b(?:not|neither|nor|never|without|no|cannot be|rather than|instead of|except(?: for)?|other than)|n't)"
    r"(?:\s+(?:really|necessarily|simply|just|quite|be|either|any|the|an?|in|of|option|choice|answer|letter|colou?r))*"
    r"\s*[(\[]?$",
    re.IGNORECASE,
)
_AFTER = re.compile(
    r"^[)\].]?\s*(?:(?:is|are|was|were|does|do|can|could|would)(?:n't|\s+not)\b"
    r"|cannot\b|can't\b|won't\b"
    r"|(?:is|are|was|were|seems|looks)\s+(?:\w+ly\s+)?(?:wrong|incorrect|false|excluded|ruled out|impossible|out)\b)",
    re.IGNORECASE,
)
_JOINED = re.compile(
    r"^\s*[)\]]?\s*(?:,|/|,?\s*(?:or|nor|and)\b)\s*(?:(?:the|an?|option|choice)\s+)?[(\[]?\s*$", re.IGNORECASE
)
# "no" that is no answer, and "no" that is one: by itself, first of all, or said of what is asked about.
_IDLE_NO = re.compile(
    r"^\s+(?:idea|doubt|doubts|clue|question|problem|matter|wonder|way|one|information|answer|longer|more|less|need)\b",
    re.IGNORECASE,
)
_THERE = re.compile(
    r"\b(?:there|there's|it|that|this|they|these|those)(?:\s+(?:is|are|was|were|has|have))?\s*$", re.IGNORECASE
)
_DIRECT = re.compile(r"(?:^|[.,;:!?\n(\[]|\b(?:is|say|says|answer|so|hence|thus))\s*$", re.IGNORECASE)


class Mention(NamedTuple):
    """One place of a text at which a choice is named."""

    choice: str
    start: int
    end: int


def plain(text: str) -> str:
    """A text in one form: composed characters, straight quotes, single blanks, no emphasis around words."""
    text = unicodedata.normalize("NFKC", text).replace("’", "'").replace("`", " ")
    text = re.sub(r"\\boxed\{([^{}]*)\}|\\text\{([^{}]*)\}", lambda m: f" {m[1] or m[2] or ''} ", text)
    text = re.sub(r"[*\"“”«»$]+|(?<!\w)_+|_+(?!\w)", " ", text)
    return re.sub(r"\s+", " ", text).strip()


def bare(text: str) -> str:
    """A text without case and without what stands around it."""
    return re.sub(r"^[\s.,;:!?()\[\]'<>]+|[\s.,;:!?()\[\]'<>]+$", "", plain(text)).casefold()


def named(text: str, words: Mapping[str, str]) -> list[Mention]:
    """The places of a plain text at which one of some words stands, ``{word: choice}``; of two at one place the longer.

    A word counts whole: "red" is neither in "reddish" nor in "red-ish", "1" not in "10", "1.5" or "-1".
    """
    found: list[Mention] = []
    for word, choice in sorted(words.items(), key=lambda pair: -len(pair[0])):
        if not (pieces := plain(word).split()):
            continue
        pattern = r"[\s-]+".join(map(re.escape, pieces))
        whole = rf"(?<![\w-])(?<!\d[.,])(?<!\w'){pattern}(?![\w-]|[.,]\d|'\w)"
        for match in re.finditer(whole, text, re.IGNORECASE):
            if not any(match.start() < one.end and one.start < match.end() for one in found):
                found.append(Mention(choice, match.start(), match.end()))
    return sorted(
        (one for one in found if not (text[one.start : one.end].casefold() == "no" and _is_idle(text, one))),
        key=lambda one: one.start,
    )


def _is_idle(text: str, one: Mention) -> bool:
    """Whether a "no" belongs to another word ("I have no idea") rather than answering."""
    before, after = text[: one.start], text[one.end :]
    if _IDLE_NO.match(after):
        return True
    alone = not after.strip() or bool(re.match(r"\s*[^\w\s]", after))
    return not (alone or _THERE.search(before) or _DIRECT.search(before))


def affirmed(text: str, mentions: list[Mention]) -> list[Mention]:
    """The mentions that the text does not deny: neither "not red" nor "neither A nor B", nor "A is wrong"."""
    kept: list[Mention] = []
    denied: Mention | None = None
    for one in mentions:
        between = None if denied is None else text[denied.end : one.start]
        no = bool(_BEFORE.search(text[: one.start]) or _AFTER.match(text[one.end :]))
        if no or (between is not None and _JOINED.match(between)):
            denied = one
        else:
            kept.append(one)
    return kept
