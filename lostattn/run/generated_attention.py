"""What each generated token looked at in a picture."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from jaxtyping import Float
from torch import Tensor

from lostattn.cache.activation_cache import ActivationCache
from lostattn.cache.same_shapes import stacked
from lostattn.errors import InputError
from lostattn.pictures.patch_grid import PatchGrid
from lostattn.prompt.batch import Prompt
from lostattn.view.image import overlays
from lostattn.view.reading import picture_and_grid

if TYPE_CHECKING:
    import matplotlib.figure
    import pandas

Some = int | Sequence[int] | None


@dataclass(frozen=True, eq=False, repr=False)
class GeneratedAttention:
    """The weights that each generated token gave to each patch of an image, at the row that chose it.

    Attributes:
        values: ``[layer, head, token, patch]``: attention weights after the softmax, as they were after any edit; a
            token's sum over patches is the share of its attention that the image gets.
        layers: which layer each row is.
        tokens: the generated tokens as text, the one that ended the item among them.
        prompt, item, image: what it is about.
    """

    values: Float[Tensor, "layer head token patch"]
    layers: tuple[int, ...]
    tokens: tuple[str, ...]
    prompt: Prompt
    item: int
    image: int

    def __repr__(self) -> str:
        shown = " ".join(repr(token) for token in self.tokens)
        return f"GeneratedAttention of {shown}: {tuple(self.values.shape)} [layer, head, token, patch]"

    @property
    def labels(self) -> dict[str, list[Any]]:
        """What stands at each axis of ``values``: layers, heads, tokens, and ``(row, column)`` of each patch, its time
        step before them in a video."""
        places = [self._grid.where(i) for i in range(self.values.shape[3])]
        patches = places if self._grid.is_video else [place[1:] for place in places]
        heads = list(range(self.values.shape[1]))
        return {"layer": list(self.layers), "head": heads, "token": list(self.tokens), "patch": patches}

    def patches(self, layers: Some = None, heads: Some = None) -> Float[Tensor, "token patch"]:
        """One number a token and patch: the mean over the layers and heads that are asked for, over all where None.

        Raises:
            InputError: a layer or head that is not there.
        """
        rows = self._places("layers", layers, self.layers)
        columns = self._places("heads", heads, range(self.values.shape[1]))
        return self.values[rows][:, columns].mean((0, 1))

    def table(self) -> pandas.DataFrame:
        """One row a token, layer and head: ``share`` of its attention on the image, and ``row``, ``column`` of the
        patch that got most (of a video also its ``time_step``)."""
        import pandas as pd

        share, best = self.values.sum(-1), self.values.argmax(-1)

        def place(patch: int) -> dict[str, int]:
            step, row, column = self._grid.where(patch)
            return {**({"time_step": step} if self._grid.is_video else {}), "row": row, "column": column}

        return pd.DataFrame(
            {
                "step": step,
                "token": token,
                "layer": layer,
                "head": head,
                "share": float(share[i, head, step]),
                **place(int(best[i, head, step])),
            }
            for step, token in enumerate(self.tokens)
            for i, layer in enumerate(self.layers)
            for head in range(share.shape[1])
        )

    def figure(
        self,
        layers: Some = None,
        heads: Some = None,
        marks: Sequence[Sequence[float | int]] = (),
        title: str | None = None,
        **looks: Any,
    ) -> matplotlib.figure.Figure:
        """A strip of heat maps over the picture, one a generated token; see :func:`lostattn.view.overlays`.

        Args:
            layers, heads: as in :meth:`patches`.
            marks: boxes of pixels to draw a frame around.
            title: what is shown.
            looks: ``ax=``, ``cmap=``, ``lines=``, ``columns=``, … as there.
        """
        picture, grid = picture_and_grid(self.prompt, self.item, self.image)
        values = self.patches(layers, heads)
        shares = [f"{100 * share:.0f} %" for share in values.sum(-1).tolist()]
        titles = [f"{token.strip() or repr(token)}: {s}" for token, s in zip(self.tokens, shares, strict=True)]
        which = f"layers {_said(layers)}, heads {_said(heads)}"
        words = title or f"What each generated token looked at ({which}; share of its attention, %)"
        return overlays(picture, values, grid, titles=titles, marks=marks, title=words, **looks)

    @property
    def _grid(self) -> PatchGrid:
        grid = self.prompt.token_map.grids[self.item][self.image]
        grid.boxes() if not grid else None  # an unknown grid says why
        return grid  # type: ignore[return-value]

    def _places(self, what: str, asked: Some, there: Sequence[int]) -> list[int]:
        chosen = list(there) if asked is None else [asked] if isinstance(asked, int) else list(asked)
        if not chosen or any(one not in there for one in chosen):
            raise InputError(f"{what} is {asked!r}; there are {list(there)}.")
        return [list(there).index(one) for one in chosen]


def generated_attention(
    cache: ActivationCache,
    rows: Sequence[int],
    tokens: Sequence[str],
    layers: Iterable[int] | int | None,
    item: int,
    image: int,
) -> GeneratedAttention:
    """What the rows that chose an item's tokens look at in one of its images.

    See :meth:`lostattn.run.generation.Generation.image_attention`; ``rows`` are positions of the cache, one a token.
    """
    prompt = cache.prompt
    if prompt is None:
        raise InputError("this generation's cache knows no prompt, so it cannot tell which positions are the image's.")
    if not 0 <= item < len(prompt) or not 0 <= image < prompt.token_map.n_images[item]:
        held = list(prompt.token_map.n_images)
        raise InputError(f"item is {item} and image {image}; the items hold {held} images.")
    grid = prompt.token_map.grids[item][image]
    grid.boxes() if not grid else None
    n = cache._n_layers
    known = [i for i in range(n) if ("pattern", i) in cache]
    asked = known if layers is None else [layers] if isinstance(layers, int) else list(layers)
    chosen = tuple(i % n if -n <= i < n else i for i in asked)
    if not chosen or any(i not in known for i in chosen):
        raise InputError(
            f"layers is {layers!r}, and the pattern was kept of the layers {known}; ask for it: "
            "names_filter=['blocks.3.attn.hook_pattern']."
        )
    place = prompt.token_map.patch_index[item].cpu()
    here = ((prompt.token_map.image_index[item].cpu() == image) & (place >= 0)).nonzero().flatten()
    patterns = [cache.rows(cache.name_of(("pattern", i)), list(rows))[item][..., here] for i in chosen]
    seen = stacked(patterns, chosen, "the pattern")
    values = seen.new_zeros(*seen.shape[:-1], len(grid))  # a patch that has no token (VideoLLaMA 3) gets nothing
    values[..., place[here]] = seen
    return GeneratedAttention(values, chosen, tuple(tokens), prompt, item, image)


def _said(asked: Some) -> str:
    return "all" if asked is None else str(asked)
