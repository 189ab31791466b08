"""Direct logit attribution by what was looked at: which patch wrote towards the answer, through which head."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Annotated, Any

import torch
from jaxtyping import Float
from torch import Tensor

from lostattn.architecture.norms import centred, gain, root_mean_square
from lostattn.arguments import checked_call
from lostattn.arguments.known_by import AtLeastOne
from lostattn.cache.activation_cache import ActivationCache
from lostattn.cache.output_maps import attention_passage
from lostattn.cache.same_shapes import stacked
from lostattn.errors import InputError
from lostattn.prompt.batch import Prompt
from lostattn.prompt.cross_keys import CrossKeys
from lostattn.prompt.parts import PARTS
from lostattn.prompt.token_map import TokenMap
from lostattn.view.image import overlay
from lostattn.view.reading import check_same_prompt, picture_and_grid

if TYPE_CHECKING:
    import matplotlib.figure
    import pandas


@checked_call
@dataclass(frozen=True, eq=False, repr=False)
class ImageAttribution:
    """How much each position's value, through each head, wrote towards a token at one position of one item.

    Attributes:
        values: ``[layer, head, key]``, in logits; the sum over keys is what the head itself wrote.
        layers: which layer each row is.
        prompt: the prompt that it is about.
        item: which item of it.
        crossed: whether the keys are those of cross-attention (``prompt.token_map.cross``) and no positions.
    """

    values: Float[Tensor, "layer head key"]
    layers: tuple[int, ...]
    prompt: Prompt
    item: int
    crossed: bool = False

    def __repr__(self) -> str:
        return f"ImageAttribution of item {self.item}: {tuple(self.values.shape)} [layer, head, key]"

    def patches(self, layer: int | None = None, head: int | None = None, image: int = 0) -> Float[Tensor, "patch"]:
        """One number a patch of an image, in the order of its grid; summed over layers and heads that are not named.

        Raises:
            InputError: a layer, head or image that is not there, or an image whose grid is not known.
        """
        token_map = self.prompt.token_map
        if not 0 <= image < token_map.n_images[self.item]:
            raise InputError(f"image is {image}; item {self.item} holds {token_map.n_images[self.item]} images.")
        grid = token_map.grids[self.item][image]
        grid.boxes() if not grid else None  # an unknown grid says why
        chosen = self._chosen(layer, head).sum((0, 1))
        where = self._keys()
        place = where.patch_index[self.item].to(chosen.device)
        here = (where.image_index[self.item].to(chosen.device) == image) & (place >= 0)
        out = torch.zeros(len(grid), dtype=chosen.dtype, device=chosen.device)
        return out.index_add(0, place[here], chosen[here])

    def by_part(self) -> pandas.DataFrame:
        """What each head wrote from each part of the prompt: ``layer, head, part, logit``."""
        import pandas as pd

        where = self._keys()
        part = (where.part if isinstance(where, TokenMap) else where.parts)[self.item].to(self.values.device)
        rows = []
        for code, name in enumerate(PARTS):
            if not (part == code).any() or name == "padding":
                continue
            sums = self.values[..., part == code].sum(-1)
            rows += [
                {"layer": layer, "head": h, "part": name, "logit": float(sums[i, h])}
                for i, layer in enumerate(self.layers)
                for h in range(sums.shape[1])
            ]
        return pd.DataFrame(rows).sort_values(["layer", "head"], kind="stable", ignore_index=True)

    def figure(
        self,
        layer: int | None = None,
        head: int | None = None,
        image: int = 0,
        title: str | None = None,
        prompt: Prompt | None = None,
        **looks: Any,
    ) -> matplotlib.figure.Figure:
        """The patches' numbers drawn over the picture.

        Args:
            layer, head, image: which numbers, as in :meth:`patches`.
            title: what is shown.
            prompt: the prompt that you take this to be of, to be held to it.
            looks: ``ax=``, ``cmap=``, ``lines=``, ``marks=``, … of :func:`lostattn.view.overlay`.

        Raises:
            InputError: another prompt than the one that the cache was made with.
        """
        if prompt is not None:
            check_same_prompt(self.prompt, prompt)

        picture, grid = picture_and_grid(self.prompt, self.item, image)
        values = self.patches(layer, head, image)
        which = f"layer {'all' if layer is None else layer}, head {'all' if head is None else head}"
        words = title or f"Written towards the answer: {which}"
        return overlay(picture, values, grid, title=words, **{"label": "logits", **looks})

    def _keys(self) -> TokenMap | CrossKeys:
        """What the keys are: positions, or those of cross-attention."""
        if not self.crossed:
            return self.prompt.token_map
        if self.prompt.token_map.cross is None:
            raise InputError(
                "what the keys of cross-attention are is not known of this prompt; .values holds them all."
            )
        return self.prompt.token_map.cross

    def _chosen(self, layer: int | None, head: int | None) -> Tensor:
        if layer is not None and layer not in self.layers:
            raise InputError(f"layer is {layer}; the attribution holds layers {list(self.layers)}.")
        if head is not None and not 0 <= head < self.values.shape[1]:
            raise InputError(f"head is {head}; expected 0 to {self.values.shape[1] - 1}.")
        rows = self.values if layer is None else self.values[[self.layers.index(layer)]]
        return rows if head is None else rows[:, [head]]


@checked_call
def image_attribution(
    cache: ActivationCache,
    tokens: int | Tensor,
    incorrect_tokens: int | Tensor | None = None,
    position: int | str = "last",
    item: int = 0,
    layers: Annotated[Iterable[int] | int | None, AtLeastOne] = None,
) -> ImageAttribution:
    """Take each head's direct attribution apart by key: ``pattern[key] · (value[key] W_O) · direction``.

    ``direction`` is the token's unembedding (less that of the other token), through the final norm with its scale held
    at what it was. What a patch does through other positions' streams, or through later layers, is not in it.

    Where the pictures are keys of cross-attention beside self-attention (Florence-2, UDOP), the heads are those of
    cross-attention and the keys what it looks at. Behind a gate (Llama 3.2 Vision, Idefics) heads are not told apart,
    and that is refused.

    Args:
        cache: one that kept patterns (or q and k), ``v`` and the last stream.
        tokens: the answer's id, or one an item.
        incorrect_tokens: subtract what is written towards this.
        position: whose logit: ``"last"``, or an int counted over real positions.
        item: which item of the batch.
        layers: which layers (None: all).

    Raises:
        InputError: an item, layer or position that is not there, or a cache that knows no prompt.
    """
    prompt = cache.prompt
    if prompt is None or not 0 <= item < len(prompt):
        raise InputError(f"item is {item}; the cache holds {0 if prompt is None else len(prompt)} items.")
    row = prompt.token_map.resolve(position, need=True)[item].nonzero().flatten()
    if len(row) != 1:
        raise InputError(f"position {position!r} names {len(row)} positions; expected one, such as 'last'.")
    n = cache._n_layers
    crossing = [i for i in range(n) if cache._sites.crosses_at(i)]
    asked = (crossing or range(n)) if layers is None else [layers] if isinstance(layers, int) else list(layers)
    if any(not -n <= i < n for i in asked):
        raise InputError(f"layers is {list(asked)}; the model has layers 0 to {n - 1}.")
    chosen = tuple(i % n for i in asked)
    if len({bool(cache._sites.crosses_at(i)) for i in chosen}) > 1:
        raise InputError(
            f"layers is {list(chosen)}, of which {crossing} look at another sequence: their keys are no positions; "
            "take these and the others one after the other."
        )
    for name, ids in (("tokens", tokens), ("incorrect_tokens", incorrect_tokens)):
        if isinstance(ids, Tensor) and tuple(ids.shape) not in ((), (1,), (len(prompt),)):
            raise InputError(
                f"{name} has shape {tuple(ids.shape)}; expected one id, or one for each of {len(prompt)} items."
            )
    direction = _direction(cache, tokens, incorrect_tokens, int(row), item)
    found = [_by_key(cache, i, int(row), item, direction, cache._sites.crosses_at(i) or "attn") for i in chosen]
    return ImageAttribution(
        stacked(found, chosen, "the attribution"), chosen, prompt, item, bool(cache._sites.crosses_at(chosen[0]))
    )


def _direction(cache: ActivationCache, right: Any, wrong: Any, row: int, item: int) -> Float[Tensor, "d_model"]:
    """The direction in the last stream along which the logit rises, norm and all."""

    rows = cache.W_U

    def one(tokens: Any) -> Tensor:
        found = cache._directions(tokens, rows)
        return found if found.dim() == 1 else found[item if len(found) > 1 else 0]

    towards = one(right) if wrong is None else one(right) - one(wrong)
    path, norm = cache._logit_path(), cache._norm(cache._n_layers)
    towards = towards * (path.before * path.scale)
    if norm is None:
        return towards.detach()
    stream = cache._stream(cache._n_layers)
    scale = root_mean_square((stream[item] if cache.has_batch_dim else stream)[row], norm)
    folded = centred(towards.to(scale) * gain(norm).to(scale), norm)
    return (folded / scale).detach()


def _by_key(
    cache: ActivationCache, layer: int, row: int, item: int, direction: Tensor, which: str
) -> Float[Tensor, "head key"]:
    path, passage = attention_passage(cache, layer, which=which)
    pattern, value = cache["pattern", layer, which], cache["v", layer, which]
    if cache.has_batch_dim:
        pattern, value = pattern[item], value[item]
    attn = cache._sites.architecture.stack.blocks[layer].attentions[which]
    if not attn.z_is_kernels or not attn.v_is_values:
        raise InputError(
            f"a gate or a norm stands between the values of layer {layer} and what its output map is given, so what "
            "each position wrote cannot be told apart; direct_attribution(by='head') holds."
        )
    direction = passage.towards(direction)
    if passage.scale is not None:
        direction = direction / (passage.scale[item] if cache.has_batch_dim else passage.scale)[row]
    n_heads = pattern.shape[0]
    read = direction @ cache._map(path).weight.to(direction)  # [head * d_head]
    read = read.unflatten(0, (value.shape[-2], n_heads // value.shape[-2], -1))  # query heads of a key/value head
    written = torch.einsum("kgd,gnd->gnk", value.to(direction), read).flatten(0, 1)
    return pattern[:, row].to(written) * written
