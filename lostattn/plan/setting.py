"""What an intervention is compiled against: one model, one prompt, one call."""

from __future__ import annotations

import hashlib
import inspect
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from typing import Any

from torch import Tensor

from lostattn.architecture.structure import Attention
from lostattn.checkpoint.kinds import is_text_only
from lostattn.errors import InputError
from lostattn.plan.checks import Layers, checked_layers
from lostattn.plan.heads import Heads, heads_of
from lostattn.plan.program import Positions
from lostattn.points.sites import Sites
from lostattn.prompt.batch import Prompt
from lostattn.prompt.picture_inputs import takes_pictures

CROSS = "cross"  # every key of cross-attention, whatever it is made of


@dataclass(frozen=True)
class Setting:
    """A model's hook points and a prompt, with the few questions that interventions ask of them."""

    sites: Sites
    model: Any
    prompt: Prompt
    place: tuple[int, ...] = ()  # of a part in its composition: keeps the memories of two equal parts apart
    boundary: str = ""  # the attention that a source is asked about, such as "blocks.3.attn"
    keys: Positions | None = None  # the keys chosen there; None for all of them
    memo: dict[str, Any] = field(default_factory=dict, compare=False)  # what is worked out once for all layers
    given: Prompt | None = None  # the prompt that positions are named in, where each item stands ``copies`` times
    copies: int = 1

    @property
    def named(self) -> Prompt:
        """The prompt as the caller has it: each of its items stands ``copies`` times in ``prompt``."""
        return self.prompt if self.given is None else self.given

    def each(self, rows: Tensor) -> Tensor:
        """What the caller gave for each item, for each item of the batch: ``[item, …] -> [batch, …]``."""
        return rows if self.copies == 1 else rows.repeat_interleave(self.copies, 0)

    def numbered(self, i: int) -> Setting:
        """The setting of the ``i``-th part of a composition."""
        return replace(self, place=(*self.place, i))

    def over(self, name: str, keys: Positions | None) -> Setting:
        """The setting of one attention, by a hook point of it, whose chosen keys are these."""
        return replace(self, boundary=name.rpartition(".")[0], keys=keys)

    @property
    def crossing(self) -> bool:
        """Whether the attention at hand looks at another sequence."""
        return self.boundary.endswith(".cross_attn") or self.crosses(int(self.boundary.split(".")[1]))

    @property
    def key_mask(self) -> Any:
        """The keys chosen of the attention at hand, ``Bool[Tensor, "batch key"]`` over those of the prompt's pass.

        Raises:
            InputError: it is every key of cross-attention, and how many there are is known in the pass alone.
        """
        if self.keys is None:
            raise InputError(
                f"keys={CROSS!r} does not say how many keys there are, which this source must know before the pass; "
                "expected keys='image', or a mask over the keys."
            )
        if len(self.keys) == 3 and self.keys[2].any():
            raise InputError(
                "these keys are an encoder's and stand behind the positions; this source is laid onto positions alone. "
                "Expected keys among those of the decoder, or another source."
            )
        return self.keys[0]

    @property
    def drawn_for(self) -> tuple[str, ...]:
        """What tells the draws of two attentions of one layer apart."""
        return ("cross",) if self.boundary.endswith(".cross_attn") else ()

    def slot(self, name: str) -> str:
        """A key for what an edit remembers during a generation, its own even where two equal parts are composed."""
        return ".".join([*map(str, self.place), name])

    def layers(self, layers: Layers, point: str = "") -> list[int]:
        """The layers meant, as indices from 0; negative ones count from the end.

        ``None`` means all that have the hook point ``point`` (a model may have layers without attention). A layer
        that is named and lacks it is refused later, with the reason.

        Raises:
            InputError: a layer is out of range, or no layer has the point.
        """
        indices = _in_range("layer", layers, len(self.sites.architecture.stack.blocks))
        if layers is not None or not point:
            return indices
        having = [i for i in indices if f"blocks.{i}.{point}" in self.sites.names]
        if not having:
            raise InputError(f"no layer of this model has {point!r}, so there is nothing to act on.")
        return having

    def attention_at(self, name: str) -> Attention:
        """The attention that a hook point of the decoder belongs to: ``blocks.3.attn.hook_z``."""
        _, layer, which, *_ = name.split(".")
        return self.sites.architecture.stack.blocks[int(layer)].attentions[which]

    def heads(self, heads: Heads, name: str) -> tuple[int, ...] | None:
        """The heads meant of the attention that the point ``name`` belongs to; ``None`` for all.

        Heads belong to a layer: one may have fewer than another, and a negative number counts from its own last.

        Raises:
            InputError: that layer has no such head, or heads by layer do not name it.
        """
        stack = self.sites.architecture.stack
        heads = heads_of(heads, int(name.split(".")[1]), len(stack.blocks))
        if heads is None:
            return None
        n = self.attention_at(name).n_heads
        alike = len(set(stack.heads_by_layer) - {0}) == 1
        who = "the model" if alike else f"layer {name.split('.')[1]} (of layers with {stack.said_heads})"
        return tuple(_in_range("head", heads, n, who))

    def positions(self, spec: Any) -> Positions:
        """A choice of positions as a mask over the prompt, and whether generated tokens belong to it.

        Raises:
            InputError: a mask of the wrong shape, or a choice that nothing answers to (image keys of a prompt without
                an image): an edit of nothing is never let pass.
        """
        token_map = self.named.token_map
        extends = token_map.extends(spec)
        chosen = self.each(token_map.resolve(spec))
        if not extends and not chosen.any():
            if "image" in repr(spec) and is_text_only(self.model.config):
                kind = self.model.config.model_type
                raise InputError(
                    f"{spec!r} names no position: {kind!r} is a decoder of text, whose prompts hold no image."
                )
            if "image" in repr(spec) and not takes_pictures(self.model):
                kind = self.model.config.model_type
                raise InputError(f"{spec!r} names no position: {kind!r} takes no picture.")
            token_map.resolve(spec, need=True)
        return chosen, extends

    def keyed(self, spec: Any, layers: Layers, point: str) -> list[tuple[str, int, Positions | None]]:
        """The attentions meant that have keys of this choice: ``(hook name of the point, layer, keys)``.

        A decoder that reads pictures through cross-attention has them as keys of that and nowhere else: there
        ``"image"`` (``"image:0"``, ``"all"``, a mask over the keys) names those, and in self-attention positions.
        ``"cross"`` is every key of cross-attention, whatever it is (keys are ``None``), and none of self-attention.

        Raises:
            InputError: as `positions`; no layer that was asked for has a key of this choice.
        """
        there = _in_range("layer", layers, len(self.sites.architecture.stack.blocks))
        beside = [i for i in there if f"blocks.{i}.cross_attn.{point}" in self.sites.names]
        meant = self.layers(layers, f"attn.{point}")
        crossing = {f"blocks.{i}.attn.{point}": i for i in meant if self.crosses(i)}
        crossing |= {f"blocks.{i}.cross_attn.{point}": i for i in beside}
        own = {f"blocks.{i}.attn.{point}": i for i in meant if not self.crosses(i)}
        out: list[tuple[str, int, Positions | None]]
        cross = self.named.token_map.cross
        if isinstance(spec, str) and spec == CROSS:
            out = [(name, i, None) for name, i in crossing.items()]
        elif cross is None:
            positions = self.positions(spec)
            return [(name, i, positions) for name, i in own.items()]
        else:
            keys = self.each(cross.chosen(spec))
            out = [(name, i, (keys, None)) for name, i in crossing.items() if keys.any()]
            out += [] if _over_keys(spec, keys.shape[-1]) else self._own_keys(spec, keys, own)
        if not out:
            raise InputError(self._no_keys(spec, there))
        return sorted(out, key=lambda one: self.sites.names.index(one[0]))

    def _own_keys(self, spec: Any, keys: Any, own: dict[str, int]) -> list[tuple[str, int, Positions | None]]:
        """The self-attentions that have keys of a choice, where ``keys`` of cross-attention may stand behind theirs."""
        token_map = self.named.token_map
        chosen, extends = self.each(token_map.resolve(spec)), token_map.extends(spec)
        named = bool(chosen.any()) or bool(extends)
        out: list[tuple[str, int, Positions | None]] = []
        for name, i in own.items():
            if self.merges(i) and (named or keys.any()):
                out.append((name, i, (chosen, extends, keys)))
            elif named:
                out.append((name, i, (chosen, extends)))
        return out

    def _no_keys(self, spec: Any, there: Sequence[int]) -> str:
        names = self.sites.names
        every = range(len(self.sites.architecture.stack.blocks))
        where = [i for i in every if self.crosses(i) or f"blocks.{i}.cross_attn.hook_pattern" in names]
        reads = "reads pictures through cross-attention: " if where else "has no cross-attention: "
        return (
            f"keys={spec!r} names no key in layers {list(there)}. This model {reads}"
            f"image keys are in layers {where}, and all others are positions of text."
        )

    def crosses(self, layer: int) -> bool:
        """Whether a layer's one attention looks at a picture rather than at the sequence."""
        return self.sites.architecture.stack.blocks[layer].crosses

    def merges(self, layer: int) -> bool:
        """Whether the encoder's keys stand behind the positions in a layer's one softmax (T5Gemma 2)."""
        block = self.sites.architecture.stack.blocks[layer]
        if block.attn is None or block.crosses or "cross_attn" in block.attentions:
            return False
        return (
            "encoder_hidden_states" in inspect.signature(self.model.get_submodule(block.attn.path).forward).parameters
        )

    def seeds(self, seed: int, *parts: Any) -> list[int]:
        """One seed for each item of the batch, from its identity and ``parts``, whatever its batch mates are."""
        return [stable_seed(seed, item, *parts) for item in self.prompt.ids]


def _over_keys(spec: Any, n_keys: int) -> bool:
    """Whether a choice is a mask over the keys of cross-attention, which says nothing about positions."""
    return getattr(spec, "shape", ())[-1:] == (n_keys,)


def stable_seed(*parts: Any) -> int:
    """A non-negative 62-bit seed that is the same on every machine and in every process."""
    digest = hashlib.sha256("\x1f".join(map(repr, parts)).encode()).digest()
    return int.from_bytes(digest[:8], "little") >> 2


def _in_range(what: str, asked: Layers, n: int, who: str = "the model") -> list[int]:
    indices = checked_layers(asked, f"{what}s")
    if indices is None:
        return list(range(n))
    bad = [i for i in indices if not -n <= i < n]
    if bad:
        raise InputError(f"{what} {bad[0]} is out of range: {who} has {n} {what}s (0 to {n - 1}, or negative).")
    return list(dict.fromkeys(i % n for i in indices))  # an edit named twice still acts once
