"""What every position of a prompt is, and the names by which positions are chosen."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass, fields, replace
from typing import Any

import numpy as np
import torch
from jaxtyping import Bool, Int
from torch import Tensor

from lostattn.arguments import check_fields, checked_call
from lostattn.arguments.known_by import AnyDevice
from lostattn.errors import InputError, OutOfRange, UnknownName, nearest
from lostattn.pictures.patch_grid import Grid, PatchGrid, UnknownGrid
from lostattn.prompt.cross_keys import CrossKeys
from lostattn.prompt.parts import CODE, NO_TEXT, PARTS
from lostattn.prompt.turn_names import EXAMPLES, KINDS, TURN_NAME, Roles, goes_on, said_turns, turn_mask

NAMES = (*PARTS, "text", "last", "all", "image:0", "video", "video:0", "frame:0", *EXAMPLES)
"""Every name a position can be chosen by; ``image:k``, ``video:k``, ``turn:k`` and ``frame:t`` for any k and t."""
_TOLD = ("system", "question", "answer", "template", "history", "thought")
"""Parts that are known only where the text could be told apart."""

Spec = Any
"""A name, names joined with ``|``, an int, a slice, a list of ints, a mask, or a tuple of these."""


@checked_call
@dataclass(frozen=True, eq=False)
class TokenMap:
    """Which positions of a batch of prompts are system, image, question, history, answer so far, template, padding.

    `token_map[spec]` gives a mask over positions. A spec is

    - a name: ``"system"`` (what the chat template puts before the user's content), ``"image"`` (positions whose
      embedding is a picture's), ``"image:0"`` (the first picture's alone), ``"audio"`` (positions whose embedding is a
      sound's), ``"question"`` (the words of the question: of a conversation, of its last user turn), ``"history"`` (the
      words of all other turns), ``"answer"`` (the answer so far), ``"thought"`` (what the model writes between
      ``<think>`` and ``</think>``, with these marks),
      ``"separator"`` (what the processor or the model puts among a picture's tokens and nothing of the picture goes
      into: newlines, marks of rows, columns and tiles), ``"template"`` (real positions that are none of these),
      ``"padding"``, ``"text"`` (real, and neither image, audio nor separator), ``"last"`` (the last real position),
      ``"all"`` (every real position); several joined with ``|``
    - ``"image:tiles"`` and ``"image:thumbnail"``: of pictures that are cut into tiles, the patches of the pieces,
      and those of the small copy of all of it
    - ``"video"`` and ``"video:k"``: of the images those that move, and the k-th of them; ``"frame:t"``: the tokens of
      every video that show its frame t, counted over the frames that the processor was given
    - ``"turn:k"``: the k-th turn of a conversation, its pictures, words and thoughts, and nothing of the template;
      ``"user:k"``, ``"assistant:k"``, ``"tool:k"``: the k-th turn of that speaker. What the system says is no turn.
      Negative numbers count from the last turn of each item (``"user:-1"`` is the turn of the question)
    - an int, a list of ints or a slice, counted over the *real* positions of each item, so that padding does not
      shift them; negative ones count from the end
    - a boolean mask ``[pos]`` or ``[batch, pos]``, taken as it is
    - a tuple of any of these: their union; but ``("image", k)`` is ``"image:k"``, and so with ``"video"``, ``"frame"``
      and turns

    Attributes:
        part: the index in `PARTS` of each position's part.
        image_index: which image of its item a position belongs to; -1 where none.
        patch_index: which patch of that image's grid, row by row; -1 where none, and where the grid is unknown.
        grids: the grid of every image of every item.
        located: for each item, whether its text could be told apart from the template around it.
        cross: what the keys of cross-attention layers are, in a model that reads pictures there; None elsewhere.
            Such a picture has no positions: ``"image"`` names keys of those layers. In an encoder-decoder, the
            positions are the decoder's, and these keys the encoder's.
        turn_index: which turn of its item a position belongs to; -1 where none. None where nothing is known of turns.
        roles: for each item whose turn each is, ``"user"``, ``"assistant"`` or ``"tool"``.
    """

    part: Int[Tensor, "batch pos"]
    image_index: Int[Tensor, "batch pos"]
    patch_index: Int[Tensor, "batch pos"]
    grids: tuple[tuple[Grid, ...], ...]
    located: tuple[bool, ...]
    cross: CrossKeys | None = None
    turn_index: Int[Tensor, "batch pos"] | None = None
    roles: tuple[Roles, ...] = ()

    def __post_init__(self) -> None:
        if getattr(self.part, "is_meta", False):  # of a model that is described without its weights
            return
        check_fields(self, *(one.name for one in fields(self)))

    def __getitem__(self, spec: Spec) -> Bool[Tensor, "batch pos"]:
        return self.resolve(spec)

    @property
    def real(self) -> Bool[Tensor, "batch pos"]:
        """Every position that is not padding; the same as ``token_map["all"]``."""
        return self.part != CODE["padding"]

    @property
    def n_images(self) -> tuple[int, ...]:
        """How many images each item holds."""
        return tuple(len(grids) for grids in self.grids)

    @property
    def video_index(self) -> Int[Tensor, "batch pos"]:
        """Which video of its item a position belongs to; -1 where none."""
        out = torch.full_like(self.image_index, -1)
        for i, own in enumerate(self.grids):
            for n, k in enumerate(k for k, grid in enumerate(own) if grid.is_video):
                out[i, self.image_index[i] == k] = n
        return out

    @property
    def step_index(self) -> Int[Tensor, "batch pos"]:
        """Which time step of its video's grid a position is of; -1 where it is no patch of a video.

        The frames that a step shows are ``grid.shown_frames[step]``; row and column are in ``grid.where(patch)``.
        """
        out = torch.full_like(self.patch_index, -1)
        for i, own in enumerate(self.grids):
            for k, grid in enumerate(own):
                if isinstance(grid, PatchGrid) and grid.is_video:
                    mine = (self.image_index[i] == k) & (self.patch_index[i] >= 0)
                    out[i, mine] = self.patch_index[i, mine] // (grid.rows * grid.cols)
        return out

    @property
    def tile_index(self) -> Int[Tensor, "batch pos"]:
        """Which of its image's tiles (``grids[item][image].tiles``) a position is of; -1 where it is no patch."""
        out = torch.full_like(self.patch_index, -1)
        for i, own in enumerate(self.grids):
            for k, grid in enumerate(own):
                mine = (self.image_index[i] == k) & (self.patch_index[i] >= 0)
                sizes = torch.tensor([len(tile) for tile in grid.tiles], device=out.device)
                if len(sizes):
                    out[i, mine] = torch.bucketize(self.patch_index[i, mine], sizes.cumsum(0), right=True).to(out)
        return out

    def resolve(self, spec: Spec, need: bool = False) -> Bool[Tensor, "batch pos"]:
        """The mask of a spec (see the class).

        Args:
            spec: what to choose.
            need: raise where nothing at all is chosen, rather than let an edit of nothing pass.

        Raises:
            UnknownName: a name that no position answers to.
            InputError: a mask of the wrong shape, an int out of range, a spec of another type; the question of a
                prompt whose text could not be located; with `need`, a spec that chooses no position.
        """
        mask = self._mask(spec)
        if need and not mask.any():
            raise InputError(self._nothing(spec))
        return mask

    def extends(self, spec: Spec) -> bool:
        """Whether a token that is generated after the prompt belongs to a spec.

        True for ``"last"``, ``"all"``, ``"text"``, ``"answer"``, for -1, for a slice with an open end, for the turn
        that is being generated (``"assistant:0"`` of a first question, ``"turn:-1"`` of an answer that is gone on
        with), where it is that turn in every item, and for a union with one of them. False for everything else: other
        parts end with the prompt, and a mask or an int names positions of the prompt alone.
        """
        if isinstance(spec, str):
            names = [_check_name(name) for name in spec.split("|")]
            going = (TURN_NAME.fullmatch(name) is not None and goes_on(self.roles, name) for name in names)
            return any(name in ("last", "all", "text", "answer") for name in names) or any(going)
        if isinstance(spec, slice):
            return spec.stop is None and spec.step in (None, 1)
        if isinstance(spec, (int, np.integer)) and not isinstance(spec, bool):
            return int(spec) == -1
        if isinstance(spec, (Tensor, np.ndarray)):
            return not _is_bool(spec) and bool((torch.as_tensor(spec) == -1).any())
        if isinstance(spec, tuple):
            name = _numbered(spec)
            return any(self.extends(one) for one in spec) if name is None else self.extends(name)
        return isinstance(spec, list) and any(type(i) is int and i == -1 for i in spec)

    def in_boxes(
        self, boxes: Sequence[Sequence[float | int]], images: int | Sequence[int] = 0
    ) -> Bool[Tensor, "batch pos"]:
        """The image tokens that see any of a box of pixels: a mask, to be used wherever positions are chosen.

        Args:
            boxes: ``(x0, y0, x1, y1)`` in pixels of the original picture, one for each item.
            images: which image of its item each is about.

        Raises:
            InputError: another number of boxes than of items; an image that is not there, or whose place in the
                picture is not known; a box that no token sees.
        """
        n = len(self.part)
        which = [images] * n if isinstance(images, int) else list(images)
        if len(boxes) != n or len(which) != n:
            raise InputError(f"{len(boxes)} boxes and {len(which)} images for {n} items; give one for each.")
        out = torch.zeros_like(self.real)
        for i, (box, k) in enumerate(zip(boxes, which, strict=True)):
            if not 0 <= k < len(self.grids[i]):
                raise InputError(f"images holds {k}; item {i} holds {len(self.grids[i])} images.")
            seen = torch.as_tensor(self.grids[i][k].touching(box), device=out.device)
            if not len(seen):
                raise InputError(f"no token of image {k} of item {i} sees the box {tuple(box)}.")
            out[i] = (self.image_index[i] == k) & torch.isin(self.patch_index[i], seen)
        return out

    def counts(self, item: int) -> dict[str, int]:
        """How many positions of one item each part has, parts without any left out."""
        if not -len(self.part) <= item < len(self.part):
            raise OutOfRange(f"item is {item}; the map holds items 0 to {len(self.part) - 1}.")
        found = torch.bincount(self.part[item].long(), minlength=len(PARTS)).tolist()
        return {name: n for name, n in zip(PARTS, found, strict=True) if n}

    def to(self, device: AnyDevice) -> TokenMap:
        """The same map with its tensors on another device."""
        moved: dict[str, Any] = {name: value.to(device) for name, value in self._by_position().items()}
        return replace(self, **moved, cross=None if self.cross is None else self.cross.to(device))

    def select(self, items: Sequence[int], columns: slice) -> TokenMap:
        """The map of some items, on some columns."""
        rows = torch.as_tensor(list(items), dtype=torch.long, device=self.part.device)
        cut: dict[str, Any] = {name: value[rows][:, columns] for name, value in self._by_position().items()}
        return replace(
            self,
            **cut,
            grids=tuple(self.grids[i] for i in items),
            located=tuple(self.located[i] for i in items),
            roles=tuple(self.roles[i] for i in items) if self.roles else (),
            cross=None if self.cross is None else self.cross.select(items),
        )

    def _by_position(self) -> dict[str, Tensor]:
        """The tensors that have a column for each position, by name."""
        held = {"part": self.part, "image_index": self.image_index, "patch_index": self.patch_index}
        return held if self.turn_index is None else {**held, "turn_index": self.turn_index}

    def _mask(self, spec: Spec) -> Bool[Tensor, "batch pos"]:
        if isinstance(spec, str):
            return self._union([self._named(_check_name(name)) for name in spec.split("|")])
        if isinstance(spec, (int, np.integer)) and not isinstance(spec, (bool, np.bool_)):
            return self._at([int(spec)])
        if isinstance(spec, slice):
            return self._sliced(spec)
        if isinstance(spec, (Tensor, np.ndarray)):
            return self._array(torch.as_tensor(spec, device=self.part.device))
        if isinstance(spec, tuple):
            name = _numbered(spec)
            return self._union([self._mask(one) for one in spec]) if name is None else self._named(_check_name(name))
        if isinstance(spec, list):
            if all(type(i) is int or isinstance(i, np.integer) for i in spec):
                return self._at([int(i) for i in spec])
            if _nested_bools(spec):
                return self._array(torch.as_tensor(spec, device=self.part.device))
        raise InputError(
            f"Positions cannot be chosen by {spec!r}; give a name ({', '.join(NAMES)}), an int, a slice,"
            " a list of ints, a boolean mask, or a tuple of these."
        )

    def _union(self, masks: list[Tensor]) -> Bool[Tensor, "batch pos"]:
        out = torch.zeros_like(self.real)
        for mask in masks:
            out = out | mask
        return out

    def _named(self, name: str) -> Bool[Tensor, "batch pos"]:
        if name == "all":
            return self.real
        if name == "text":
            return ~torch.isin(self.part, torch.tensor([CODE[one] for one in NO_TEXT], device=self.part.device))
        if name == "last":
            return self._at([-1])
        if name in ("image:tiles", "image:thumbnail"):
            return self._of_role(name.removeprefix("image:"))
        if name.startswith("image:"):
            return self.image_index == int(name.removeprefix("image:"))
        if name.startswith("video"):
            return self.video_index == int(name[6:]) if name[6:] else self.video_index >= 0
        if name.startswith("frame:"):
            return self._of_frame(int(name.removeprefix("frame:")))
        turn = TURN_NAME.fullmatch(name) is not None
        if (turn or name in _TOLD) and not all(self.located):
            raise InputError(
                f"The {name} of item {self.located.index(False)} could not be told apart from the text around it. Make"
                " the prompt from a question and its images, or from messages, or name positions by int, slice or mask."
            )
        if not turn:
            return self.part == CODE[name]
        return torch.zeros_like(self.real) if self.turn_index is None else turn_mask(self.turn_index, self.roles, name)

    def _of_role(self, role: str) -> Bool[Tensor, "batch pos"]:
        """The patches of thumbnails, or those of tiles."""
        out, tiles = torch.zeros_like(self.real), self.tile_index
        for i, own in enumerate(self.grids):
            for k, grid in enumerate(own):
                for t, tile in enumerate(grid.tiles):
                    if tile.role == role or (role == "tiles" and tile.role == "tile"):
                        out[i] |= (self.image_index[i] == k) & (tiles[i] == t)
        return out

    def _of_frame(self, frame: int) -> Bool[Tensor, "batch pos"]:
        """The patches of every video that show one of its frames."""
        out, steps = torch.zeros_like(self.real), self.step_index
        for i, own in enumerate(self.grids):
            for k, grid in enumerate(own):
                if isinstance(grid, PatchGrid):
                    for step in grid.steps_of(frame):
                        out[i] |= (self.image_index[i] == k) & (steps[i] == step)
        return out

    def _at(self, places: list[int]) -> Bool[Tensor, "batch pos"]:
        real = self.real
        n, rank = real.sum(-1, keepdim=True), real.cumsum(-1) - 1
        out = torch.zeros_like(real)
        for place in places:
            index = n + place if place < 0 else torch.full_like(n, place)
            if ((index < 0) | (index >= n)).any():
                item = int(((index < 0) | (index >= n)).flatten().nonzero()[0])
                raise InputError(
                    f"Position {place} is out of range: item {item} of the batch has {int(n[item])} real positions"
                    " (padding is not counted)."
                )
            out |= real & (rank == index)
        return out

    def _sliced(self, spec: slice) -> Bool[Tensor, "batch pos"]:
        out = torch.zeros_like(self.real)
        for row, real in zip(out, self.real, strict=True):
            row[real.nonzero().flatten()[list(range(int(real.sum())))[spec]]] = True
        return out

    def _array(self, values: Tensor) -> Bool[Tensor, "batch pos"]:
        if values.dtype != torch.bool:
            if values.ndim <= 1 and not values.is_floating_point() and not values.is_complex():
                return self._at(values.reshape(-1).tolist())
            raise InputError(f"A mask of positions is boolean; got {values.dtype} of shape {tuple(values.shape)}.")
        batch, pos = self.part.shape
        if tuple(values.shape) not in ((pos,), (batch, pos)):
            raise InputError(
                f"A mask of shape {tuple(values.shape)} does not fit a prompt of shape {(batch, pos)}"
                f" [batch, pos]; give {(batch, pos)} or {(pos,)}."
            )
        return values.expand(batch, pos).clone()

    def _nothing(self, spec: Spec) -> str:
        """Why a spec chooses no position."""
        parts = spec if isinstance(spec, tuple) else [spec]
        names = [name.strip() for one in parts if isinstance(one, str) for name in one.split("|")]
        if any(name.startswith(("video", "frame:")) for name in names):
            return self._no_video(spec)
        if any(name.startswith("image") for name in names):
            if self.cross is not None:
                return (
                    f"{spec!r} asks for image tokens, but this model reads pictures through cross-attention: its"
                    " sequence holds no image tokens. Name them as keys of cross-attention layers."
                )
            if any(name in ("image:tiles", "image:thumbnail") for name in names) and any(self.n_images):
                return f"{spec!r} names no position: no picture of this prompt is cut into tiles."
            if not any(self.n_images):
                return (
                    f"{spec!r} asks for image tokens, but the prompt holds no image; give one, for example"
                    " prompt(text, images=[picture])."
                )
            return f"{spec!r} asks for an image that is not there: the items hold {list(self.n_images)} images."
        if any(TURN_NAME.fullmatch(name) for name in names):
            return f"{spec!r} asks for a turn that is not there; the turns are {said_turns(self.roles)}."
        if "answer" in names:
            return f"{spec!r} names no position: the prompt holds no answer so far; give one with answer=."
        return f"{spec!r} names no position of this prompt of shape {tuple(self.part.shape)} [batch, pos]."

    def _no_video(self, spec: Spec) -> str:
        """Why a spec of videos chooses no position."""
        moving = [grid for own in self.grids for grid in own if grid.is_video]
        if not moving:
            return (
                f"{spec!r} asks for tokens of a video, but the prompt holds none; give one, for example"
                " prompt(text, videos=[frames])."
            )
        if unknown := next((grid for grid in moving if isinstance(grid, UnknownGrid)), None):
            return f"{spec!r} names no position: the grid of this video is not known: {unknown.reason}."
        said = ", ".join(f"{sum(map(len, g.shown_frames))} frames" for g in moving if isinstance(g, PatchGrid))
        return f"{spec!r} asks for what is not there: the videos of this prompt hold {said}."


def _check_name(name: str) -> str:
    name = name.strip()
    if name in NAMES or re.fullmatch(r"image:(\d+|tiles|thumbnail)|(video|frame):\d+", name):
        return name
    if TURN_NAME.fullmatch(name):
        return name
    raise UnknownName(
        f"No positions are called {name!r}; there are {', '.join(NAMES)} (image:k for the k-th image,"
        " video:k for the k-th video, frame:t for frame t of a video, turn:k, user:k, assistant:k and tool:k for turns,"
        " negative ones from the last). The positions of a word of the prompt are"
        f" prompt.find({name!r})." + nearest(name, NAMES)
    )


def _numbered(spec: tuple[Any, ...]) -> str | None:
    """``"image:k"`` of ``("image", k)``, and so with videos, frames and turns."""
    named = len(spec) == 2 and isinstance(spec[0], str) and spec[0] in ("image", "video", "frame", *KINDS)
    return f"{spec[0]}:{spec[1]}" if named and type(spec[1]) is int else None


def _is_bool(values: Tensor | np.ndarray) -> bool:
    return values.dtype in (torch.bool, np.dtype(bool))


def _nested_bools(spec: list[Any]) -> bool:
    return bool(spec) and all(type(i) is bool or (isinstance(i, list) and _nested_bools(i)) for i in spec)
