"""The model's sizes, under TransformerLens' field names."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch

from lostattn.architecture.config_fields import one_for_all
from lostattn.architecture.structure import Architecture
from lostattn.weights.kinds import takes, widths


@dataclass(frozen=True)
class Config:
    """What ``model.cfg`` holds; sizes of the decoder unless a name says ``vision``.

    Where layers differ, ``n_heads``, ``n_key_value_heads`` and ``d_head`` are those of the layer that has the most, and
    ``heads_by_layer``, ``key_value_heads_by_layer`` and ``d_head_by_layer`` say them for each (0: no attention there).
    """

    model_name: str
    n_layers: int
    d_model: int
    n_heads: int
    n_key_value_heads: int
    d_head: int
    d_mlp: int
    d_vocab: int
    n_ctx: int | None
    heads_by_layer: tuple[int, ...]
    key_value_heads_by_layer: tuple[int, ...]
    d_head_by_layer: tuple[int, ...]
    n_vision_layers: int
    d_vision: int
    n_vision_heads: int
    attn_implementation: str
    dtype: torch.dtype
    device: str


def config_of(module: Any, architecture: Architecture, name: str) -> Config:
    """Read the sizes off a resolved model."""
    stack, vision = architecture.stack, architecture.vision
    text = module.config.get_text_config()
    head = module.get_submodule(architecture.unembed)
    device, dtype = takes(module, head)
    return Config(
        model_name=name,
        n_layers=len(stack.blocks),
        d_model=stack.d_model,
        n_heads=stack.n_heads,
        n_key_value_heads=stack.n_key_value_heads,
        d_head=stack.d_head,
        d_mlp=stack.d_mlp,
        d_vocab=(widths(head) or (0, text.vocab_size))[1],
        n_ctx=one_for_all(text, "max_position_embeddings"),
        heads_by_layer=stack.heads_by_layer,
        key_value_heads_by_layer=stack.key_value_heads_by_layer,
        d_head_by_layer=stack.d_head_by_layer,
        n_vision_layers=len(vision.stack.blocks) if vision else 0,
        d_vision=vision.stack.d_model if vision else 0,
        n_vision_heads=vision.stack.n_heads if vision else 0,
        attn_implementation=getattr(text, "_attn_implementation", None) or "eager",
        dtype=dtype,
        device=str(device),
    )
