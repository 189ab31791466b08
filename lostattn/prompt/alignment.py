"""From the rendered text of a prompt to the part of every position of its input ids.

The rendered text has one placeholder an image; the ids have a run of image tokens in its stead. The text is
tokenised with character offsets, and the two id sequences are walked together.
"""

from __future__ import annotations

from collections.abc import Collection, Sequence
from dataclasses import dataclass, replace
from typing import Any

import torch
from jaxtyping import Int
from torch import Tensor

from lostattn.prompt.cross_keys import CrossKeys
from lostattn.prompt.layouts.base import SEPARATOR, ImageLayout
from lostattn.prompt.parts import CODE
from lostattn.prompt.rendered import Rendered
from lostattn.prompt.spoken import Spoken
from lostattn.prompt.token_map import TokenMap


def align(
    compact: Sequence[int],
    row: Sequence[int],
    image_id: int | None,
    counts: Sequence[int] | None,
    mark: int | None = None,
    loose: Collection[int] = (),
) -> list[int] | None:
    """The place in `row` of every token of `compact`.

    Args:
        compact: the ids of the text with one placeholder an image.
        row: the ids in which each placeholder has become its image's tokens, perhaps among separators.
        image_id: the id of an image token.
        counts: how many image tokens each image has; None where unknown (then an image is one unbroken run).
        mark: the id of a placeholder; None where it is an image token.
        loose: ids that may have become one with a separator beside them (white space).

    Returns:
        For a placeholder, the place where its expansion begins; -1 for a token that is in `row` no longer, because it
        became one with a separator beside it. None where the two do not fit together whole.
    """
    pieces: list[list[int]] = [[]]
    for token in compact:
        if token == (image_id if mark is None else mark):
            pieces.append([])
        else:
            pieces[-1].append(token)
    if counts is not None and len(counts) != len(pieces) - 1:
        return None
    places: list[int] = []
    at = 0
    for k, piece in enumerate(pieces):
        last = k == len(pieces) - 1
        if k:
            places.append(at)
            end = _after_image(row, at, image_id, None if counts is None else counts[k - 1])
            if end is None:
                return None
            at = end
        stop = len(row) if last else next((i for i in range(at, len(row)) if row[i] == image_id), None)
        if stop is None or (last and image_id in row[at:]):
            return None
        found = _fit(piece, list(row[at:stop]), free_left=k > 0, free_right=not last, loose=loose)
        if found is None:
            return None
        places += [-1 if place < 0 else at + place for place in found]
        at = max([at, *(at + place + 1 for place in found if place >= 0)])
    return places


def _after_image(row: Sequence[int], at: int, image_id: int | None, count: int | None) -> int | None:
    """The place after the last token of the image that comes next."""
    seen = 0
    for place in range(at, len(row)):
        if row[place] == image_id:
            seen += 1
            if seen == count:
                return place + 1
        elif seen and count is None:
            return place
    return len(row) if seen and count is None else None


def _fit(
    piece: list[int], region: list[int], free_left: bool, free_right: bool, loose: Collection[int]
) -> list[int] | None:
    """The places of the text between two images in the ids between their tokens; -1 for what merged with a separator.

    On a side with an image the ids hold separators too, and up to two loose tokens of the text may have become one
    with them; on a side without, text and ids end together.
    """
    most = [(a, b) for a in range(3 if free_left else 1) for b in range(3 if free_right else 1)]
    for a, b in sorted(most, key=sum):
        if a + b > len(piece) or not all(token in loose for token in (*piece[:a], *piece[len(piece) - b :])):
            continue
        kept = piece[a : len(piece) - b]
        spare = len(region) - len(kept)
        starts = range(spare + 1) if free_left and free_right else range(spare, spare + 1) if free_left else range(1)
        for start in starts:
            fits = start >= 0 and (free_right or start == spare) and region[start : start + len(kept)] == kept
            if fits:
                return [-1] * a + list(range(start, start + len(kept))) + [-1] * b
    return None


@dataclass(frozen=True)
class Coded:
    """What the real positions of one item are.

    Attributes:
        parts: of each position, the index in `PARTS`.
        turns: of each position, which turn it belongs to; -1 where none.
        roles: whose turn each is.
        located: whether the text was located.
    """

    parts: list[int]
    turns: list[int]
    roles: tuple[str, ...]
    located: bool


def text_codes(
    tokenizer: Any,
    rendered: Rendered,
    row: list[int],
    image_id: int | None,
    counts: list[int] | None,
    mark: int | None = None,
) -> Coded:
    """The part and the turn of every real position of one item, and whether its text was located.

    Where the walk does not come out even (a tokenizer without offsets, an expansion that rewrites the text around
    it), the question is looked for as its own tokens in the ids; failing that, text is left as "template" and the
    item counts as not located.
    """
    codes = [CODE["image"] if image_id is not None and t == image_id else CODE["template"] for t in row]
    if not getattr(tokenizer, "is_fast", False):
        return _search(tokenizer, rendered, row, codes)
    special = special_ids(tokenizer)
    out = tokenizer(rendered.text, add_special_tokens=rendered.add_specials, return_offsets_mapping=True)
    compact, mark = out["input_ids"], image_id if mark is None else mark
    offsets = list(zip(compact, out["offset_mapping"], strict=True))
    blank = {token for token, (start, end) in offsets if end > start and not rendered.text[start:end].strip()}
    places = align(compact, row, image_id, counts, mark, blank)
    if places is None:
        return _search(tokenizer, rendered, row, codes)
    shown = next((rendered.text[start:end] for token, (start, end) in offsets if token == mark), "")
    spoken = Spoken(rendered, tokenizer.convert_ids_to_tokens(sorted(special)), shown)
    turns = [-1] * len(row)
    for k, start, end in _expansions(compact, places, mark, len(row)):
        for place in range(start, end):
            codes[place] = codes[place] if row[place] == image_id else CODE["separator"]
            turns[place] = spoken.turn(*offsets[k][1])
    begun = False  # Special tokens that the tokenizer adds have no characters: BOS comes before any, EOS after.
    for (token, (start, end)), place in zip(offsets, places, strict=True):
        begun = begun or end > start
        if token != mark and place >= 0:
            codes[place] = CODE[spoken.part(start, end, token in special, begun)]
            turns[place] = spoken.turn(start, end)
    # Of a turn are its pictures and words; what the template writes among them is nobody's.
    turns = [
        -1 if code in (CODE["template"], CODE["system"]) else turn for code, turn in zip(codes, turns, strict=True)
    ]
    return Coded(codes, turns, spoken.roles, rendered.question is not None)


def _expansions(compact: list[int], places: list[int], mark: int | None, n: int) -> list[tuple[int, int, int]]:
    """Which tokens are placeholders, and from where to where in the ids the expansion of each goes."""
    out = []
    for k, token in enumerate(compact):
        if token == mark:
            out.append((k, places[k], next((p for p in places[k + 1 :] if p >= 0), n)))
    return out


def _search(tokenizer: Any, rendered: Rendered, row: list[int], codes: list[int]) -> Coded:
    nobodys = [-1] * len(row)
    if rendered.question is None or rendered.turns:
        return Coded(codes, nobodys, (), False)
    text = rendered.text[slice(*rendered.question)]
    for form in (text, " " + text):
        wanted = tokenizer(form, add_special_tokens=False)["input_ids"]
        for start in range(len(row) - len(wanted), -1, -1):
            if wanted and row[start : start + len(wanted)] == wanted:
                first = min((i for i, c in enumerate(codes) if c == CODE["image"]), default=start)
                codes[: min(first, start)] = [CODE["system"]] * min(first, start)
                codes[start : start + len(wanted)] = [CODE["question"]] * len(wanted)
                if rendered.answer is not None:
                    return Coded(codes, nobodys, (), False)
                turns = [0 if code in (CODE["image"], CODE["question"]) else -1 for code in codes]
                return Coded(codes, turns, ("user",), True)
    return Coded(codes, nobodys, (), False)


def special_ids(tokenizer: Any) -> set[int]:
    """The ids that stand for no text: BOS, turns, image delimiters."""
    added = getattr(tokenizer, "added_tokens_decoder", {})
    return set(tokenizer.all_special_ids) | {i for i, token in added.items() if token.special}


def build_token_map(
    tokenizer: Any,
    input_ids: Int[Tensor, "batch pos"],
    real: Tensor,
    image_id: int | None,
    rendered: Sequence[Rendered],
    layouts: Sequence[Sequence[ImageLayout]],
    mark: int | None = None,
    cross: CrossKeys | None = None,
) -> TokenMap:
    """The token map of a batch, from its ids and what is known of its texts and images.

    Args:
        tokenizer: the model's.
        input_ids: the ids.
        real: which positions are not padding.
        image_id: the id of an image token.
        rendered: the text of each item.
        layouts: of the images of each item.
        mark: the id of the placeholder that stands for an image in a text; None where it is an image token.
        cross: what the keys of cross-attention layers are, where pictures are read there.
    """
    part = torch.zeros(input_ids.shape, dtype=torch.int8)
    image_index, patch_index = torch.full_like(input_ids, -1), torch.full_like(input_ids, -1)
    turn_index = torch.full_like(input_ids, -1)
    coded = []
    for i, (text, images) in enumerate(zip(rendered, layouts, strict=True)):
        places = real[i].nonzero().flatten()
        row = input_ids[i, places].tolist()
        counts = [m.tokens for m in images]
        found = text_codes(tokenizer, text, row, image_id, counts if all(counts) else None, mark)
        codes = found.parts
        if image_id is not None and codes.count(CODE["image"]) < sum(counts):  # ids say it, whatever the text says
            codes = [CODE["image"] if token == image_id else code for token, code in zip(row, codes, strict=True)]
        coded.append(found)
        part[i, places] = torch.tensor(codes, dtype=torch.int8)
        turn_index[i, places] = torch.tensor(found.turns)
        tokens = places[part[i, places] == CODE["image"]]
        for k, image in enumerate(images):
            mine, tokens = tokens[: image.tokens], tokens[image.tokens :]
            order = torch.tensor(image.patches, dtype=torch.long)
            image_index[i, mine] = torch.where(order == SEPARATOR, -1, k)
            patch_index[i, mine] = torch.where(order == SEPARATOR, -1, order)
            part[i, mine[order == SEPARATOR]] = CODE["separator"]
    grids = tuple(tuple(m.grid for m in images) for images in layouts)
    located, roles = tuple(one.located for one in coded), tuple(one.roles for one in coded)
    return TokenMap(part, image_index, patch_index, grids, located, cross, turn_index, roles)


def with_sounds(token_map: TokenMap, ids: Int[Tensor, "batch pos"], audio_id: int | None) -> TokenMap:
    """The map with the tokens of sounds apart from the text."""
    if audio_id is None:
        return token_map
    return replace(token_map, part=token_map.part.masked_fill((ids == audio_id) & token_map.real, CODE["audio"]))
