"""A batch of prompts: the processor's inputs whole, and what every token of them is."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Any

import torch
from jaxtyping import Bool
from PIL import Image
from torch import Tensor

from lostattn.arguments import check_fields, checked_call
from lostattn.arguments.known_by import AnyDevice
from lostattn.errors import InputError, OutOfRange, UnknownName
from lostattn.pictures.videos import Video
from lostattn.prompt.html import Row, prompt_html
from lostattn.prompt.rows import BY_PICTURE, cut_decoder, cut_items, per_image, trim_padding, trim_tiles
from lostattn.prompt.token_map import TokenMap
from lostattn.prompt.words import occurrences


@checked_call
@dataclass(frozen=True, eq=False, repr=False)
class Prompt:
    """What a model is run on, as made by `build_prompt`.

    Attributes:
        inputs: the processor's output, whole, ready for ``model(**prompt.inputs)``.
        token_map: what every position is; see `TokenMap`.
        texts: the question of each item (of inputs made elsewhere: as far as it can be told from the ids).
        images: the pictures of each item, as RGB PIL images; empty where only their tensor is known.
        ids: the identity of each item: the question's id, or a hash of its text and pixels. Random
            interventions are seeded with it, so that what is drawn for an item does not depend on its batch
            mates.
        str_tokens: for each item, the text of the token at each position; ``"<image>"`` for an image's.
        maker: the processor that it was made with, by its class, the size of its vocabulary, and the pictures that the
            model takes; empty where there was none. A model refuses a prompt of another's.
        videos: the videos of each item; empty where there are none, or only their tensor is known.

    `prompt[i]`, `prompt[1:3]` and `prompt[[0, 2]]` are prompts of those items, without the padding that the
    others needed; iterating gives one prompt an item.
    """

    inputs: dict[str, Tensor]
    token_map: TokenMap
    texts: tuple[str, ...]
    images: tuple[tuple[Image.Image, ...], ...]
    ids: tuple[str, ...]
    str_tokens: tuple[tuple[str, ...], ...]
    maker: str = ""
    videos: tuple[tuple[Video, ...], ...] = ()

    def __post_init__(self) -> None:
        if not getattr(getattr(self.token_map, "part", None), "is_meta", False):
            check_fields(self, "inputs")
        check_fields(self, "token_map", "texts", "images", "ids", "str_tokens", "maker", "videos")
        if not self.videos:
            object.__setattr__(self, "videos", ((),) * len(self.images))

    def source(self, item: int, image: int) -> Image.Image | Video | None:
        """The picture or video of ``token_map.grids[item][image]``; None where only its tensor is known.

        Raises:
            OutOfRange: there is no such item or image.
        """
        _check_there("item", item, len(self))
        _check_there("image", image, len(self.token_map.grids[item]))
        grids = self.token_map.grids[item]
        moving = grids[image].is_video
        place = sum(grid.is_video == moving for grid in grids[:image])
        held = self.videos[item] if moving else self.images[item]
        return held[place] if place < len(held) else None

    @property
    def batch(self) -> int:
        """The number of items."""
        return int(self.token_map.part.shape[0])

    @property
    def n_pos(self) -> int:
        """The number of positions, padding included."""
        return int(self.token_map.part.shape[1])

    def __len__(self) -> int:
        return self.batch

    def __iter__(self) -> Iterator[Prompt]:
        return (self[i] for i in range(len(self)))

    def __getitem__(self, items: int | slice | Sequence[int]) -> Prompt:
        """Raises `OutOfRange`, an `IndexError`, and `InputError` where the inputs cannot be taken apart by item."""
        for i in [] if isinstance(items, slice) else [items] if isinstance(items, int) else items:
            _check_there("item", i, len(self))
        chosen = range(len(self))[items] if isinstance(items, (int, slice)) else [range(len(self))[i] for i in items]
        rows = [chosen] if isinstance(chosen, int) else list(chosen)
        if not rows:
            raise InputError(f"No item is chosen by {items!r} from a prompt of {len(self)}.")
        columns = self.token_map.real[rows].any(0).nonzero().flatten()
        cut = slice(int(columns[0]), int(columns[-1]) + 1)
        return replace(
            self,
            inputs=self._inputs_of(rows, cut),
            token_map=self.token_map.select(rows, cut),
            texts=tuple(self.texts[i] for i in rows),
            images=tuple(self.images[i] for i in rows),
            videos=tuple(self.videos[i] for i in rows),
            ids=tuple(self.ids[i] for i in rows),
            str_tokens=tuple(self.str_tokens[i][cut] for i in rows),
        )

    def find(
        self, word: str, nth: int | None = None, item: int | None = None, within: Any = "text", case: bool = False
    ) -> Bool[Tensor, "batch pos"]:
        """Where a word stands in the text: a mask, to be used wherever positions are chosen.

        ::

            la.KnockOut(prompt.find("circle"), "image")
            la.view.attention_on_image(cache, prompt, 3, query="circle")

        Args:
            word: a word as a whole ("circle" is not in "circles"), or several ("red circle"). All tokens that any of
                its letters are in.
            nth: which of its occurrences in an item, from 0 (negative ones from the end); None takes all.
            item: of which item alone; None takes it in all items.
            within: the positions to look in: ``"question"``, for example, leaves system text and template out.
            case: whether "Circle" is another word than "circle".

        Raises:
            UnknownName: an item lacks the word; the nearest words are named.
            InputError: there are not so many occurrences; no such item.
        """
        rows = range(len(self)) if item is None else [item]
        if item is not None and not 0 <= item < len(self):
            raise InputError(f"item is {item}; the prompt holds items 0 to {len(self) - 1}.")
        looked_in = (self.token_map.resolve(within) & self.token_map.resolve("text")).tolist()
        out = torch.zeros_like(self.token_map.real)
        for i in rows:
            try:
                found = occurrences(self.str_tokens[i], looked_in[i], word, case)
            except UnknownName as error:
                raise UnknownName(f"item {i}: {error}") from None
            if nth is not None and not -len(found) <= nth < len(found):
                raise InputError(f"nth is {nth}; {word!r} occurs {len(found)} times in item {i}, counted from 0.")
            for positions in found if nth is None else [found[nth]]:
                out[i, positions] = True
        return out

    def to(self, device: AnyDevice) -> Prompt:
        """The same prompt with its tensors on another device."""
        moved = {name: value.to(device) for name, value in self.inputs.items()}
        return replace(self, inputs=moved, token_map=self.token_map.to(device))

    def _inputs_of(self, items: list[int], columns: slice) -> dict[str, Tensor]:
        counts, own = self.token_map.n_images, self.token_map.part.shape
        starts = [sum(counts[:i]) for i in range(len(counts))]
        wanted = [starts[i] + k for i in items for k in range(counts[i])]
        if "decoder_input_ids" in self.inputs and ("input_ids" not in self.inputs or self.token_map.cross is not None):
            return cut_decoder(self.inputs, items, columns, wanted, sum(counts))
        if items == list(range(len(self))):  # nothing is left out, so nothing need be told apart
            return {n: v[:, columns] if v.shape[:2] == own else v for n, v in self.inputs.items()}
        by_image = per_image(self.inputs, self.token_map.grids)
        tiled = {} if "pixel_values" in by_image else cut_items(self.inputs, items)
        out = {}
        for name, value in self.inputs.items():
            if name in tiled:
                out[name] = tiled[name]
            elif name in BY_PICTURE:  # [item, position, image, …]
                if "pixel_values" in tiled:
                    out[name] = value[items][:, columns, : tiled["pixel_values"].shape[1]]
            elif name in by_image:
                pieces = value.split(by_image[name])
                cut = torch.cat([value[:0], *(pieces[k] for k in wanted)])
                if len(cut):  # An input of no image is left out: a model takes its presence for a picture.
                    if name == "pixel_values":
                        sizes = self.inputs.get("image_sizes")
                        its = None if sizes is None or len(sizes) != sum(counts) else sizes[wanted]
                        cut = trim_tiles(cut) if cut.ndim == 5 else trim_padding(cut, its)
                    out[name] = cut
            elif value.shape[:2] == own:
                out[name] = value[items][:, columns]
        return out

    def __repr__(self) -> str:
        lines = [f"Prompt(batch={self.batch}, n_pos={self.n_pos}, inputs={', '.join(self.inputs)})"]
        for i, text in enumerate(self.texts[:3]):
            counts = ", ".join(f"{n} {name}" for name, n in self.token_map.counts(i).items())
            lost = "" if self.token_map.located[i] else "; question not located"
            lines.append(f"  {self.ids[i]}: {_short(text)!r} ({counts}{lost})")
        return "\n".join(lines + [f"  and {self.batch - 3} more"] * (self.batch > 3))

    def _repr_html_(self) -> str:
        return prompt_html(map(self._row, range(self.batch)), self.batch, self.n_pos)

    def _row(self, i: int) -> Row:
        """What a notebook shows of an item."""
        found = self.token_map
        return Row(self.ids[i], self.images[i], self.videos[i], found.n_images[i], self.texts[i], found.counts(i))


def _short(text: str, limit: int = 60) -> str:
    one_line = " ".join(text.split())
    return one_line if len(one_line) <= limit else one_line[: limit - 3] + "..."


def _check_there(what: str, i: int, n: int) -> None:
    """Refuse the number of an item or image that is not there; negative ones count from the end."""
    if not -n <= i < n:
        raise OutOfRange(f"{what} is {i}; there {'is' if n == 1 else 'are'} {n}, counted from 0.")
