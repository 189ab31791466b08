"""Interventions at the attention boundary: replace weights or scores, scale them, knock edges out."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from lostattn.arguments import checked_call
from lostattn.errors import InputError
from lostattn.interventions.picture_sources import Complexity, VisionPrior
from lostattn.interventions.sources import Dirichlet, Fixed, FromCache, Source
from lostattn.kernels import edits as kernels
from lostattn.plan.checks import (
    Layers,
    Steps,
    checked_number,
    checked_seed,
    checked_steps,
    choice,
    normalise,
)
from lostattn.plan.heads import Heads, checked_heads
from lostattn.plan.intervention import Intervention
from lostattn.plan.program import Edit
from lostattn.plan.setting import Setting


def _check_place(self: Any) -> None:
    """Layers, heads and steps, which every intervention here has."""
    heads, layers = checked_heads(self.heads, self.layers)
    normalise(self, steps=checked_steps(self.steps), layers=layers, heads=heads)


def _checked_mix(mix: Any) -> float:
    return checked_number("mix", mix, 0.0, 1.0, "a number from 0 (learned) to 1 (replaced)")


def _boundary_edits(self: Any, setting: Setting, point: str, kernel: Any, params: dict[str, Any]) -> list[Edit]:
    queries = setting.positions(self.queries)
    return [
        Edit(name, kernel, params, self.steps, queries, keys, setting.heads(self.heads, name))
        for name, _, keys in setting.keyed(self.keys, self.layers, point)
    ]


@checked_call
@dataclass(frozen=True, eq=False, repr=False)
class ReplaceAttention(Intervention):
    """Put predefined values in the place of learned attention over some keys (stochastic attention probing).

    Where: in the decoder, at the chosen layers, heads, query rows and key columns, only where a row may see the key;
    at prefill and at every decoding step (``steps``).

    Args:
        source: what to put there: :class:`Gaussian`, :class:`Dirichlet`, :class:`Uniform`, :class:`VisionPrior`,
            :class:`Complexity`, :class:`Fixed` or :class:`FromCache`.
        layers, heads: which (None: all). Heads may be ``{layer: heads}``, for each layer its own.
        queries, keys: positions by name, index, slice or mask. Where a decoder reads pictures through cross-attention,
            ``"image"`` names keys of that; ``"cross"`` is every key of it.
        mix: ``(1 - mix) * learned + mix * new``.
        space: ``"weights"`` (after the softmax) or ``"scores"`` (before it, so that text keys share in the change).
        keep_mass: weights only: new weights share out the mass that the row had on these keys. Without it the values
            are put in as they are, and a row need not sum to one. What a source says below zero is cut to zero.
        steps: ``"all"``, ``"prefill"``, ``"decode"`` or ``(first, end)``; step 0 is the prefill.

    In score space a source's values take the mean and standard deviation of the scores that they replace, row by row.
    Keys that an earlier intervention knocked out stay out.

    When it is weak: a head that puts little weight on the keys has little to lose, and with ``keep_mass`` it keeps
    that little. With ``queries="last"`` what the image tokens have mixed among themselves is never replaced.

    Raises:
        InputError: a source, layer, head, step or number that cannot be meant, at once; what does not fit the model or
            the prompt, before the pass.
    """

    source: Source
    layers: Layers = None
    heads: Heads = None
    queries: Any = "last"
    keys: Any = "image"
    mix: float | int = 1.0
    space: str = "weights"
    keep_mass: bool = True
    steps: Steps = "all"

    def __post_init__(self) -> None:
        if not isinstance(self.source, Source):
            raise InputError(f"source is {self.source!r}; expected a source such as Gaussian(seed=0) or Uniform().")
        _check_place(self)
        normalise(self, mix=_checked_mix(self.mix))
        choice("space", self.space, ("weights", "scores"))
        if not isinstance(self.keep_mass, bool):
            raise InputError(f"keep_mass is {self.keep_mass!r}; expected True or False.")
        if isinstance(self.source, Fixed) and self.space == "weights":
            self.source.check_weights(self.keep_mass)
        _check_steps_of(self.source, self.steps)

    def compile(self, setting: Setting) -> list[Edit]:
        """One edit for each layer, after the edits that its source relies on."""
        if self.space == "scores" or self.keep_mass:
            _check_several(self.keys, setting, self.layers)
        return _replacing(self, setting, align="moments", percentiles=None)


@checked_call
@dataclass(frozen=True, eq=False, repr=False)
class Released(Intervention):
    """What the paper's public code does, setting by setting.

    It edits the *scores* of the *last query row* at the columns of the visual tokens, at prefill and at every decoding
    step: ``new = (1 - mix) * old + mix * prior * |mean(old)| / (2 |mean(prior)|)``, and only in heads whose mean score
    on the other columns lies between two percentiles over the heads.

    ``prior``: ``"gaussian_noise"`` (one Dirichlet draw over the visual tokens, shared by layers and heads of a call),
    ``"vision_encoder"``, ``"image_complexity"``, or a source. Layers used there: all for Qwen2.5-VL; 18 to 23 for
    LLaVA-1.5-7B; 21 to 27 for LLaVA-OneVision-7B.

    The means are over the last row's own columns that it sees, for each item of a batch; the percentiles are over all
    heads of the layer, also where ``heads`` leaves some alone. When it is weak: a constant added to all scores of a
    row changes nothing for the softmax, but it changes this scale, so what is put in depends on where the scores of a
    model happen to lie.
    """

    prior: Any = "gaussian_noise"
    layers: Layers = None
    mix: float | int = 1.0
    percentiles: tuple[float, float] = (0.3, 0.9)
    seed: int = 0
    queries: Any = "last"
    keys: Any = "image"
    heads: Heads = None
    steps: Steps = "all"

    def __post_init__(self) -> None:
        _check_place(self)
        normalise(self, mix=_checked_mix(self.mix), seed=checked_seed(self.seed))
        normalise(self, percentiles=_checked_percentiles(self.percentiles))
        if not isinstance(self.prior, Source):
            choice("prior", self.prior, ("gaussian_noise", "vision_encoder", "image_complexity"))
        _check_steps_of(self.source, self.steps)

    @property
    def source(self) -> Source:
        """The source that ``prior`` names."""
        if isinstance(self.prior, Source):
            return self.prior
        if self.prior == "gaussian_noise":
            return Dirichlet(seed=self.seed, shared=True)
        return VisionPrior() if self.prior == "vision_encoder" else Complexity()

    def compile(self, setting: Setting) -> list[Edit]:
        """One edit of the scores for each layer."""
        return _replacing(self, setting, align="released", percentiles=tuple(self.percentiles))


def _check_several(keys: Any, setting: Setting, layers: Layers) -> None:
    """Refuse a single key in every item: it keeps the mass (or the mean) that it has, so nothing would change."""
    chosen = [one for _, _, one in setting.keyed(keys, layers, "hook_pattern")]
    if all(one is not None and len(one) == 2 and not one[1] and int(one[0].sum(-1).max()) == 1 for one in chosen):
        raise InputError(
            f"keys={keys!r} names a single key in each item, and what a row gives to it is kept, so nothing would "
            "change: choose several keys, or keep_mass=False, or la.KnockOut or la.ScaleAttention."
        )


def _checked_percentiles(given: Any) -> tuple[float, float]:
    message = f"percentiles is {given!r}; expected (low, high) with 0 <= low < high <= 1."
    if not isinstance(given, tuple | list) or len(given) != 2:
        raise InputError(message)
    low, high = (checked_number("percentiles", q, 0.0, 1.0, "two numbers from 0 to 1") for q in given)
    if not low < high:
        raise InputError(message)
    return low, high


def _check_steps_of(source: Source, steps: Any) -> None:
    """A pattern kept from a prompt's pass has no rows for the tokens of a generation."""
    if isinstance(source, FromCache) and steps[0] > 0:
        raise InputError(f"steps is {steps!r}, but FromCache acts at the prefill only; expected 'all' or 'prefill'.")


def _replacing(self: Any, setting: Setting, align: str, percentiles: Any) -> list[Edit]:
    queries = setting.positions(self.queries)
    weights = getattr(self, "space", "scores") == "weights"
    observers: list[Edit] = []
    out: list[Edit] = []
    for name, i, keys in setting.keyed(self.keys, self.layers, "hook_pattern" if weights else "hook_attn_scores"):
        drawn = self.source.draw(setting.over(name, keys), i, self.keys)
        observers += [e for e in drawn.observers if e.name not in {o.name for o in observers}]
        params: dict[str, Any] = {"draw": drawn.kernel, "draw_params": drawn.params, "mix": self.mix}
        kernel: Any
        if weights:
            kernel = kernels.replace_weights
            params["keep_mass"] = self.keep_mass
        else:
            kernel = kernels.replace_scores
            params |= {"align": align, "percentiles": percentiles}
        steps = (0, 1) if drawn.prefill_only else self.steps
        out.append(Edit(name, kernel, params, steps, queries, keys, setting.heads(self.heads, name)))
    return observers + out


@checked_call
@dataclass(frozen=True, eq=False, repr=False)
class KnockOut(Intervention):
    """Cut attention from some queries to some keys: their scores become -inf before the softmax.

    Where: at ``attn.hook_attn_scores``, in the decoder's chosen layers and heads, at every step at which the queries
    are computed. The row's other keys share the freed mass; a row that has no other key reads nothing (zeros).

    When it is weak: information goes round a cut edge through other positions and other layers. What the queries have
    read in layers before the cut stays with them.
    """

    queries: Any
    keys: Any
    layers: Layers = None
    heads: Heads = None
    steps: Steps = "all"

    def __post_init__(self) -> None:
        _check_place(self)

    def compile(self, setting: Setting) -> list[Edit]:
        """One edit of the scores for each layer."""
        return _boundary_edits(self, setting, "hook_attn_scores", kernels.block_cells, {})


@checked_call
@dataclass(frozen=True, eq=False, repr=False)
class ScaleAttention(Intervention):
    """Multiply attention weights on some keys by a factor, after the softmax and without renormalising.

    Where: at ``attn.hook_pattern``. A row then sums to more or less than one, so that the head also writes more or
    less; 0 takes the keys away without giving their mass to others, unlike :class:`KnockOut`.
    """

    factor: float | int
    queries: Any = "last"
    keys: Any = "image"
    layers: Layers = None
    heads: Heads = None
    steps: Steps = "all"

    def __post_init__(self) -> None:
        _check_place(self)
        normalise(self, factor=checked_number("factor", self.factor, float("-inf"), float("inf"), "a finite number"))

    def compile(self, setting: Setting) -> list[Edit]:
        """One edit of the pattern for each layer."""
        params = {"factor": self.factor}
        return _boundary_edits(self, setting, "hook_pattern", kernels.scale_cells, params)
