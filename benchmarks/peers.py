"""What straightforward code and other libraries do for the same result."""

from __future__ import annotations

import math
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor


@torch.no_grad()
def bare(model: Any, inputs: dict[str, Tensor]) -> Tensor:
    """The untouched Hugging Face forward: the floor."""
    return model(**inputs, use_cache=False).logits


@torch.no_grad()
def hand_hooks(model: Any, inputs: dict[str, Tensor]) -> dict[str, Tensor]:
    """Hand-written torch hooks at the three residual points of every layer."""
    kept: dict[str, Tensor] = {}
    handles = []

    def before(name: str) -> Any:
        return lambda module, args: kept.__setitem__(name, args[0])

    def after(name: str) -> Any:
        return lambda module, args, out: kept.__setitem__(name, out[0] if isinstance(out, tuple) else out)

    for i, layer in enumerate(model.model.language_model.layers):
        handles.append(layer.register_forward_pre_hook(before(f"pre{i}")))
        handles.append(layer.post_attention_layernorm.register_forward_pre_hook(before(f"mid{i}")))
        handles.append(layer.register_forward_hook(after(f"post{i}")))
    try:
        model(**inputs, use_cache=False)
    finally:
        for handle in handles:
            handle.remove()
    return kept


def plain_nnsight(wrapped: Any, inputs: dict[str, Tensor]) -> list[Any]:
    """The same points read in a plain nnsight trace."""
    import nnsight

    with torch.no_grad(), wrapped.trace(**inputs, use_cache=False):
        kept = nnsight.save([])
        for layer in wrapped.model.language_model.layers:
            kept.append(layer.input)
            kept.append(layer.post_attention_layernorm.input)
            kept.append(layer.output)
    return kept


def bridge_points(bridge: Any, inputs: dict[str, Tensor], names: list[str]) -> Any:
    """TransformerBridge caching the named points."""
    rest = {key: value for key, value in inputs.items() if key != "input_ids"}
    with torch.no_grad():
        return bridge.run_with_cache(inputs["input_ids"], names_filter=lambda name: name in names, **rest)


@contextmanager
def eager_edit(columns: Tensor) -> Iterator[None]:
    """Uniform attention of the last row over ``columns [key]``, keeping its mass, written into the eager softmax."""
    from transformers.models.llama import modeling_llama

    original = modeling_llama.eager_attention_forward

    def edited(module: Any, query: Tensor, key: Tensor, value: Tensor, mask: Any, scaling: float, **rest: Any) -> Any:
        scores = query @ key.transpose(2, 3) * scaling
        weights = torch.softmax(scores if mask is None else scores + mask, -1, dtype=torch.float32).to(query.dtype)
        own = weights[:, :, -1]
        chosen = torch.zeros(own.shape[-1], dtype=torch.bool)
        chosen[: len(columns)] = columns[: own.shape[-1]]
        mass = own[..., chosen].sum(-1, keepdim=True)
        own[..., chosen] = mass / chosen.sum()
        return (weights @ value).transpose(1, 2).contiguous(), weights

    modeling_llama.eager_attention_forward = edited
    try:
        yield
    finally:
        modeling_llama.eager_attention_forward = original


def textbook_metrics(states: list[Tensor]) -> list[tuple[float, float]]:
    """RID and MixIG of every update by full SVDs in float32, each update on its own, as one would write them down."""
    out = []
    for before, after in zip(states[:-1], states[1:], strict=True):
        u, s, vh = torch.linalg.svd(before, full_matrices=False)
        rank = int((s > max(before.shape) * torch.finfo(s.dtype).eps * s[0]).sum())
        u, vh = u[:, :rank], vh[:rank]
        column = (after - u @ (u.T @ after)).norm()
        row = (after - (after @ vh.T) @ vh).norm()
        spectral = abs(_effective_rank(after) - _effective_rank(before)) / min(before.shape)
        rid = spectral + float(column + row) / (2 * float(after.norm()))
        out.append((rid, _mixing(after) - _mixing(before)))
    return out


def _effective_rank(x: Tensor) -> float:
    s = torch.linalg.svdvals(x)
    p = s / s.sum()
    return math.exp(-float((p * p.clamp_min(1e-30).log()).sum()))


def _mixing(x: Tensor) -> float:
    rows = x / x.norm(dim=-1, keepdim=True)
    p = (rows @ rows.T + 1) / 2
    p = p / p.sum(-1, keepdim=True)
    return -float((p * p.clamp_min(1e-30).log()).sum(-1).mean())
