"""Caches on disk: one safetensors file with every tensor, the prompt whole, and where it comes from.

The tensors stand under their hook names; those of the prompt under ``prompt.…`` (its inputs, its token map, its
pictures and videos as RGB). What is no tensor is JSON in the file's metadata.
"""

from __future__ import annotations

import importlib.metadata
import json
import os
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image
from torch import Tensor, nn

from lostattn.errors import InputError, UnknownName
from lostattn.files import read_tensors, write_tensors
from lostattn.pictures.patch_grid import Grid, PatchGrid, TiledGrid, UnknownGrid
from lostattn.pictures.videos import Video
from lostattn.plan.encoding import decode, encode
from lostattn.plan.intervention import Intervention
from lostattn.points.hooked_model import HookedModel
from lostattn.prompt.batch import Prompt
from lostattn.prompt.cross_keys import CrossKeys
from lostattn.prompt.token_map import TokenMap
from lostattn.weights.digest import digest_of, is_of

FORMAT = "lostattn.ActivationCache/1"
_MAPS = ("part", "image_index", "patch_index")
_PACKAGES = ("lostattn", "torch", "transformers", "nnsight")


@dataclass(frozen=True, eq=False)
class SavedCache:
    """All that a file knows of a cache: what was kept by name, which points can be looked up, and where it is from."""

    kept: dict[str, Any]
    names: tuple[str, ...]
    prompt: Prompt | None = None
    meta: dict[str, Any] = field(default_factory=dict)
    has_batch_dim: bool = True
    interventions: Intervention | None = None


def write_cache(path: str | os.PathLike[str], cache: SavedCache, model: nn.Module, extra: Mapping[str, Any]) -> Path:
    """Write a cache; see :meth:`lostattn.cache.ActivationCache.save`. An interrupted write leaves nothing behind.

    Raises:
        InputError: the folder cannot be written to, or ``extra`` holds what JSON cannot.
    """
    tensors, geometry = _flat(cache.kept)
    meta = {**_origin(model), **cache.meta, **{name: _plain(value) for name, value in extra.items()}}
    if cache.interventions is not None:
        meta.setdefault("interventions", cache.interventions.to_dict())
    if "interventions" in meta:
        meta["interventions"] = _apart(meta["interventions"], tensors)
    held: dict[str, Any] = {
        "format": FORMAT,
        "names": cache.names,
        "geometry": geometry,
        "has_batch_dim": cache.has_batch_dim,
        "meta": meta,
        "weights": digest_of(model),
        "prompt": None if cache.prompt is None else _prompt_out(cache.prompt, tensors),
    }
    return write_tensors(path, tensors, held)


def read_cache(path: str | os.PathLike[str], model: HookedModel) -> SavedCache:
    """Read a cache; see :meth:`lostattn.cache.ActivationCache.load`."""
    tensors, held = read_tensors(path, FORMAT, "an activation cache")
    if not is_of(held["weights"], model.hf):
        raise InputError(
            f"{str(path)!r} was made with the weights of {held['meta'].get('model')!r}, which are not those of "
            f"{model.name!r}; load the model that it was made with."
        )
    prompt = None if held["prompt"] is None else _prompt_in(held["prompt"], tensors)
    meta = held["meta"]
    if "interventions" in meta:
        meta["interventions"] = _together(meta["interventions"], tensors)
    beside = ("prompt.", "interventions.")
    kept: dict[str, Any] = {n: t for n, t in tensors.items() if not n.startswith(beside) and ".geometry/" not in n}
    kept |= {name: {"mask": None, "lengths": None, **plain} for name, plain in held["geometry"].items()}
    for spelled, tensor in tensors.items():
        name, inside, part = spelled.partition(".geometry/")
        if inside:
            kept[f"{name}.geometry"][part] = tensor
    return SavedCache(kept, tuple(held["names"]), prompt, meta, held["has_batch_dim"], _known(meta))


def _apart(written: Any, tensors: dict[str, Tensor]) -> Any:
    """An intervention's JSON with its tensors put among the file's own: metadata has room for words alone."""
    if isinstance(written, dict) and set(written) == {"tensor"}:
        name = f"interventions.{sum(n.startswith('interventions.') for n in tensors)}"
        tensors[name] = decode(written, {})
        return {"tensor": {"name": name}}
    if isinstance(written, dict):
        return {key: _apart(part, tensors) for key, part in written.items()}
    return [_apart(part, tensors) for part in written] if isinstance(written, list) else written


def _known(meta: Mapping[str, Any]) -> Intervention | None:
    """What a pass ran under, where that is an intervention that is defined here."""
    written = meta.get("interventions")
    if not isinstance(written, dict) or "type" not in written:
        return None
    try:
        return Intervention.from_json(json.dumps(written))
    except UnknownName:  # one of somebody's own: its JSON stays in the metadata
        return None


def _together(written: Any, tensors: Mapping[str, Tensor]) -> Any:
    """The JSON that :func:`_apart` took apart."""
    if isinstance(written, dict) and isinstance(found := written.get("tensor"), dict):
        return encode(tensors[found["name"]])
    if isinstance(written, dict):
        return {key: _together(part, tensors) for key, part in written.items()}
    return [_together(part, tensors) for part in written] if isinstance(written, list) else written


def _origin(model: Any) -> dict[str, Any]:
    config = model.config
    name = str(getattr(config, "_name_or_path", "") or type(model).__name__)
    return {
        # Of a folder its last part: the rest says where this machine keeps things.
        "model": Path(name).name if os.path.isabs(name) else name,
        "revision": getattr(config, "_commit_hash", None),
        "class": type(model).__name__,
        "dtype": str(next(model.parameters()).dtype).removeprefix("torch."),
        "versions": {name: importlib.metadata.version(name) for name in _PACKAGES},
    }


def _plain(value: Any) -> Any:
    """An intervention as its JSON; everything else as it is."""
    return value.to_dict() if hasattr(value, "to_dict") else value


def _flat(kept: Mapping[str, Any]) -> tuple[dict[str, Tensor], dict[str, dict[str, Any]]]:
    """The tensors by name, and what of each attention call's geometry is no tensor."""
    tensors: dict[str, Tensor] = {}
    geometry: dict[str, dict[str, Any]] = {}
    for name, value in kept.items():
        if isinstance(value, dict):
            geometry[name] = {k: part for k, part in value.items() if part is not None and not isinstance(part, Tensor)}
            tensors |= {f"{name}/{k}": part for k, part in value.items() if isinstance(part, Tensor)}
        else:
            tensors[name] = value
    return tensors, geometry


def _prompt_out(prompt: Prompt, tensors: dict[str, Tensor]) -> dict[str, Any]:
    """Put a prompt's tensors among the others; returns the rest of it."""
    tensors |= {f"prompt.inputs.{name}": value for name, value in prompt.inputs.items()}
    tensors |= {f"prompt.map.{name}": getattr(prompt.token_map, name) for name in _MAPS}
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
        "n_images": [len(own) for own in prompt.images],
        "videos": [[{"fps": v.fps, "seconds": v.seconds} for v in clips] for clips in prompt.videos],
        **{name: getattr(prompt, name) for name in ("texts", "ids", "str_tokens")},
    }


def _prompt_in(held: dict[str, Any], tensors: Mapping[str, Tensor]) -> Prompt:
    def tuples(value: Any) -> Any:
        return tuple(tuples(v) for v in value) if isinstance(value, list) else value

    def grid(fields: dict[str, Any]) -> Grid:
        known = fields.pop("known")
        held = {name: tuples(value) for name, value in fields.items()}
        if "tiles" in held:
            return TiledGrid(tuple(PatchGrid(**{n: tuples(v) for n, v in tile.items()}) for tile in fields["tiles"]))
        return PatchGrid(**held) if known else UnknownGrid(**held)

    grids = tuple(tuple(grid(fields) for fields in own) for own in held["grids"])
    maps = {name: tensors[f"prompt.map.{name}"] for name in _MAPS}
    inputs = {n.removeprefix("prompt.inputs."): t for n, t in tensors.items() if n.startswith("prompt.inputs.")}
    images = tuple(
        tuple(Image.fromarray(tensors[f"prompt.image.{i}.{k}"].numpy()) for k in range(n))
        for i, n in enumerate(held["n_images"])
    )
    keys = {name: tensors[f"prompt.cross.{name}"] for name in _MAPS if f"prompt.cross.{name}" in tensors}
    cross = CrossKeys(**keys) if keys else None
    part, image_index, patch_index = (maps[name] for name in _MAPS)
    token_map = TokenMap(part, image_index, patch_index, grids, tuples(held["located"]), cross)
    videos = tuple(
        tuple(
            Video(tensors[f"prompt.video.{i}.{k}"], when["fps"], tuples(when["seconds"])) for k, when in enumerate(own)
        )
        for i, own in enumerate(held.get("videos", ()))
    )
    texts, ids, words = (tuples(held[name]) for name in ("texts", "ids", "str_tokens"))
    return Prompt(inputs, token_map, texts, images, ids, words, videos=videos)
