"""What an intervention is compiled against: one model, one prompt, one call."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

from lostattn.errors import InputError
from lostattn.interventions.base import Layers, checked_layers
from lostattn.model_kinds import is_text_only
from lostattn.plan import Positions
from lostattn.sites import Sites

if TYPE_CHECKING:
    from lostattn.prompt import Prompt


@dataclass(frozen=True)
class Setting:
    """A model's hook points and a prompt, with the few questions that interventions ask of them."""

    sites: Sites
    model: Any
    prompt: Prompt
    place: tuple[int, ...] = ()  # of a part in its composition: keeps the memories of two equal parts apart

    def numbered(self, i: int) -> Setting:
        """The setting of the ``i``-th part of a composition."""
        return replace(self, place=(*self.place, i))

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

    def heads(self, heads: Layers) -> tuple[int, ...] | None:
        """The heads meant; ``None`` for all.

        Raises:
            InputError: a head is out of range.
        """
        return None if heads is None else tuple(_in_range("head", heads, self.sites.architecture.stack.n_heads))

    def positions(self, spec: Any) -> Positions:
        """A choice of positions as a mask over the prompt, and whether generated tokens belong to it.

        Raises:
            InputError: a mask of the wrong shape, or a choice that nothing answers to (image keys of a prompt without
                an image): an edit of nothing is never let pass.
        """
        token_map = self.prompt.token_map
        extends = token_map.extends(spec)
        chosen = token_map.resolve(spec)
        if not extends and not chosen.any():
            if "image" in repr(spec) and is_text_only(self.model.config):
                kind = self.model.config.model_type
                raise InputError(
                    f"{spec!r} names no position: {kind!r} is a decoder of text, whose prompts hold no image."
                )
            token_map.resolve(spec, need=True)
        return chosen, extends

    def keyed(self, spec: Any, layers: Layers, point: str) -> list[tuple[int, Positions]]:
        """The layers meant that have keys of this choice, each with them.

        A model that reads pictures through cross-attention has them as keys of those layers and nowhere else: there
        ``"image"`` (``"image:0"``, ``"all"``, a mask over the keys) names those, and in the other layers positions.

        Raises:
            InputError: as `positions`; no layer that was asked for has a key of this choice.
        """
        cross = self.prompt.token_map.cross
        meant = self.layers(layers, point)
        if cross is None:
            positions = self.positions(spec)
            return [(i, positions) for i in meant]
        crossing = [i for i in meant if self.crosses(i)]
        keys = cross.chosen(spec)
        out: list[tuple[int, Positions]] = [(i, (keys, None)) for i in crossing if keys.any()]
        if len(crossing) < len(meant) and not _over_keys(spec, keys.shape[-1]):
            positions = (self.prompt.token_map.resolve(spec), self.prompt.token_map.extends(spec))
            if positions[0].any() or positions[1]:
                out += [(i, positions) for i in meant if i not in crossing]
        if not out:
            where = [i for i in range(len(self.sites.architecture.stack.blocks)) if self.crosses(i)]
            raise InputError(
                f"keys={spec!r} names no key in layers {meant}. This model reads pictures through cross-attention: "
                f"image keys are in layers {where}, and all others are positions of text."
            )
        return sorted(out, key=lambda one: one[0])

    def crosses(self, layer: int) -> bool:
        """Whether a layer's attention looks at a picture rather than at the sequence."""
        block = self.model.get_submodule(self.sites.architecture.stack.blocks[layer].path)
        return any("cross_attn" in name for name, _ in block.named_children())

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


def _in_range(what: str, asked: Layers, n: int) -> list[int]:
    indices = checked_layers(asked, f"{what}s")
    if indices is None:
        return list(range(n))
    bad = [i for i in indices if not -n <= i < n]
    if bad:
        raise InputError(f"{what} {bad[0]} is out of range: the model has {n} {what}s (0 to {n - 1}, or negative).")
    return list(dict.fromkeys(i % n for i in indices))  # an edit named twice still acts once
