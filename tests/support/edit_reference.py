"""Bare Hugging Face models under eager attention, with plain functions put into their softmax.

Nothing here goes through nnsight or the package's kernels: an edit is a function ``(rows, layer) -> rows`` on
``[batch, head, query, key]`` that is called where transformers' own eager attention has its scores and its weights.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn
from transformers import AutoModelForImageTextToText
from transformers.models.clip import modeling_clip
from transformers.models.llama import modeling_llama
from transformers.models.qwen2_5_vl import modeling_qwen2_5_vl

from lostattn import zoo

Rows = Callable[[Tensor, int], Tensor]
MODULES = (modeling_clip, modeling_llama, modeling_qwen2_5_vl)


def bare(name: str) -> Any:
    """A trained tiny model as transformers loads it, with eager attention."""
    return AutoModelForImageTextToText.from_pretrained(zoo.path(name), attn_implementation="eager").eval()


@contextmanager
def edited_attention(
    scores: Rows | None = None, weights: Rows | None = None, seen: list[Tensor] | None = None
) -> Iterator[None]:
    """Eager attention whose decoder rows go through ``scores`` and ``weights``; ``seen`` collects the tower's."""

    def attention(
        module: nn.Module, query: Tensor, key: Tensor, value: Tensor, mask: Tensor | None = None, **given: Any
    ) -> tuple[Tensor, Tensor]:
        mask = given.get("attention_mask", mask)
        groups = query.shape[1] // key.shape[1]
        key, value = key.repeat_interleave(groups, 1), value.repeat_interleave(groups, 1)
        rows = query @ key.transpose(2, 3) * given["scaling"]
        layer = getattr(module, "layer_idx", None)
        if mask is not None:
            rows = rows.masked_fill(~mask if mask.dtype == torch.bool else mask < -1e6, -torch.inf)
        if layer is not None and scores is not None:
            rows = scores(rows, layer)
        pattern = torch.nan_to_num(torch.softmax(rows, -1))
        if layer is not None and weights is not None:
            pattern = weights(pattern, layer)
        if layer is None and seen is not None:
            seen.append(pattern)
        return (pattern @ value).transpose(1, 2).contiguous(), pattern

    kept = [module.eager_attention_forward for module in MODULES]
    try:
        for module in MODULES:
            module.eager_attention_forward = attention
        yield
    finally:
        for module, own in zip(MODULES, kept, strict=True):
            module.eager_attention_forward = own


def logits(hf: Any, prompt: Any, scores: Rows | None = None, weights: Rows | None = None) -> Tensor:
    """The logits of one pass over a prompt."""
    with torch.no_grad(), edited_attention(scores, weights):
        return hf(**prompt.inputs, use_cache=False).logits


def extended(inputs: dict[str, Tensor], tokens: Tensor) -> dict[str, Tensor]:
    """A processor's output with generated tokens ``[batch, new]`` behind it."""
    out = dict(inputs)
    out["input_ids"] = torch.cat([inputs["input_ids"], tokens], 1)
    out["attention_mask"] = torch.cat([inputs["attention_mask"], torch.ones_like(tokens)], 1)
    if "mm_token_type_ids" in inputs:
        kinds = inputs["mm_token_type_ids"]
        out["mm_token_type_ids"] = torch.cat([kinds, torch.zeros_like(tokens, dtype=kinds.dtype)], 1)
    return out


def loop(
    hf: Any, prompt: Any, n_new: int, scores: Rows | None = None, weights: Rows | None = None
) -> tuple[Tensor, Tensor]:
    """Greedy generation without any cache: the whole sequence again for each token.

    Returns the tokens ``[batch, new]`` and the logits that chose them ``[batch, new, d_vocab]``.
    """
    tokens = prompt.inputs["input_ids"][:, :0]
    chosen = []
    with torch.no_grad(), edited_attention(scores, weights):
        for _ in range(n_new):
            chosen.append(hf(**extended(prompt.inputs, tokens), use_cache=False).logits[:, -1])
            tokens = torch.cat([tokens, chosen[-1].argmax(-1, keepdim=True)], 1)
    return tokens, torch.stack(chosen, 1)


class Forced:
    """A logits processor for ``generate`` that keeps what it is shown, and has the given tokens chosen."""

    def __init__(self, tokens: Tensor) -> None:
        self.tokens = tokens
        self.steps: list[Tensor] = []

    def __call__(self, input_ids: Tensor, scores: Tensor) -> Tensor:
        wanted = self.tokens[:, len(self.steps), None]
        self.steps.append(scores.clone())
        return torch.full_like(scores, -1e9).scatter(1, wanted, 0.0)


def generated(model: Any, prompt: Any, edit: Any, tokens: Tensor) -> Tensor:
    """The logits ``[batch, new, d_vocab]`` of every step of ``model.generate`` under an intervention.

    The same tokens are chosen as in the run that it is compared with, so that no tie leads the two apart.
    """
    forced = Forced(tokens)
    out = model.generate(
        prompt, interventions=edit, max_new_tokens=tokens.shape[1], eos_token_id=-1, logits_processor=[forced]
    )
    assert torch.equal(out.tokens, tokens)
    return torch.stack(forced.steps, 1)


def module_of(hf, layer: int, what: str):
    """The bare model's module, and whether its input or its output is the point."""
    block = hf.model.language_model.layers[layer]
    return {
        "attn": (block.self_attn, "output"),
        "mlp": (block.mlp, "output"),
        "head": (block.self_attn.o_proj, "input"),
        "resid": (block, "output"),
    }[what]
