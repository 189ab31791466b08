"""The independent reference: a bare Hugging Face model, whose softmax is read and edited by hand.

Nothing here uses the toolkit. Every modeling file of transformers has an ``eager_attention_forward`` of its own, which
gives what it read and the weights of its softmax. Inside :func:`by_hand` that function is wrapped: the weights are
kept call by call, and where an edit is given, the change of the rows is multiplied with the values and added. Of a
model that runs another kernel, the same eager function tells the weights for the queries, keys and mask of each call.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, nn

EAGER = "eager_attention_forward"
HandEdit = Callable[[str, int, Tensor], Tensor]  # (module path, number of the call, weights) -> weights


@dataclass
class Seen:
    """What a run showed: the softmax of every attention module by call, ``[batch, head, query, key]``; the logits.

    ``values`` are what the weights are over, ``[batch, head, key, d]``. ``tokens`` are those of a generation, whoever
    ran one.
    """

    weights: dict[str, list[Tensor]] = field(default_factory=dict)
    values: dict[str, list[Tensor]] = field(default_factory=dict)
    logits: list[Tensor] = field(default_factory=list)
    tokens: Any = None


@contextmanager
def by_hand(model: Any, edit: HandEdit | None = None, unembed: str = "") -> Iterator[Seen]:
    """Read the attention of a bare model call by call, and edit it; see the module.

    Args:
        model: never wrapped by anything.
        edit: what becomes of the weights of a call.
        unembed: the module that gives the logits; that of the model itself where it is not said.
    """
    seen = Seen()
    paths = {id(module): path for path, module in model.named_modules()}
    spaces = {id(space): space for module in model.modules() if EAGER in (space := _names_of(module))}
    own = {number: space[EAGER] for number, space in spaces.items()}

    def note(module: Any, value: Tensor, out: Tensor, weights: Tensor) -> tuple[Tensor, Tensor]:
        path = paths[id(module)]
        calls = seen.weights.setdefault(path, [])
        new = weights if edit is None else edit(path, len(calls), weights)
        calls.append(new.detach().clone())
        seen.values.setdefault(path, []).append(value.detach().clone())
        if new is weights:
            return out, weights
        values = value.repeat_interleave(new.shape[1] // value.shape[1], dim=1)
        read = (new - weights).float() @ values.float()  # rounded once, as it is added
        return out + read.transpose(1, 2).reshape(out.shape).to(out.dtype), new

    hook = model.get_submodule(unembed).register_forward_hook(lambda *call: seen.logits.append(_logits(call[-1])))
    try:
        with torch.no_grad(), _kernels(own, note):
            for number, space in spaces.items():
                space[EAGER] = _noted(own[number], note)
            yield seen
    finally:
        hook.remove()
        for number, space in spaces.items():
            space[EAGER] = own[number]


def _logits(out: Any) -> Tensor:
    logits: Tensor = out if isinstance(out, Tensor) else out.logits
    return logits.detach().clone()


def _names_of(module: nn.Module) -> dict[str, Any]:
    """The names that a module's ``forward`` sees."""
    return getattr(type(module).forward, "__globals__", {})


def _noted(eager: Any, note: Any) -> Any:
    def wrapped(module: Any, query: Tensor, key: Tensor, value: Tensor, *arguments: Any, **keywords: Any) -> Any:
        out, weights = eager(module, query, key, value, *arguments, **keywords)
        return note(module, value, out, weights)

    return wrapped


@contextmanager
def _kernels(eager: dict[int, Any], note: Any) -> Iterator[None]:
    """Put the kernels other than eager under watch; ``eager`` is each modeling file's own function."""
    from transformers.modeling_utils import ALL_ATTENTION_FUNCTIONS

    before = {name: ALL_ATTENTION_FUNCTIONS[name] for name in ("sdpa", "flex_attention")}

    def watched(own: Any) -> Any:
        def kernel(
            module: Any, query: Tensor, key: Tensor, value: Tensor, attention_mask: Any = None, **keywords: Any
        ) -> Any:
            out, more = own(module, query, key, value, attention_mask, **keywords)
            added = _additive(module, query, key, attention_mask, keywords.pop("is_causal", None))
            if keywords.get("scaling") is None:
                keywords["scaling"] = query.shape[-1] ** -0.5
            weights = eager[id(_names_of(module))](module, query, key, value, added, **keywords)[1]
            return note(module, value, out, weights)[0], more

        return kernel

    try:
        for name, own in before.items():
            ALL_ATTENTION_FUNCTIONS[name] = watched(own)
        yield
    finally:
        for name, own in before.items():
            ALL_ATTENTION_FUNCTIONS[name] = own


def _additive(module: Any, query: Tensor, key: Tensor, mask: Any, causal: bool | None) -> Tensor | None:
    """The mask of another kernel as eager takes it: numbers to be added to the scores."""
    low = torch.finfo(query.dtype).min
    if mask is not None and not isinstance(mask, Tensor):  # of flex attention: blocks
        places = [(b, q, k) for b in range(len(query)) for q in range(query.shape[2]) for k in range(key.shape[2])]
        allowed = [bool(mask.mask_mod(*map(torch.tensor, (b, 0, q, k)))) for b, q, k in places]
        mask = torch.tensor(allowed).reshape(len(query), 1, query.shape[2], key.shape[2])
    if mask is not None and mask.dtype == torch.bool:
        return torch.zeros(mask.shape, dtype=query.dtype).masked_fill(~mask, low)
    if mask is None and query.shape[2] > 1 and (getattr(module, "is_causal", True) if causal is None else causal):
        return torch.full((query.shape[2], key.shape[2]), low, dtype=query.dtype).triu(1)[None, None]
    return mask
