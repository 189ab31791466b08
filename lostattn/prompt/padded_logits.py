"""The last real position of logits: a prompt made elsewhere may be padded behind its items, and so are its logits.

Batches that the toolkit makes are padded on the left, so an item's last row is the tensor's. Inputs made elsewhere
keep their columns, and so do their logits: row `i` is position `i`. What reads an answer off them must know where each
item ends, so such logits carry it; nothing else about them is other than a tensor.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor

from lostattn.prompt.batch import Prompt

_KEEPING = frozenset(
    "to type float double half bfloat16 cpu cuda detach clone contiguous requires_grad_ log_softmax softmax".split()
)  # what changes no row's place


class PaddedLogits(Tensor):
    """Logits ``[batch, pos, d_vocab]`` of items some of which end before the last column.

    Where an item ends stays known through changes of type and device, and for a choice of items; what else is made of
    them is a plain tensor.
    """

    ends: tuple[int, ...]

    @classmethod
    def __torch_function__(
        cls, func: Callable[..., Any], types: Any, args: Sequence[Any] = (), kwargs: Mapping[str, Any] | None = None
    ) -> Any:
        """The plain function of the tensors, and where items end in what it gives."""
        with torch._C.DisableTorchFunctionSubclass():
            out = func(*args, **(kwargs or {}))
        ends = getattr(args[0], "ends", None) if args else None
        if not isinstance(out, Tensor) or ends is None or out is args[0]:
            return out
        name = getattr(func, "__name__", "")
        if name == "__getitem__":
            ends = _chosen(ends, args[1]) if out.dim() == 3 else None
        elif name not in _KEEPING:
            ends = None
        return out if ends is None else with_ends(out, ends)


def _chosen(ends: tuple[int, ...], index: Any) -> tuple[int, ...] | None:
    """Where the chosen items end; None where something else than items is chosen."""
    if isinstance(index, (slice, list)) or (isinstance(index, Tensor) and index.dim() == 1):
        return tuple(torch.tensor(ends)[index.cpu() if isinstance(index, Tensor) else index].tolist())
    return ends if index is Ellipsis else None


def padded_ends(prompt: Prompt) -> tuple[int, ...]:
    """The column of each item's last real position; empty where that is the last column of all of them."""
    real = prompt.token_map.real
    if bool(real[:, -1].all()):
        return ()
    return tuple((real.shape[1] - 1 - real.flip(-1).int().argmax(-1)).tolist())


def with_ends(logits: Float[Tensor, "batch pos d_vocab"], ends: Sequence[int]) -> Float[Tensor, "batch pos d_vocab"]:
    """Logits that know where their items end; as they are where the tensor's last row is every item's."""
    if not ends or max(ends) >= logits.shape[1]:
        return logits
    told = logits.as_subclass(PaddedLogits)
    told.ends = tuple(ends)
    return told


def ending_last(logits: Float[Tensor, "batch pos d_vocab"]) -> Float[Tensor, "batch pos d_vocab"]:
    """The logits padded on the left, as those of the toolkit's own batches: each item's last row is the tensor's."""
    if not isinstance(logits, PaddedLogits):
        return logits
    ends, n = torch.tensor(logits.ends, device=logits.device), logits.shape[1]
    rows = (torch.arange(n, device=logits.device) + ends[:, None] + 1) % n
    return logits.as_subclass(Tensor)[torch.arange(len(rows), device=logits.device)[:, None], rows]


def last_rows(logits: Float[Tensor, "batch pos d_vocab"]) -> Float[Tensor, "batch d_vocab"]:
    """The row of each item's last real position."""
    if not isinstance(logits, PaddedLogits):
        return logits[:, -1]
    items = torch.arange(len(logits), device=logits.device)
    return logits.as_subclass(Tensor)[items, torch.tensor(logits.ends, device=logits.device)]
