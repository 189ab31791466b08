"""A prompt within the file of a cache: its tensors under ``prompt.…``, the rest of it as JSON."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict
from typing import Any

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from lostattn.errors import InputError
from lostattn.pictures.patch_grid import Grid, PatchGrid, TiledGrid, UnknownGrid
from lostattn.pictures.videos import Video
from lostattn.prompt.batch import Prompt
from lostattn.prompt.cross_keys import CrossKeys
from lostattn.prompt.parts import PARTS
from lostattn.prompt.token_map import TokenMap
from lostattn.prompt.turns import ROLES
from lostattn.saved.shape import COUNT, NUMBER, either, fixed, one_of, whole
from lostattn.saved.tensors import require_tensors

_MAPS = ("part", "image_index", "patch_index")
_TURNS = "prompt.map.turn_index"
_MOST_PATCHES = 1 << 24  # of one picture; what draws it asks for memory by it
_SIDE, _SIZE = whole(0, 1 << 16), either(None, fixed(COUNT, COUNT))
_REAL = ("covers", "x_edges", "y_edges")
_EDGES = [fixed(NUMBER, NUMBER)]
_PATCHES = {
    "rows": _SIDE,
    "cols": _SIDE,
    "frames?": _SIDE,
    "size?": _SIZE,
    "merge?": whole(1, 1 << 16),
    "covers?": either(None, fixed(NUMBER, NUMBER, NUMBER, NUMBER)),
    "note?": str,
    "role?": str,
    "place?": either(None, fixed(COUNT, COUNT)),
    "shown_frames?": [[COUNT]],
    "x_edges?": _EDGES,
    "y_edges?": _EDGES,
}
_UNKNOWN = {"reason": str, "size?": _SIZE, "resampler?": either(None, str), "is_video?": bool}
_GRID = either({"tiles": [_PATCHES]}, _UNKNOWN, _PATCHES)
PROMPT = {
    "grids": [[_GRID]],
    "located": [bool],
    "roles?": [[one_of(*ROLES)]],  # written since prompts have turns
    "n_images": [COUNT],
    "videos?": [[{"fps": either(None, NUMBER), "seconds": either(None, [NUMBER])}]],
    "texts": [str],
    "ids": [str],
    "str_tokens": [[str]],
}
"""The shape of what :func:`prompt_out` returns."""


def prompt_out(prompt: Prompt, tensors: dict[str, Tensor]) -> dict[str, Any]:
    """Put a prompt's tensors among the others; returns the rest of it."""
    tensors |= {f"prompt.inputs.{name}": value for name, value in prompt.inputs.items()}
    tensors |= {f"prompt.map.{name}": getattr(prompt.token_map, name) for name in _MAPS}
    if (turns := prompt.token_map.turn_index) is not None:
        tensors[_TURNS] = turns
    if (cross := prompt.token_map.cross) is not None:
        held = {name: getattr(cross, name) for name in _MAPS}
        tensors |= {f"prompt.cross.{name}": value for name, value in held.items() if value is not None}
    for i, own in enumerate(prompt.images):
        for k, picture in enumerate(own):
            tensors[f"prompt.image.{i}.{k}"] = torch.from_numpy(np.array(picture.convert("RGB")))
    for i, clips in enumerate(prompt.videos):
        tensors |= {f"prompt.video.{i}.{k}": torch.from_numpy(video.array()) for k, video in enumerate(clips)}
    grids = [[{"known": bool(g), **asdict(g)} for g in own] for own in prompt.token_map.grids]
    return {
        "grids": grids,
        "located": prompt.token_map.located,
        "roles": prompt.token_map.roles,
        "n_images": [len(own) for own in prompt.images],
        "videos": [[{"fps": v.fps, "seconds": v.seconds} for v in clips] for clips in prompt.videos],
        **{name: getattr(prompt, name) for name in ("texts", "ids", "str_tokens")},
    }


def prompt_in(held: Mapping[str, Any], tensors: Mapping[str, Tensor]) -> Prompt:
    """The prompt that :func:`prompt_out` took apart.

    Args:
        held: the rest of it, of the shape `PROMPT`.
        tensors: those of the file.

    Raises:
        InputError: a tensor is not there or has another shape, or the parts are of different prompts.
    """
    token_map = _token_map(held, tensors)
    n_items, n_pos = token_map.part.shape
    clips: Sequence[Any] = held.get("videos", [[]] * n_items)
    for name in ("n_images", "texts", "ids", "str_tokens", "videos"):
        own = clips if name == "videos" else held[name]
        if len(own) != n_items:
            raise InputError(f"{name} is of {len(own)} items, and the prompt's map of {n_items}.")
    if any(len(words) != n_pos for words in held["str_tokens"]):
        raise InputError(f"str_tokens names other tokens than the {n_pos} positions of the prompt's map.")
    inputs = {n.removeprefix("prompt.inputs."): t for n, t in tensors.items() if n.startswith("prompt.inputs.")}
    images = tuple(
        tuple(Image.fromarray(_pixels(f"prompt.image.{i}.{k}", tensors, 3).numpy()) for k in range(n))
        for i, n in enumerate(held["n_images"])
    )
    videos = tuple(
        tuple(
            Video(_pixels(f"prompt.video.{i}.{k}", tensors, 4), when["fps"], _tuples(when["seconds"]))
            for k, when in enumerate(own)
        )
        for i, own in enumerate(clips)
    )
    texts, ids, words = (_tuples(held[name]) for name in ("texts", "ids", "str_tokens"))
    return Prompt(inputs, token_map, texts, images, ids, words, videos=videos)


def _token_map(held: Mapping[str, Any], tensors: Mapping[str, Tensor]) -> TokenMap:
    grids = tuple(tuple(map(_grid, own)) for own in held["grids"])
    n_items = len(grids)
    if len(held["located"]) != n_items or not n_items:
        raise InputError(f"located is of {len(held['located'])} items, and grids of {n_items}.")
    maps = _maps("prompt.map", _MAPS, tensors, grids)
    own = [name for name in _MAPS if f"prompt.cross.{name}" in tensors]
    cross = CrossKeys(**_maps("prompt.cross", dict.fromkeys([*own, *_MAPS[1:]]), tensors, grids)) if own else None
    located, roles = _tuples(held["located"]), _tuples(held.get("roles", []))
    return TokenMap(
        **maps, grids=grids, located=located, cross=cross, turn_index=_turns(roles, maps, tensors), roles=roles
    )


def _turns(roles: Sequence[Sequence[str]], maps: Mapping[str, Tensor], tensors: Mapping[str, Tensor]) -> Tensor | None:
    """Which turn each position belongs to; None where the file knows nothing of turns."""
    if _TURNS not in tensors:
        return None
    require_tensors(tensors, {_TURNS: (tuple(maps["part"].shape), "whole")})
    turns = tensors[_TURNS]
    if len(roles) != len(turns):
        raise InputError(f"roles is of {len(roles)} items, and the prompt's map of {len(turns)}.")
    for i, own in enumerate(roles):
        if int(turns[i].min()) < -1 or int(turns[i].max()) > len(own) - 1:
            raise InputError(f"{_TURNS} of item {i} names what is not there: {len(own)} turns are known.")
    return turns


def _maps(
    prefix: str, names: Iterable[str], tensors: Mapping[str, Tensor], grids: Sequence[Sequence[Grid]]
) -> dict[str, Tensor]:
    """Maps of one shape that name parts, pictures and patches that there are."""
    first = tensors.get(f"{prefix}.{_MAPS[1]}")
    n_pos = first.shape[1] if first is not None and first.dim() == 2 else None
    require_tensors(tensors, {f"{prefix}.{name}": ((len(grids), n_pos), "whole") for name in names})
    maps = {name: tensors[f"{prefix}.{name}"] for name in names}
    if not n_pos:
        raise InputError(f"{prefix}.{_MAPS[1]} is a map of no positions.")
    for i, own in enumerate(grids):
        patches = max((len(grid) for grid in own if grid), default=0)
        ends = {"part": len(PARTS), "image_index": len(own), "patch_index": patches}
        for name, value in maps.items():
            low = 0 if name == "part" else -1
            if int(value[i].min()) < low or int(value[i].max()) >= max(ends[name], low + 1):
                raise InputError(f"{prefix}.{name} of item {i} names what is not there: {ends[name]} are known.")
    return maps


def _pixels(name: str, tensors: Mapping[str, Tensor], n_axes: int) -> Tensor:
    require_tensors(tensors, {name: ((*[None] * (n_axes - 1), 3), "pixel")})
    if 0 in tensors[name].shape:
        raise InputError(f"{name} has no pixels: its shape is {list(tensors[name].shape)}.")
    return tensors[name]


def _tuples(value: Any) -> Any:
    return tuple(map(_tuples, value)) if isinstance(value, list) else value


def _floats(value: Any) -> Any:
    return tuple(map(_floats, value)) if isinstance(value, tuple) else None if value is None else float(value)


def _grid(held: Mapping[str, Any]) -> Grid:
    if "tiles" in held:
        if not held["tiles"]:
            raise InputError("a picture that is cut into no tiles at all.")
        return TiledGrid(tuple(_patches(tile) for tile in held["tiles"]))
    if "reason" in held:
        return UnknownGrid(**_fields(held, _UNKNOWN))
    return _patches(held)


def _patches(held: Mapping[str, Any]) -> PatchGrid:
    fields = _fields(held, _PATCHES)
    grid = PatchGrid(**{**fields, **{name: _floats(fields[name]) for name in _REAL if name in fields}})
    edges = {"x_edges": grid.cols, "y_edges": grid.rows}
    odd = [name for name, n in edges.items() if getattr(grid, name) and len(getattr(grid, name)) != n]
    if odd or grid.frames * grid.rows * grid.cols > _MOST_PATCHES:
        raise InputError(f"a grid of {grid} whose {odd[0] if odd else 'patches are more than any picture has'}.")
    return grid


def _fields(held: Mapping[str, Any], shape: Mapping[str, Any]) -> dict[str, Any]:
    """What stands there of the fields of a shape."""
    names = [name.removesuffix("?") for name in shape]
    return {name: _tuples(held[name]) for name in names if name in held}
