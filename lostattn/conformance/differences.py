"""In what the decoder layers of a model differ from each other, read off its modules.

Needs no weights. A tiny model of a family stands for the real one only where it differs in all of this too.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from torch import nn

from lostattn.architecture.structure import Architecture, Block
from lostattn.weights.kinds import widths

_WINDOWS = ("sliding_window", "attention_chunk_size", "window_size")
_KINDS = ("layer_type", "attention_type", "block_type", "layer_kind")
_ROTARY = ("use_rope", "use_rotary", "no_rope", "apply_rope", "rope_layer")


def differences(module: nn.Module, architecture: Architecture) -> dict[str, tuple[Any, ...]]:
    """What each decoder layer is, by name, where not all are alike: ``{"head size": (8, 16, 8, 16)}``.

    Args:
        module: the Hugging Face model, on any device.
        architecture: where its parts are.
    """
    blocks = architecture.stack.blocks
    layers = [module.get_submodule(block.path) for block in blocks]
    found: dict[str, tuple[Any, ...]] = {}
    for name, read in _READ.items():
        values = tuple(read(block, layer) for block, layer in zip(blocks, layers, strict=True))
        if len(set(values)) > 1:
            found[name] = values
    return found


def _first(layer: nn.Module, names: tuple[str, ...]) -> str:
    """What a layer's modules say under one of these names, as text."""
    for module in layer.modules():
        for name in names:
            value = module.__dict__.get(name)
            if isinstance(value, int | str):
                return str(value)
    return ""


def _mixer(block: Block, layer: nn.Module) -> str:
    path = block.attn.path if block.attn is not None else block.attn_out
    return type(layer.get_submodule(path.removeprefix(f"{block.path}."))).__name__ if path else ""


def _shares_keys(block: Block, layer: nn.Module) -> bool:
    return any(getattr(module, "is_kv_shared_layer", False) for module in layer.modules())


def _values_are_keys(block: Block, layer: nn.Module) -> bool:
    return any(module.__dict__.get("use_alternative_attention", False) for module in layer.modules())


def _experts(block: Block, layer: nn.Module) -> bool:
    kinds = [type(module).__name__ for module in layer.modules()]
    return any("expert" in kind.lower() or "moe" in kind.lower() for kind in kinds[1:])


def _width(block: Block, layer: nn.Module) -> int:
    if block.mlp_post is None:
        return 0
    return (widths(layer.get_submodule(block.mlp_post.removeprefix(f"{block.path}."))) or (0, 0))[0]


_READ: dict[str, Callable[[Block, nn.Module], Any]] = {
    "heads": lambda block, layer: block.attn and block.attn.n_heads,
    "key/value heads": lambda block, layer: block.attn and block.attn.n_key_value_heads,
    "head size": lambda block, layer: block.attn and block.attn.d_head,
    "what mixes positions": _mixer,
    "window": lambda block, layer: _first(layer, _WINDOWS),
    "layer type": lambda block, layer: _first(layer, _KINDS),
    "rotary embedding": lambda block, layer: _first(layer, _ROTARY),
    "shared keys": _shares_keys,
    "keys as values": _values_are_keys,
    "experts": _experts,
    "FFN width": _width,
    "cross-attention": lambda block, layer: block.crosses or block.cross is not None,
    "children": lambda block, layer: tuple(sorted(name for name, _ in layer.named_children())),
}
