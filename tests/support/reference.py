"""Independent references: plain torch hooks on bare Hugging Face models, and attention written out in the test.

Nothing here uses lostattn. ``written_out`` is an attention function of our own that transformers calls under every
model; it computes scores and patterns by their definitions, remembers them, and puts edited ones in their place.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor
from transformers import AttentionInterface
from transformers.integrations.sdpa_attention import sdpa_attention_forward
from transformers.masking_utils import AttentionMaskInterface, eager_mask, sdpa_mask

EAGER, SPY = "written_out", "sdpa_seen"


@dataclass
class Seen:
    """The calls of the attention interface of one run, by attention module path, in order."""

    paths: dict[int, str]
    calls: dict[str, list[dict[str, Any]]] = field(default_factory=dict)
    # path -> (edit of scores, edit of pattern); each is called with (rows, number of the call) or is None.
    edits: dict[str, tuple[Callable[..., Tensor] | None, Callable[..., Tensor] | None]] = field(default_factory=dict)

    def joined(self, path: str, what: str) -> Tensor:
        """A call's tensor; the calls of a windowed tower laid end to end."""
        return torch.cat([call[what] for call in self.calls[path]], dim=2)


_active: list[Seen] = []


def _note(module: Any, **values: Any) -> tuple[str, int]:
    path = _active[-1].paths[id(module)]
    calls = _active[-1].calls.setdefault(path, [])
    calls.append(values)
    return path, len(calls) - 1


def _spy(module, query, key, value, attention_mask, **keywords):
    _note(module, query=query, key=key, value=value, mask=attention_mask, scaling=keywords["scaling"])
    return sdpa_attention_forward(module, query, key, value, attention_mask, **keywords)


def _written_out(module, query, key, value, attention_mask, scaling, **keywords):
    repeats = query.shape[1] // key.shape[1]
    keys, values = key.repeat_interleave(repeats, dim=1), value.repeat_interleave(repeats, dim=1)
    scores = (query.float() @ keys.float().transpose(-1, -2)) * scaling
    if attention_mask is not None:
        hidden = attention_mask[:, :, :, : key.shape[-2]] < -1e4
        scores = scores.masked_fill(hidden, float("-inf"))
    path, number = _note(module, scores=scores, value=value)
    edit_scores, edit_pattern = _active[-1].edits.get(path, (None, None))
    if edit_scores is not None:
        scores = edit_scores(scores.clone(), number)
    pattern = torch.softmax(scores, dim=-1).nan_to_num(0.0)
    if edit_pattern is not None:
        pattern = edit_pattern(pattern.clone(), number)
    _active[-1].calls[path][-1]["pattern"] = pattern
    out = (pattern.to(values.dtype) @ values).transpose(1, 2).contiguous()
    return out, pattern


AttentionInterface.register(EAGER, _written_out)
AttentionMaskInterface.register(EAGER, eager_mask)
AttentionInterface.register(SPY, _spy)
AttentionMaskInterface.register(SPY, sdpa_mask)


@contextmanager
def watched(model: Any, edits: dict[str, Any] | None = None) -> Iterator[Seen]:
    """Watch (and edit) the attention calls of a model whose kernel is ``EAGER`` or ``SPY``."""
    seen = Seen({id(module): path for path, module in model.named_modules()}, edits=edits or {})
    _active.append(seen)
    try:
        with torch.no_grad():
            yield seen
    finally:
        _active.pop()


def logits_of(model: Any, inputs: dict[str, Tensor], edits: dict[str, Any] | None = None) -> Tensor:
    """The logits of one pass of a model whose kernel is ``EAGER``, under edits of scores and patterns."""
    with watched(model, edits):
        return model(**inputs, use_cache=False).logits


def tensors_of(model: Any, points: dict[str, tuple[str, str]], inputs: dict[str, Tensor]) -> dict[str, Tensor]:
    """Module inputs and outputs by name, caught by plain torch hooks: ``points`` is name -> (path, port)."""
    caught: dict[str, Tensor] = {}
    handles = []

    def first(value: Any) -> Tensor:
        return (value if isinstance(value, Tensor) else value[0]).detach().clone()

    for name, (path, port) in points.items():
        module = model.get_submodule(path)
        if port == "input":

            def pre(module, args, kwargs, name=name):
                caught[name] = first(args[0] if args else next(iter(kwargs.values())))

            handles.append(module.register_forward_pre_hook(pre, with_kwargs=True))
        else:

            def post(module, args, output, name=name):
                caught[name] = first(output)

            handles.append(module.register_forward_hook(post))
    try:
        with torch.no_grad():
            caught["logits"] = model(**inputs, use_cache=False).logits
    finally:
        for handle in handles:
            handle.remove()
    return caught
