"""A pass watched with plain hooks: when each module runs, in what shapes, and what it gives.

What was worked out from sources is checked against it. A point whose module does not run, runs several times, or holds
its positions in another layout than the stream is taken away, so that it is absent rather than wrong; the others are
put in the order in which they really come.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, nn

from lostattn.architecture.logit_path import LAST_ROWS, LogitPath, seen_logit_path
from lostattn.points.names import split_block
from lostattn.points.sites import Sites, Slot


@dataclass
class Seen:
    """What a pass showed: the times at which each module was entered and left, and the tensors of those asked for."""

    times: dict[tuple[str, str], list[int]] = field(default_factory=dict)
    shapes: dict[tuple[str, str], tuple[int, ...]] = field(default_factory=dict)
    tensors: dict[tuple[str, str], Tensor] = field(default_factory=dict)
    windowed: set[str] = field(default_factory=set)  # the modules that are told how to cut their sequence
    kept: set[str] = field(default_factory=set)  # the modules whose tensors are kept
    logits: Any = None
    clock: int = 0

    def note(self, path: str, port: str, value: Any, keep: bool, last: int | None = None) -> None:
        """One module entered (``input``) or left (``output``); of what is kept, perhaps the last rows alone."""
        self.clock += 1
        self.times.setdefault((path, port), []).append(self.clock)
        tensor = _tensor(value)
        if port == "input" and value[1].get("cu_seqlens") is not None:
            self.windowed.add(path)
        if tensor is not None:
            self.shapes[path, port] = tuple(tensor.shape)
            if keep:
                self.tensors[path, port] = (tensor if last is None else tensor[..., -last:, :]).detach().clone()


def watch(model: nn.Module, inputs: Mapping[str, Any], keep: set[str], head: str = "") -> Seen:
    """Run the bare model once. The tensors of the modules in ``keep`` are kept, of their inputs and outputs.

    Of ``head``, the unembedding, the last rows are kept.
    """
    with watching(model, keep, head) as seen, torch.no_grad():
        seen.logits = model(**inputs, use_cache=False).logits
    return seen


@contextmanager
def watching(model: nn.Module, keep: set[str], head: str = "") -> Iterator[Seen]:
    """What a pass shows that runs meanwhile. Under edits, inputs are those before, outputs those after them."""
    seen = Seen(kept=keep)
    handles = []
    for path, module in model.named_modules():
        kept, last = path in keep or path == head, LAST_ROWS if path == head else None
        handles += [
            module.register_forward_pre_hook(
                lambda _, args, kwargs, path=path, kept=kept, last=last: seen.note(
                    path, "input", (args, kwargs), kept, last
                ),
                with_kwargs=True,
            ),
            module.register_forward_hook(
                lambda _, args, out, path=path, kept=kept, last=last: seen.note(path, "output", out, kept, last),
            ),
        ]
    try:
        yield seen
    finally:
        for handle in handles:
            handle.remove()


def settle(sites: Sites, seen: Seen) -> Sites:
    """The hook points that the pass bears out, in its order."""

    tokens = seen.shapes.get((sites.architecture.embed, "output"), ())[:2]

    def why_not(slot: Slot) -> str:
        place = (slot.path, slot.port)
        runs = len(seen.times.get(place, ()))
        if runs != 1:
            return f"its module {slot.path} runs {runs} times in a pass"
        if slot.kind == "windows" and slot.path not in seen.windowed:
            return f"{slot.path} is not told how to cut its sequence into windows (cu_seqlens)"
        name = next((name for name, view in slot.views.items() if view[0] != "between"), "")
        inside = split_block(name)
        if inside is None or inside[0] != "blocks" or slot.kind != "tensor":
            return ""
        block = sites.architecture.stack.blocks[inside[1]]
        stream, own = seen.shapes.get((block.path, "input")), seen.shapes.get(place)
        if own is None:
            return f"{slot.path} holds no tensor there"
        if stream is not None and not _goes_along(own, stream, slot.elsewhere, tokens):
            return f"{slot.path} holds it as {list(own)}, while the stream is {list(stream)}"
        view = slot.views[name]
        if view[0] == "heads" and own[-1] % int(view[1]):
            return f"{slot.path} is {own[-1]} wide, which {view[1]} heads do not share equally"
        return ""

    def when(slot: Slot) -> float:
        if slot.kind != "tensor":
            before = seen.times.get((slot.out, "input")) if slot.out else None
            return (before or seen.times[slot.path, "output"])[0] - 0.5
        return float(seen.times[slot.path, slot.port][0])

    settled = sites.settled(why_not, when, _nothing_between(sites, seen))
    settled.logit_path = _logit_path(sites, seen)
    return settled


def _goes_along(own: Sequence[int], stream: Sequence[int], elsewhere: bool, tokens: Sequence[int]) -> bool:
    """Whether a value holds items and positions as the stream does, or items alone where its positions are others'.

    A stream of several lanes may hold them first, ``[lane, batch, pos, d_model]``: then the tokens say which axes are
    items and positions.
    """
    if elsewhere:
        return own[:1] == stream[:1]
    lanes_first = len(stream) == 4 and stream[1:3] == tokens
    return own[:2] == (tokens if lanes_first and len(own) == 3 else stream[:2])


def _logit_path(sites: Sites, seen: Seen) -> LogitPath:
    """What stands between the final norm and the logits, as the pass showed it."""
    architecture = sites.architecture
    last = architecture.final_norm or architecture.stack.blocks[-1].path
    head = architecture.unembed
    met = [seen.tensors.get(place) for place in ((last, "output"), (head, "input"), (head, "output"))]
    return seen_logit_path(architecture.logit_path, met[0], met[1], met[2], seen.logits)


def _nothing_between(sites: Sites, seen: Seen) -> dict[str, str]:
    """The layers after which nothing is added, although the decoder's source may do so; and why none can be seen."""
    architecture = sites.architecture
    blocks = architecture.stack.blocks
    after = [*(block.path for block in blocks[1:]), architecture.final_norm or ""]
    found = {}
    for i in architecture.between:
        left, met = seen.tensors.get((blocks[i].path, "output")), seen.tensors.get((after[i], "input"))
        name = f"{architecture.stack.prefix}.{i}.hook_between"
        if left is None or met is None or left.shape != met.shape:
            shapes = [list(x.shape) if x is not None else "no tensor" for x in (left, met)]
            found[name] = f"what layer {i} gives is {shapes[0]}, what comes after it is given {shapes[1]}"
        elif torch.equal(left, met):
            found[name] = f"nothing is added between layer {i} and what comes after it"
    return found


def _tensor(value: Any) -> Tensor | None:
    """The first tensor of a module's arguments or output."""
    if isinstance(value, Tensor):
        return value
    if isinstance(value, tuple) and len(value) == 2 and isinstance(value[1], dict) and isinstance(value[0], tuple):
        args, kwargs = value
        return _tensor(args[0]) if args else _tensor(next(iter(kwargs.values()), None))
    if isinstance(value, tuple | list) or hasattr(value, "to_tuple"):
        parts = value if isinstance(value, tuple | list) else value.to_tuple()
        return _tensor(parts[0]) if parts else None
    return None
