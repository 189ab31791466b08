"""Sources: what is put in the place of learned attention. Pass one to :class:`ReplaceAttention`."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from lostattn.errors import InputError
from lostattn.interventions.base import Serializable, finite
from lostattn.kernels import priors
from lostattn.plan import Edit

if TYPE_CHECKING:
    from lostattn.cache import ActivationCache
    from lostattn.interventions.setting import Setting


@dataclass(frozen=True)
class Drawn:
    """A source compiled for one layer: the kernel that makes the values, its parameters, and edits it relies on."""

    kernel: Callable[..., Any]
    params: dict[str, Any]
    observers: tuple[Edit, ...] = ()
    prefill_only: bool = False


class Source(Serializable):
    """The base of all sources. Values are made for the cells that an intervention replaces."""

    def draw(self, setting: Setting, layer: int, keys: Any) -> Drawn:
        """The kernel and parameters that make the values at one layer."""
        raise NotImplementedError


@dataclass(frozen=True, eq=False)
class Gaussian(Source):
    """Gaussian noise with the mean and standard deviation of what it replaces, row by row and head by head.

    Every item, layer, head, row and step draws its own; the same seed gives an item the same noise in any batch.
    """

    seed: int = 0

    def draw(self, setting: Setting, layer: int, keys: Any) -> Drawn:
        """Seeds from the item, the layer and this source's own seed."""
        return Drawn(priors.gaussian, {"seeds": setting.seeds(self.seed, "gaussian", layer)})


@dataclass(frozen=True, eq=False)
class Dirichlet(Source):
    """A Dirichlet(1, …, 1) draw over the keys: all weights on the simplex equally likely.

    ``shared`` draws once for all layers, heads and rows of a call, as the paper's released code does in the mode that
    it names ``gaussian_noise``; otherwise each draws its own.
    """

    seed: int = 0
    shared: bool = False

    def draw(self, setting: Setting, layer: int, keys: Any) -> Drawn:
        """Seeds from the item and, unless shared, the layer."""
        parts = ("dirichlet",) if self.shared else ("dirichlet", layer)
        return Drawn(priors.dirichlet, {"seeds": setting.seeds(self.seed, *parts), "shared": self.shared})


@dataclass(frozen=True, eq=False)
class Uniform(Source):
    """The same weight for every key."""

    def draw(self, setting: Setting, layer: int, keys: Any) -> Drawn:
        """Ones; what replaces the weights shares them out."""
        return Drawn(priors.given, {"values": _over_prompt(setting, None)})


@dataclass(frozen=True, eq=False)
class Fixed(Source):
    """Values of your own: ``[key]``, ``[batch, key]`` or ``[batch, head, key]``, one for each chosen key in order.

    Raises:
        InputError: NaN or infinite values; at compile time, a number of values other than that of the chosen keys.
    """

    values: Tensor

    def __post_init__(self) -> None:
        values = finite("Fixed(values)", torch.as_tensor(self.values, dtype=torch.float32))
        if not 1 <= values.dim() <= 3:
            raise InputError(
                f"Fixed(values) has shape {tuple(values.shape)}; expected [key], [batch, key] or [batch, head, key]."
            )
        object.__setattr__(self, "values", values)

    def draw(self, setting: Setting, layer: int, keys: Any) -> Drawn:
        """The values, laid onto the prompt's positions."""
        mask = setting.positions(keys)[0]
        return Drawn(priors.given, {"values": spread(self.values, mask)})


@dataclass(frozen=True, eq=False)
class Complexity(Source):
    """Image complexity of each patch's place in the picture, softmaxed over the patches.

    Mean absolute horizontal plus vertical difference of the grey picture, plus its variance, scaled to [0, 1] over
    the patches of a picture (the paper's "image complexity" prior).
    """

    def draw(self, setting: Setting, layer: int, keys: Any) -> Drawn:
        """Complexity from the prompt's own pictures.

        Raises:
            InputError: the prompt has no pictures to look at, or no known place for their tokens.
        """
        from lostattn.interventions.complexity import prompt_complexity

        return Drawn(priors.given, {"values": prompt_complexity(setting.prompt)[:, None, None, :]})


@dataclass(frozen=True, eq=False)
class VisionPrior(Source):
    """The vision encoder's own attention, averaged over heads and queries, in the decoder's token order.

    ``layer`` is the vision layer to read (negative from the end of those that the decoder depends on; default the
    last). Window order is undone, and where several patches make one token the largest of them counts.
    It is read earlier in the same pass, so it costs no pass of its own.
    """

    layer: int = -1

    def draw(self, setting: Setting, layer: int, keys: Any) -> Drawn:
        """An observer in the vision tower, and a kernel that looks at what it left.

        Raises:
            InputError: the model has no vision tower, the layer is out of range, or the prompt holds no image.
        """
        vision = setting.sites.architecture.vision
        if vision is None:
            raise InputError("VisionPrior needs a vision tower, and this model has none.")
        if not -vision.n_read <= self.layer < vision.n_read:
            raise InputError(f"vision layer {self.layer} is out of range: the decoder depends on {vision.n_read}.")
        image = setting.positions("image")[0]
        at = self.layer % vision.n_read
        slot = f"vision_prior.{at}"
        observer = Edit(
            f"{vision.stack.prefix}.{at}.attn.hook_pattern",
            priors.observe_vision,
            {"slot": slot, **vision_order(setting, image)},
            steps=(0, 1),
        )
        return Drawn(priors.remembered, {"slot": slot, "image_mask": image}, (observer,))


@dataclass(frozen=True, eq=False)
class FromCache(Source):
    """The attention weights of another pass, from patterns kept in its cache: ``FromCache.of(cache)``.

    ``patterns`` maps a layer to ``[batch, head, query, key]``. It acts on the prompt's own rows (prefill).
    """

    patterns: dict[int, Tensor]

    @classmethod
    def of(cls, cache: ActivationCache, layers: Any = None) -> FromCache:
        """Take the patterns of some layers (default: all) out of a cache."""
        n = len(cache._sites.architecture.stack.blocks)
        chosen = range(n) if layers is None else layers
        return cls({int(i): cache["pattern", int(i)].detach().float().cpu() for i in chosen})

    def draw(self, setting: Setting, layer: int, keys: Any) -> Drawn:
        """That layer's pattern.

        Raises:
            InputError: the layer was not kept, or the pattern is of another prompt's shape.
        """
        if layer not in self.patterns:
            raise InputError(f"FromCache holds layers {sorted(self.patterns)}, not {layer}; pass layers= to match.")
        pattern = finite("FromCache", self.patterns[layer])
        n_pos = setting.prompt.n_pos
        expected = (len(setting.prompt), setting.sites.architecture.stack.n_heads, n_pos, n_pos)
        if tuple(pattern.shape) != expected:
            raise InputError(
                f"FromCache holds a pattern of shape {tuple(pattern.shape)}; this prompt needs {expected}."
            )
        return Drawn(priors.given, {"values": pattern}, prefill_only=True)


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


def _over_prompt(setting: Setting, values: None) -> Tensor:
    return torch.ones(len(setting.prompt), 1, 1, setting.prompt.n_pos)


def vision_order(setting: Setting, image: Tensor) -> dict[str, Any]:
    """How a tower's patches become the decoder's image tokens: leading tokens to skip, merge, and window order.

    Raises:
        InputError: the tower's tokens cannot be matched one to one with the decoder's image tokens.
    """
    config: Any = setting.model.config.vision_config
    grid = setting.prompt.inputs.get("image_grid_thw")
    if grid is None:
        skip = 1 if getattr(setting.model.config, "vision_feature_select_strategy", "full") == "default" else 0
        return {"skip": skip, "merge": 1, "order": None}
    merge = int(getattr(config, "spatial_merge_size", 1)) ** 2
    order = None
    if getattr(config, "window_size", None):
        from transformers.vision_utils import get_vision_window_index

        index, _ = get_vision_window_index(
            grid.cpu(),
            spatial_merge_size=config.spatial_merge_size,
            window_size=config.window_size,
            patch_size=config.patch_size,
        )
        order = torch.argsort(index)
    tokens = int(grid.prod(-1).sum()) // merge
    if tokens != int(image.sum()):
        raise InputError(f"the pictures make {tokens} tokens, but the prompt has {int(image.sum())} image positions.")
    return {"skip": 0, "merge": merge, "order": order}
