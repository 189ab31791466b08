"""The last real position of logits: a prompt made elsewhere may be padded behind its items, and so are its logits.

Batches that the toolkit makes are padded on the left, so an item's last row is the tensor's. Inputs made elsewhere
keep their columns, and so do their logits: row `i` is position `i`. What reads an answer off them must know where each
item ends, so such logits carry it; nothing else about them is other than a tensor.
"""

from __future__ import annotations

import copy
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor

from lostattn.errors import InputError
from lostattn.prompt.batch import Prompt

_KEEPING = frozenset(
    "to type float double half bfloat16 cpu cuda detach clone contiguous requires_grad_ log_softmax softmax "
    "add sub subtract mul multiply div divide true_divide __rsub__ __rdiv__ __rtruediv__ rsub neg negative "
    "exp log abs tanh sigmoid clamp nan_to_num masked_fill where".split()
)  # what changes no row's place
_JOINING = frozenset(("cat", "concat", "concatenate", "vstack", "row_stack"))
_PARTING = frozenset(("split", "split_with_sizes", "chunk", "tensor_split"))


class PaddedLogits(Tensor):
    """Logits ``[batch, pos, d_vocab]`` of items some of which end before the last column.

    Where an item ends stays known through changes of type and device, through arithmetic element by element, for a
    choice of items, and where batches are joined or parted along their items; what else is made of them is a plain
    tensor, whose rows are the columns of the inputs.
    """

    ends: tuple[int, ...]

    @classmethod
    def __torch_function__(
        cls, func: Callable[..., Any], types: Any, args: Sequence[Any] = (), kwargs: Mapping[str, Any] | None = None
    ) -> Any:
        """The plain function of the tensors, and where items end in what it gives."""
        keywords = dict(kwargs or {})
        with torch._C.DisableTorchFunctionSubclass():
            out = func(*args, **keywords)
        name = getattr(func, "__name__", "")
        if name in _JOINING:
            return _joined(out, args, keywords)
        if name in _PARTING:
            return _parted(out, args)
        first = next((one for one in args if isinstance(one, PaddedLogits)), None)
        ends = getattr(first, "ends", None)
        if first is None or not isinstance(out, Tensor) or ends is None or out is first:
            return out
        if name == "__getitem__":
            ends = _chosen(ends, args[1]) if out.dim() == 3 else None
        elif name == "index_select":
            ends = _chosen(ends, args[2]) if len(args) == 3 and args[1] == 0 else None
        elif name not in _KEEPING or out.shape[:2] != first.shape[:2]:
            ends = None
        else:
            _check_same_ends(args, ends)
        return out if ends is None else with_ends(out, ends)

    def __deepcopy__(self, memo: Any) -> Tensor:
        return with_ends(copy.deepcopy(self.as_subclass(Tensor), memo), self.ends)


torch.serialization.add_safe_globals([PaddedLogits])  # so that torch.load reads them back where this was imported


def _chosen(ends: tuple[int, ...], index: Any) -> tuple[int, ...] | None:
    """Where the chosen items end; None where something else than items is chosen."""
    if isinstance(index, tuple):  # of all columns, some of the vocabulary
        if index[:1] == (Ellipsis,):
            return ends if len(index) < 3 else None
        whole = len(index) == 1 or index[1] is Ellipsis or (isinstance(index[1], slice) and index[1] == slice(None))
        return _chosen(ends, index[0]) if index and whole and len(index) <= 3 else None
    if isinstance(index, (slice, list)) or (isinstance(index, Tensor) and index.dim() == 1):
        return tuple(torch.tensor(ends)[index.cpu() if isinstance(index, Tensor) else index].tolist())
    return ends if index is Ellipsis else None


def _check_same_ends(args: Sequence[Any], ends: tuple[int, ...]) -> None:
    """Refuse arithmetic of rows that are the last ones of some logits and padding of others.

    Raises:
        InputError: with where the items end.
    """
    for other in args:
        if isinstance(other, PaddedLogits) and other.ends != ends:
            raise InputError(
                f"these logits are of prompts padded in different columns: their items end at {list(ends)} and at "
                f"{list(other.ends)}. Take the rows to be compared first, or pad both prompts alike."
            )


def _joined(out: Tensor, args: Sequence[Any], keywords: Mapping[str, Any]) -> Tensor:
    """Batches one after another: each item ends where it ended, that of a plain tensor in its last column."""
    parts = args[0] if args else keywords["tensors"]
    dim = args[1] if len(args) > 1 else keywords.get("dim", keywords.get("axis", 0))
    if dim not in (0, -3) or out.dim() != 3:
        return out
    last = out.shape[1] - 1
    return with_ends(out, [end for part in parts for end in getattr(part, "ends", None) or [last] * len(part)])


def _parted(out: Any, args: Sequence[Any]) -> Any:
    """A batch cut into some of its items each."""
    ends: Sequence[int] = getattr(args[0], "ends", ())
    if not ends or sum(len(part) for part in out) != len(ends):
        return out
    starts = [sum(len(part) for part in out[:i]) for i in range(len(out))]
    return tuple(with_ends(part, ends[start : start + len(part)]) for part, start in zip(out, starts, strict=True))


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
