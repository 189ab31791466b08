"""A family at its class's own default config: resolved on the meta device, without weights, and checked there."""

from __future__ import annotations

from typing import Any

import torch
from torch import nn

from lostattn.architecture.call_order import calls_attention
from lostattn.architecture.structure import Attention
from lostattn.conformance.differences import differences
from lostattn.conformance.exceptions import CONFIG_CHANGES, DEFAULT_CHANGES, GIVEN
from lostattn.conformance.models import families, small_config
from lostattn.points.hooked_model import HookedModel
from lostattn.weights.kinds import widths


def default_config(family: str) -> tuple[Any, list[str]]:
    """The config that the family's class makes of nothing, and the paths of fields that had to be filled in.

    Fields that every checkpoint has and the defaults leave out (a map of the vocabulary) are those of the tiny model;
    where the defaults contradict themselves, those of `DEFAULT_CHANGES`.
    """
    from transformers import CONFIG_MAPPING

    kind: Any = CONFIG_MAPPING[family]
    data = kind(**GIVEN.get(family, {})).to_dict()
    filled = []
    stated = DEFAULT_CHANGES.get(family, {})
    for path, value in {**CONFIG_CHANGES.get(family, {}), **stated}.items():
        *outer, last = path.split(".")
        holder = data
        for name in outer:
            holder = holder.get(name) or {}
        if path in stated or (not stated and last in holder and holder[last] is None):
            holder[last] = value
            filled.append(path)
    return (kind.from_dict(data) if filled else kind(**GIVEN.get(family, {}))), filled


def on_meta(family: str, config: Any) -> Any:
    """The family's model of a config, without weights."""
    import transformers

    with torch.device("meta"):
        return getattr(transformers, families()[family])(config)


def amiss(model: HookedModel) -> list[str]:
    """What a resolved model says of its layers and their own modules do not bear out; empty where all agrees."""
    stack, names = model.architecture.stack, set(model.hook_names)
    said = []
    for i, block in enumerate(stack.blocks):
        layer = model.hf.get_submodule(block.path)
        calls = sum(calls_attention(module) for module in layer.modules())
        if bool(calls) != bool(block.attentions):
            said.append(f"layer {i} holds {calls} calls of the attention interface, {len(block.attentions)} are known")
        for name, attn in block.attentions.items():
            if f"blocks.{i}.{name}.hook_pattern" not in names:
                said.append(f"layer {i} has no pattern of {name}")
            said += [f"layer {i}, {name}: {one}" for one in _widths(model.hf, attn)]
    return said


def _widths(module: nn.Module, attn: Attention) -> list[str]:
    """Maps of an attention whose widths are not those of its heads."""
    said = []
    if attn.n_heads % attn.n_key_value_heads:
        said.append(f"{attn.n_heads} heads share {attn.n_key_value_heads} of keys")
    own = module.get_submodule(attn.path)
    groups = getattr(own, "num_key_value_groups", None)
    if isinstance(groups, int) and attn.n_heads != groups * attn.n_key_value_heads:
        said.append(f"the module has {groups} heads to each of keys")
    output = widths(module.get_submodule(attn.o)) if attn.o else None
    if output is not None and output[0] != attn.n_heads * attn.d_head:
        said.append(f"the output map takes {output[0]}, which is not {attn.n_heads} heads of {attn.d_head}")
    sizes = {}
    for letter, heads in (("q", attn.n_heads), ("k", attn.n_key_value_heads), ("v", attn.n_key_value_heads)):
        path = getattr(attn, letter)
        size = widths(module.get_submodule(path)) if path is not None else None
        if size is not None:
            sizes[letter] = size[1] / heads
    if "q" in sizes and "k" in sizes and sizes["q"] != sizes["k"]:
        said.append(f"heads of queries have {sizes['q']:g} numbers and those of keys {sizes['k']:g}")
    if any(size != int(size) for size in sizes.values()):
        said.append(f"the maps' widths are no multiples of their heads: {sizes}")
    return said


def ways(family: str, model: HookedModel) -> tuple[list[str], list[str]]:
    """In what the layers of a resolved model differ, and which of that the family's tiny model has not kept."""
    found = list(differences(model.hf, model.architecture))
    tiny = on_meta(family, small_config(family))
    kept = differences(tiny, HookedModel(tiny, None, family).architecture) if found else {}
    return found, [name for name in found if name not in kept]
