"""Sources: what is put in the place of learned attention. Pass one to :class:`ReplaceAttention`."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, ClassVar

import torch
from torch import Tensor

from lostattn.arguments import checked_call
from lostattn.cache.activation_cache import ActivationCache
from lostattn.errors import InputError
from lostattn.kernels import priors
from lostattn.plan.checks import checked_layers, checked_seed, finite, normalise
from lostattn.plan.intervention import Serializable
from lostattn.plan.program import Edit
from lostattn.plan.setting import Setting


@dataclass(frozen=True)
class Drawn:
    """A source compiled for one layer: the kernel that makes the values, its parameters, and edits it relies on."""

    kernel: Callable[..., Any]
    params: dict[str, Any]
    observers: tuple[Edit, ...] = ()
    prefill_only: bool = False


@checked_call
class Source(Serializable):
    """The base of all sources. Values are made for the cells that an intervention replaces."""

    EXPECTED: ClassVar[str] = "a source such as la.Gaussian(seed=0)"

    def draw(self, setting: Setting, layer: int, keys: Any) -> Drawn:
        """The kernel and parameters that make the values at one layer."""
        raise NotImplementedError


@checked_call
@dataclass(frozen=True, eq=False, repr=False)
class Gaussian(Source):
    """Gaussian noise with the mean and standard deviation of what it replaces, row by row and head by head.

    Every item, layer, head, row and step draws its own; the same seed gives an item the same noise in any batch.
    Before the softmax the moments of each row are matched exactly. After it they are those of the distribution that
    is drawn from: weights below zero are cut to zero, and ``keep_mass`` scales what is left.
    """

    seed: int = 0

    def __post_init__(self) -> None:
        normalise(self, seed=checked_seed(self.seed))

    def draw(self, setting: Setting, layer: int, keys: Any) -> Drawn:
        """Seeds from the item, the layer and this source's own seed."""
        return Drawn(priors.gaussian, {"seeds": setting.seeds(self.seed, "gaussian", layer, *setting.drawn_for)})


@checked_call
@dataclass(frozen=True, eq=False, repr=False)
class Dirichlet(Source):
    """A Dirichlet(1, …, 1) draw over the keys: all weights on the simplex equally likely.

    ``shared`` draws once for all layers, heads and rows of a call, as the paper's released code does in the mode that
    it names ``gaussian_noise``; otherwise each draws its own.
    """

    seed: int = 0
    shared: bool = False

    def __post_init__(self) -> None:
        normalise(self, seed=checked_seed(self.seed))
        if not isinstance(self.shared, bool):
            raise InputError(f"shared is {self.shared!r}; expected True or False.")

    def draw(self, setting: Setting, layer: int, keys: Any) -> Drawn:
        """Seeds from the item and, unless shared, the layer."""
        parts = ("dirichlet",) if self.shared else ("dirichlet", layer, *setting.drawn_for)
        return Drawn(priors.dirichlet, {"seeds": setting.seeds(self.seed, *parts), "shared": self.shared})


@checked_call
@dataclass(frozen=True, eq=False, repr=False)
class Uniform(Source):
    """The same weight for every chosen key that a row sees, one in all.

    Before the softmax every score becomes the mean of those that it replaces.
    """

    def draw(self, setting: Setting, layer: int, keys: Any) -> Drawn:
        """One over the number of keys, row by row."""
        return Drawn(priors.uniform, {})


@checked_call
@dataclass(frozen=True, eq=False, repr=False)
class Fixed(Source):
    """Values of your own: ``[key]``, ``[batch, key]`` or ``[batch, head, key]``, one for each chosen key in order.

    The keys are those of the prompt, or of cross-attention where a choice names those; tokens generated later get
    nothing. Items of a batch need equally many keys.
    After the softmax the values are weights, so none may be negative; before it only their shape counts, as they take
    the mean and standard deviation of the scores that they replace.

    Raises:
        InputError: NaN or infinite values; at compile time, a number of values other than that of the chosen keys, or
            a number of heads other than the model's (or 1).
    """

    values: Any  # a tensor, or numbers that make one

    def __post_init__(self) -> None:
        values = finite("Fixed(values)", self.values).detach().float()
        if not 1 <= values.dim() <= 3:
            raise InputError(
                f"Fixed(values) has shape {tuple(values.shape)}; expected [key], [batch, key] or [batch, head, key]."
            )
        normalise(self, values=values)

    def check_weights(self, keep_mass: bool) -> None:
        """Refuse values that cannot stand in the place of attention weights."""
        if (self.values < 0).any():
            raise InputError(
                f"Fixed(values) holds {float(self.values.min()):g}, and an attention weight cannot be negative; "
                "expected numbers >= 0, or space='scores'."
            )
        if keep_mass and not (self.values > 0).any(-1).all():
            raise InputError(
                "Fixed(values) holds a row of zeros, which cannot share out the mass of a row; "
                "keep_mass=False puts zeros in as they are."
            )

    def draw(self, setting: Setting, layer: int, keys: Any) -> Drawn:
        """The values, laid onto the prompt's positions."""
        mask = setting.key_mask
        n_heads = setting.attention_at(f"{setting.boundary}.hook_pattern").n_heads
        if self.values.dim() == 3 and self.values.shape[1] not in (1, n_heads):
            raise InputError(
                f"Fixed(values) has shape {tuple(self.values.shape)} [batch, head, key]; "
                f"expected {n_heads} heads, as {setting.boundary} has, or 1."
            )
        values = setting.each(self.values) if self.values.dim() > 1 else self.values
        return Drawn(priors.given_prior, {"values": spread(values, mask), "grows": not setting.crossing})


@checked_call
@dataclass(frozen=True, eq=False, repr=False)
class FromCache(Source):
    """The attention weights of another pass, from patterns kept in its cache: ``FromCache.of(cache)``.

    ``patterns`` maps a layer to ``[batch, head, query, key]``, of a prompt of the same shape. It acts at the prefill
    only: the tokens of a generation have no rows in it. Whole rows go over with ``queries="all", keys="all",
    keep_mass=False``; a part of the keys with ``keep_mass=True`` keeps this run's mass on them.
    """

    patterns: dict[int, Tensor]

    def __post_init__(self) -> None:
        if not isinstance(self.patterns, dict) or not self.patterns:
            raise InputError(
                f"FromCache is made from {self.patterns!r}; expected {{layer: pattern}}, or FromCache.of(cache)."
            )
        for layer, pattern in self.patterns.items():
            if type(layer) is not int or not isinstance(pattern, Tensor) or pattern.dim() != 4:
                raise InputError(
                    f"FromCache holds {getattr(pattern, 'shape', pattern)!r} for layer {layer!r}; "
                    "expected an int and a tensor [batch, head, query, key]."
                )
            finite(f"FromCache, layer {layer},", pattern)

    @classmethod
    def of(cls, cache: ActivationCache, layers: Any = None) -> FromCache:
        """Take the patterns of some layers out of a cache (default: of all that it kept).

        Raises:
            UnknownName: the cache did not keep the pattern of a layer.
            InputError: it kept none.
        """
        n = len(cache._sites.architecture.stack.blocks)
        chosen = checked_layers(layers)
        if chosen is None:
            chosen = tuple(i for i in range(n) if ("pattern", i) in cache)
        if not chosen:
            raise InputError("the cache kept no patterns; run it with names_filter=lambda name: 'pattern' in name.")
        return cls({i % n if -n <= i < n else i: cache["pattern", i].detach().float().cpu() for i in chosen})

    def draw(self, setting: Setting, layer: int, keys: Any) -> Drawn:
        """That layer's pattern.

        Raises:
            InputError: the layer was not kept, or the pattern is of another prompt's shape; cross-attention.
        """
        if setting.crossing:
            raise InputError(
                f"FromCache holds patterns over positions, and {setting.boundary} looks at another sequence. Put a "
                f"pattern in with run_with_hooks, at '{setting.boundary}.hook_pattern'."
            )
        if layer not in self.patterns:
            raise InputError(f"FromCache holds layers {sorted(self.patterns)}, not {layer}; pass layers= to match.")
        pattern = setting.each(self.patterns[layer])
        n_pos = setting.prompt.n_pos
        expected = (len(setting.prompt), setting.attention_at(f"{setting.boundary}.hook_pattern").n_heads, n_pos, n_pos)
        if tuple(pattern.shape) != expected:
            raise InputError(
                f"FromCache holds a pattern of shape {tuple(pattern.shape)}; this prompt needs {expected}."
            )
        return Drawn(priors.given_prior, {"values": pattern}, prefill_only=True)


def spread(values: Tensor, mask: Tensor) -> Tensor:
    """Lay values, one for each True of ``mask [batch, pos]`` in order, onto ``[batch, head | 1, 1, pos]``.

    Raises:
        InputError: an item has another number of chosen keys than there are values.
    """
    batch, n_pos = mask.shape
    if values.dim() == 1:
        values = values.expand(batch, 1, -1)
    elif values.dim() == 2:
        values = values[:, None]
    counts = mask.sum(-1).tolist()
    if values.shape[0] != batch or any(count != values.shape[-1] for count in counts):
        raise InputError(
            f"Fixed(values) gives {values.shape[-1]} values for {values.shape[0]} items, but the chosen keys number "
            f"{counts}; give one value for each key (e.g. as many as prompt.token_map['image'] has)."
        )
    out = torch.zeros(batch, values.shape[1], n_pos)
    out[mask.cpu()[:, None].expand_as(out)] = values.flatten()
    return out[:, :, None, :]
