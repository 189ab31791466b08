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
    """Uniform attention of the last row over ``columns [key]``, keeping its mass, written into the eager softmax.

    The leanest form: the row is changed in place, and what eager would only pass through (dropout) is left out.
    """
    from transformers.models.llama import modeling_llama

    original = modeling_llama.eager_attention_forward

    def edited(module: Any, query: Tensor, key: Tensor, value: Tensor, mask: Any, scaling: float, **rest: Any) -> Any:
        key, value = (modeling_llama.repeat_kv(x, module.num_key_value_groups) for x in (key, value))
        scores = query @ key.transpose(2, 3) * scaling
        weights = torch.softmax(scores if mask is None else scores + mask, -1, dtype=torch.float32).to(query.dtype)
        weights[:, :, -1] = _uniform(weights[:, :, -1], columns)
        return (weights @ value).transpose(1, 2).contiguous(), weights

    modeling_llama.eager_attention_forward = edited
    try:
        yield
    finally:
        modeling_llama.eager_attention_forward = original


@contextmanager
def hand_edit(columns: Tensor) -> Iterator[None]:
    """The same edit written by hand around the sdpa kernel: the last row is computed anew and put over its own."""
    from transformers.modeling_utils import ALL_ATTENTION_FUNCTIONS
    from transformers.models.llama.modeling_llama import LlamaAttention

    kernel = ALL_ATTENTION_FUNCTIONS["sdpa"]

    def edited(module: Any, query: Tensor, key: Tensor, value: Tensor, mask: Any, scaling: float, **rest: Any) -> Any:
        out, weights = kernel(module, query, key, value, mask, scaling=scaling, **rest)
        if isinstance(module, LlamaAttention):
            out[:, -1] = _last_row(query, key, value, scaling, columns)
        return out, weights

    ALL_ATTENTION_FUNCTIONS["sdpa"] = edited
    try:
        yield
    finally:
        del ALL_ATTENTION_FUNCTIONS["sdpa"]


def nnsight_edit(wrapped: Any, inputs: dict[str, Tensor], columns: Tensor) -> Tensor:
    """The same edit in a plain nnsight trace, at the call of the attention interface."""
    import nnsight

    with torch.no_grad(), wrapped.trace(**inputs, use_cache=False):
        for layer in wrapped.model.language_model.layers:
            call = layer.self_attn.source.attention_interface_1
            (_, query, key, value, *_), keywords = call.inputs
            row = _last_row(query, key, value, keywords["scaling"], columns)
            out, weights = call.output
            out[:, -1] = row
            call.output = (out, weights)
        logits = nnsight.save(wrapped.output.logits)
    return logits


def _last_row(query: Tensor, key: Tensor, value: Tensor, scaling: float, columns: Tensor) -> Tensor:
    """``[batch, head, d_head]``: what the last row reads under the edit; it sees every key."""
    spread = query.shape[1] // key.shape[1]
    key, value = (x.repeat_interleave(spread, 1) if spread > 1 else x for x in (key, value))
    weights = torch.softmax(query[:, :, -1:] @ key.transpose(2, 3) * scaling, -1, dtype=torch.float32)
    return (_uniform(weights, columns).to(value.dtype) @ value)[:, :, 0]


def _uniform(weights: Tensor, columns: Tensor) -> Tensor:
    chosen = torch.zeros(weights.shape[-1], dtype=torch.bool, device=weights.device)
    chosen[: len(columns)] = columns  # what has been generated since is no picture
    mass = weights[..., chosen].sum(-1, keepdim=True)
    return torch.where(chosen, mass / chosen.sum(), weights)


def textbook_metrics(states: list[Tensor]) -> dict[str, Tensor]:
    """RID and MixIG of every update by full SVDs, each update on its own, as one would write them down.

    In the dtype of the states. Returns ``rid`` and ``mixig [update]``, and ``mixing``, the entropies that MixIG is the
    difference of, ``[update]``.
    """
    rids, gains, mixings = [], [], []
    for before, after in zip(states[:-1], states[1:], strict=True):
        u, s, vh = torch.linalg.svd(before, full_matrices=False)
        rank = int((s > max(before.shape) * torch.finfo(torch.float32).eps * s[0]).sum())
        u, vh = u[:, :rank], vh[:rank]
        column = (after - u @ (u.T @ after)).norm()
        row = (after - (after @ vh.T) @ vh).norm()
        spectral = abs(_effective_rank(after) - _effective_rank(before)) / min(before.shape)
        rids.append(spectral + float(column + row) / (2 * float(after.norm())))
        mixings.append(_mixing(after))
        gains.append(mixings[-1] - _mixing(before))
    kinds = {"rid": rids, "mixig": gains, "mixing": mixings}
    return {name: torch.tensor(values, dtype=torch.float64) for name, values in kinds.items()}


def _effective_rank(x: Tensor) -> float:
    s = torch.linalg.svdvals(x)
    p = s / s.sum()
    return math.exp(-float((p * p.clamp_min(1e-30).log()).sum()))


def _mixing(x: Tensor) -> float:
    rows = x / x.norm(dim=-1, keepdim=True)
    p = (rows @ rows.T + 1) / 2
    p = p / p.sum(-1, keepdim=True)
    return -float((p * p.clamp_min(1e-30).log()).sum(-1).mean())
