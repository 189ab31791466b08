"""Caches on disk: one safetensors file with every tensor, the prompt whole, and where it comes from.

The tensors stand under their hook names; those of the prompt under ``prompt.…`` (its inputs, its token map, its
pictures and videos as RGB). What is no tensor is JSON in the file's metadata.
"""

from __future__ import annotations

import importlib.metadata
import json
import os
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from torch import Tensor, nn

from lostattn.cache.saved_prompt import PROMPT, prompt_in, prompt_out
from lostattn.errors import InputError, UnknownName
from lostattn.files import write_tensors
from lostattn.plan.encoding import decode, encode
from lostattn.plan.intervention import Intervention
from lostattn.points.hooked_model import HookedModel
from lostattn.prompt.batch import Prompt
from lostattn.saved.reading import told_where
from lostattn.saved.shape import NUMBER, MapOf, either, one_of
from lostattn.saved.tensors import read_tensors
from lostattn.weights.digest import digest_of, is_of

FORMAT = "lostattn.ActivationCache/1"
WHAT = "an activation cache"
_PACKAGES = ("lostattn", "torch", "transformers", "nnsight")
# Beside a kernel's tensors: how it was called. More may stand there.
_GEOMETRY = {"causal": either(bool, one_of("first")), "scaling?": NUMBER, "softcap?": either(None, NUMBER)}
_CACHE = {
    "names": [str],
    "geometry": MapOf(_GEOMETRY),
    "has_batch_dim": bool,
    "meta": {},
    "weights": str,
    "prompt": either(None, PROMPT),
}


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
        "prompt": None if cache.prompt is None else prompt_out(cache.prompt, tensors),
    }
    return write_tensors(path, tensors, held)


def read_cache(path: str | os.PathLike[str], model: HookedModel) -> SavedCache:
    """Read a cache; see :meth:`lostattn.cache.ActivationCache.load`.

    Raises:
        InputError: no such file, one that holds no cache, holds half of one, or one of another model.
    """
    tensors, held = read_tensors(path, FORMAT, WHAT, _CACHE)
    meta = held["meta"]
    if not is_of(held["weights"], model.hf):
        raise InputError(
            f"{str(path)!r} was made with the weights of {str(meta.get('model'))[:200]!r}, which are not those of "
            f"{model.name!r}; load the model that it was made with."
        )
    with told_where(path, "activation cache"):
        prompt = None if held["prompt"] is None else prompt_in(held["prompt"], tensors)
        if "interventions" in meta:
            meta["interventions"] = _together(meta["interventions"], tensors)
        kept = _kept(held["geometry"], tensors)
        check_points(kept, held["names"], model)
        return SavedCache(kept, tuple(held["names"]), prompt, meta, held["has_batch_dim"], _known(meta))


def _kept(geometry: Mapping[str, dict[str, Any]], tensors: Mapping[str, Tensor]) -> dict[str, Any]:
    """What a pass kept, of the tensors of a file and of what else its kernels were given."""
    beside = ("prompt.", "interventions.")
    kept: dict[str, Any] = {n: t for n, t in tensors.items() if not n.startswith(beside) and ".geometry/" not in n}
    kept |= {name: {"mask": None, "lengths": None, **plain} for name, plain in geometry.items()}
    for spelled, tensor in tensors.items():
        name, inside, part = spelled.partition(".geometry/")
        if not inside:
            continue
        if f"{name}.geometry" not in geometry:
            raise InputError(f"it has a tensor {spelled[:200]!r} and does not say how that kernel was called.")
        kept[f"{name}.geometry"][part] = tensor
    for name, parts in kept.items():
        if isinstance(parts, dict) and "scaling" not in parts:
            raise InputError(f"it does not say by what {name[:200]!r} scales its scores.")
    return kept


def check_points(kept: Mapping[str, Any], names: Iterable[str], model: HookedModel) -> None:
    """Whether every point that can be looked up is one of this model's, and what it is made of is there.

    Raises:
        InputError: it is not.
    """
    for name in names:
        if name not in model.hook_names and name not in model.sites.absent:
            raise InputError(f"it names {name[:200]!r}, which is no hook point of this model.")
        how = model.sites.derived.get(name)
        needs = [name] if how is None else [*how.needs]
        if how is not None and how.kind in ("attn_scores", "pattern"):
            needs.append(f"{name.rpartition('.')[0]}.geometry")
        missing = [need for need in needs if need not in kept]
        if name in kept:
            continue
        if missing:
            raise InputError(f"it names {name!r} and has no tensor {missing[0]!r}.")
        if how is not None and how.kind in ("attn_scores", "pattern"):
            _check_heads(name, *(kept[need] for need in how.needs))


def _check_heads(name: str, query: Any, key: Any) -> None:
    """Whether queries ``[batch, pos, head, d_head]`` and keys ``[batch, key, kv_head, d_head]`` are of one kernel."""
    shapes = [tuple(value.shape) if isinstance(value, Tensor) else () for value in (query, key)]
    if all(len(shape) == 4 for shape in shapes):
        (items, _, heads, size), (key_items, _, key_heads, key_size) = shapes
        if (
            size == key_size
            and key_heads
            and heads % key_heads == 0
            and (items == key_items or 1 in (items, key_items))
        ):
            return
    raise InputError(f"it makes {name!r} of queries {list(shapes[0])} and keys {list(shapes[1])}, which do not fit.")


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
        if not isinstance(name := found.get("name"), str) or name not in tensors:
            raise InputError(f"its interventions name a tensor {str(name)[:200]!r}, which is not there.")
        return encode(tensors[name])
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
