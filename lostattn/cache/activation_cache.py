"""ActivationCache: what a pass kept, under TransformerLens' names."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, NoReturn

import torch
from jaxtyping import Float
from torch import Tensor, nn

from lostattn.architecture.norms import normalized, root_mean_square
from lostattn.arguments import checked_call
from lostattn.arguments.known_by import AtLeastOne
from lostattn.cache.decomposition import Decomposition
from lostattn.cache.files import SavedCache, read_cache, write_cache
from lostattn.cache.items import Cut, cut_kept
from lostattn.cache.logit_lens import Readout, logit_lens
from lostattn.cache.positions import choose
from lostattn.errors import InputError, OutOfRange, UnknownName, nearest
from lostattn.kernels.attention import attention_scores, softmax_rows
from lostattn.plan.intervention import Intervention
from lostattn.plan.touch_record import Touched, said_nowhere
from lostattn.points.hooked_model import HookedModel
from lostattn.points.names import get_act_name
from lostattn.points.sites import Derived, Sites
from lostattn.points.stream_updates import before_and_after, find_update, stream_updates
from lostattn.prompt.batch import Prompt
from lostattn.saved.reading import told_where
from lostattn.weights.adapters import switched_on
from lostattn.weights.linear_map import head_results

if TYPE_CHECKING:
    import transformer_lens

_TOUCHED = "touched"  # under which a file's metadata holds where the edits acted

Key = str | tuple[str, int] | tuple[str, int, str | None]


@checked_call
class ActivationCache(Decomposition):
    """The activations of one pass, by hook name.

    Look one up by its full name, an alias, or TransformerLens' shorthand::

        cache["blocks.3.attn.hook_pattern"]    # Float[Tensor, "batch head query key"]
        cache["pattern", 3]                    # the same
        cache["resid_post", -1]                # Float[Tensor, "batch pos d_model"]
        cache["normalized", 2, "ln1"]

    Shapes: residual points ``[batch, pos, d_model]``; q and z ``[batch, pos, head, d_head]``; k and v with
    ``n_key_value_heads``; scores and pattern ``[batch, head, query, key]``; vision points as the tower holds them
    (``[image, patch, d]`` for CLIP, ``[patches of all images, d]`` for Qwen-style towers).

    Scores, patterns, per-head results and norm statistics are made from what was kept (q, k, z, the stream) at the
    moment they are looked at, so that keeping everything never costs a ``[query, key]`` matrix per head and layer.
    They are float32 at least. A layer whose pattern was edited kept its edited pattern itself.

    ``interventions`` says what the pass ran under (None: untouched), ``touched`` where its edits acted, ``prompt`` on
    what, ``meta`` what else is known of it; all four are saved with it.
    """

    def __init__(
        self,
        kept: dict[str, Any],
        names: tuple[str, ...],
        sites: Sites,
        model: nn.Module,
        prompt: Prompt | None = None,
        meta: Mapping[str, Any] | None = None,
        has_batch_dim: bool = True,
        interventions: Intervention | None = None,
    ) -> None:
        self._kept = kept
        self._names = names
        self._sites = sites
        self._model = model
        self.prompt = prompt
        self.meta = dict(meta or {})
        self.has_batch_dim = has_batch_dim
        self.interventions = interventions
        self.touched: Touched | None = None
        self._adapters = switched_on(model)

    def __getitem__(self, key: Key) -> Tensor:
        if _of_gradient(key):
            return self.grad(*_without_suffix(key))
        name = self._sites.find(key if isinstance(key, str) else get_act_name(*key))
        if name not in self._names:
            raise UnknownName(
                f"{name!r} was not kept by this pass.{nearest(name, self._names)} "
                "Ask for it with names_filter= (None keeps everything)."
            )
        value = self._kept[name] if name in self._kept else self._derive(name, self._sites.derived[name])
        return value if self.has_batch_dim or name.startswith("vision") else value[0]

    def __contains__(self, key: object) -> bool:
        try:
            if _of_gradient(key):
                return f"{self._sites.find(get_act_name(*_without_suffix(key)))}_grad" in self._kept
            name = self._sites.find(key if isinstance(key, str) else get_act_name(*key))  # type: ignore[misc]
        except UnknownName:
            return False
        return name in self._names

    def __iter__(self) -> Iterator[str]:
        return iter(self._names)

    def __len__(self) -> int:
        return len(self._names)

    def __reduce__(self) -> NoReturn:
        raise InputError(
            "a cache cannot be pickled: it leans on its model. cache.save(path) writes it to a file, and "
            "la.ActivationCache.load(path, model) reads it; dict(cache) holds its tensors alone."
        )

    def __repr__(self) -> str:
        under = "" if self.interventions is None else f", under {_short(repr(self.interventions))}"
        idle = "" if self.touched is None or not self.touched.nowhere else f", {said_nowhere(self.touched.nowhere)}"
        return f"ActivationCache of {len(self)} points, {_readable(self.nbytes)}{under}{idle}: {_summary(self._names)}"

    @property
    def nbytes(self) -> int:
        """Bytes of the tensors that are held; a tensor that stands under two names counts once."""
        storages = {t.untyped_storage().data_ptr(): t.untyped_storage().nbytes() for t in self._tensors()}
        return sum(storages.values())

    @property
    def grad_names(self) -> tuple[str, ...]:
        """The points whose gradients are here, in forward order; none without ``backward=``."""
        return tuple(name for name in self._names if f"{name}_grad" in self._kept)

    def grad(self, name: str, layer: int | str | None = None, layer_type: str | None = None) -> Tensor:
        """The gradient of a point of a pass that was run with ``backward=``, in the shape of its value.

        ``cache.grad("z", 3)``, or ``cache["blocks.3.attn.hook_z_grad"]`` as TransformerLens spells it.

        Raises:
            UnknownName: no such point, or one whose gradient is not here; the message says why.
        """
        found = self._sites.find(get_act_name(name, layer, layer_type))
        if f"{found}_grad" not in self._kept:
            raise UnknownName(self._no_gradient(found))
        value: Tensor = self._kept[f"{found}_grad"]
        return value if self.has_batch_dim or found.startswith("vision") else value[0]

    def _no_gradient(self, name: str) -> str:
        there = self.grad_names
        if not there:
            return f"no gradient of {name!r} is here: the pass ran forward alone. Run it with backward=metric."
        try:
            self._sites.editable(name)
        except InputError as error:
            return f"{name!r} has no gradient: {error}"
        return (
            f"the gradient of {name!r} was not asked for.{nearest(name, there)} Name it in names_filter=; with None, "
            "those of patterns and scores are left out, a [query, key] matrix a head and layer."
        )

    def delta(self, update: str, layer: int) -> Float[Tensor, "*batch pos d_model"]:
        """What an update added to the residual stream, as a difference of the stream itself.

        ``"attn"``: ``resid_mid - resid_pre``; ``"mlp"``: ``resid_post - resid_mid``; ``"between"``: what is added after
        the layer and before the next (deepstack; zeros where nothing is); ``"layer"``: ``resid_post - resid_pre``. In
        parallel blocks there is no ``resid_mid``: attention's is what its module adds, the FFN's the rest of the layer.
        Where cross-attention stands between the two, ``"cross_attn"`` is ``resid_mid_cross - resid_mid``, and the FFN's
        update begins at ``resid_mid_cross``.

        Raises:
            InputError: another word or layer, or a layer in which attention and FFN cannot be told apart.
        """
        found = find_update(self._sites, update, layer)
        return torch.zeros_like(self["resid_post", layer]) if found is None else found.of(self)

    def updates(self) -> dict[str, Float[Tensor, "*batch pos d_model"]]:
        """Everything that is added to the stream after its beginning, in the order of the pass, by label.

        Labels are those of :meth:`decompose_resid`: ``"0_attn_out"``, ``"0_mlp_out"``, ``"0_between"`` where something
        is added between layers, ``"0_layer_out"`` for a layer whose parts cannot be told apart. In every family

        >>> assert_close(cache["resid_pre", 0] + sum(cache.updates().values()), cache.final_stream)  # doctest: +SKIP
        """
        return {update.label: update.of(self) for update in stream_updates(self._sites)}

    def to(self, device: str | torch.device | None = None, dtype: torch.dtype | None = None) -> ActivationCache:
        """The same cache on another device or in another floating-point dtype.

        From a GPU to the CPU it is copied into pinned memory, one value while the next is on its way.
        """
        leaving = device is not None and torch.device(device).type == "cpu"
        moved = self._with(_moved(self._kept, device, dtype), self.prompt)
        if leaving and torch.cuda.is_available():
            torch.cuda.synchronize()  # the copies were only begun
        return moved

    def remove_batch_dim(self) -> ActivationCache:
        """Take the batch axis away, in place as in TransformerLens; returns the cache itself.

        The points of the vision tower go by image or by patch and stay as they are. Raises `InputError` where the batch
        holds more than one item.
        """
        if self.prompt is not None and len(self.prompt) != 1:
            raise InputError(
                f"the batch holds {len(self.prompt)} items, so its axis cannot go; take one of them first: "
                "cache.apply_slice_to_batch_dim(0)."
            )
        self.has_batch_dim = False
        return self

    def apply_slice_to_batch_dim(self, batch_slice: int | slice | list[int]) -> ActivationCache:
        """A cache of some items, with their prompt and without the padding that the others needed.

        An int gives a cache without a batch axis. Raises `InputError` where the cache knows no prompt.
        """
        if self.prompt is None or not self.has_batch_dim:
            raise InputError("items can be taken of a cache that has a batch axis and knows its prompt.")
        n, several = len(self.prompt), [batch_slice] if isinstance(batch_slice, int) else batch_slice
        if not isinstance(several, slice) and (not several or not all(-n <= i < n for i in several)):
            raise OutOfRange(f"batch_slice is {batch_slice!r}; expected some of {n} items, counted from 0.")
        chosen = range(len(self.prompt))[batch_slice] if isinstance(batch_slice, int | slice) else batch_slice
        items = [chosen] if isinstance(chosen, int) else [range(len(self.prompt))[i] for i in chosen]
        part = self._with(cut_kept(self._kept, Cut(self.prompt, items), self._sites), self.prompt[items])
        part.has_batch_dim = not isinstance(batch_slice, int)
        part.touched = None if self.touched is None else self.touched.items(items)
        return part

    def at(self, key: Key, positions: Any = None, heads: int | list[int] | None = None, keys: Any = None) -> Tensor:
        """A decoder point at some positions and heads: ``cache.at(("z", 3), "image", heads=2)``.

        Args:
            key: as in a look-up.
            positions: of the stream, of heads, or the queries of a pattern; by name, int, slice, list or mask.
            heads: which heads (of q, k, v, z, result, scores and pattern); an int takes the axis away.
            keys: the keys of scores or a pattern, chosen as positions are; of cross-attention, those of the picture
                (``"image"``) or a mask over its keys, which also choose among its keys and values.

        Raises:
            InputError: unequally many positions in the items, or heads or keys of a point that has none.
        """
        name = self._sites.find(key if isinstance(key, str) else get_act_name(*key))
        crosses, by_key = self._sites.crosses(name), self._sites.goes_by_key(name)
        return choose(name, self[name], self.prompt, self.has_batch_dim, positions, heads, keys, crosses, by_key)

    def pattern(self, layer: int, queries: Any = "all") -> Float[Tensor, "batch head row key"]:
        """The pattern of some query rows alone; nothing is computed for the others.

        Args:
            layer: which layer of the decoder; negative from the end.
            queries: positions by name, int, slice, list or mask. Rows that any item of the batch asks for are given,
                in order.
        """
        name = self._sites.find(get_act_name("pattern", layer))
        if self.prompt is None:
            raise InputError(
                "This cache has lost its prompt, so positions cannot be chosen; use cache['pattern', layer]."
            )
        rows = self.prompt.token_map.resolve(queries, need=True).any(0).nonzero()[:, 0]
        if name in self._kept or name not in self._names:
            return self[name][:, :, rows]
        return self._attention(name, self._sites.derived[name], rows)

    def name_of(self, key: Key) -> str:
        """The full name that a key of a look-up stands for."""
        return self._sites.find(key if isinstance(key, str) else get_act_name(*key))

    def rows(self, name: str, rows: Annotated[list[int], AtLeastOne]) -> Float[Tensor, "batch head row key"]:
        """Some query rows of scores or a pattern, by column; nothing is computed for the others."""
        if name in self._kept or name not in self._names:
            return self[name][..., rows, :]
        return self._attention(name, self._sites.derived[name], torch.tensor(rows))

    def save(self, path: str | os.PathLike[str], **meta: Any) -> Path:
        """Write everything to one safetensors file; see :mod:`lostattn.cache.files`.

        Args:
            path: of the file; ``.safetensors`` is added where it has no ending.
            meta: more that should be known about the run: anything that JSON can hold.
        """
        told = self.meta if self.touched is None else {**self.meta, _TOUCHED: self.touched.to_dict()}
        known = (self.prompt, told, self.has_batch_dim, self.interventions)
        return write_cache(path, SavedCache(self._kept, self._names, *known), self._model, meta)

    @classmethod
    def load(cls, path: str | os.PathLike[str], model: HookedModel) -> ActivationCache:
        """Read what :meth:`save` wrote; ``model`` is the model that it was made with.

        Raises:
            InputError: no such file, a file of another kind, or of another model.
        """
        saved = read_cache(path, model)
        meta = {name: value for name, value in saved.meta.items() if name != _TOUCHED}
        known = (saved.prompt, meta, saved.has_batch_dim, saved.interventions)
        made = cls(saved.kept, saved.names, model.sites, model.hf, *known)
        with told_where(path, "activation cache"):
            made.touched = Touched.from_dict(saved.meta[_TOUCHED]) if _TOUCHED in saved.meta else None
        return made

    def _with(self, kept: dict[str, Any], prompt: Prompt | None) -> ActivationCache:
        known = (self.meta, self.has_batch_dim, self.interventions)
        made = ActivationCache(kept, self._names, self._sites, self._model, prompt, *known)
        made.touched = self.touched
        made._adapters = self._adapters
        return made

    def map(self, metric: Callable[..., Any], update: str | None = None, point: str = "resid_post") -> dict[int, Any]:
        """Run a metric over every layer: ``metric(before, after)`` of an update, or ``metric(state)`` of a point.

        In parallel blocks both updates are judged against the layer's input, which is what both of them read. Layers
        after which nothing is added are left out for ``update="between"``.

        >>> cache.map(la.metrics.rid, update="mlp")     # {layer: Float[Tensor, "batch"]}  # doctest: +SKIP
        >>> cache.map(la.metrics.effective_rank)        # of resid_post                    # doctest: +SKIP
        """
        n = len(self._sites.architecture.stack.blocks)
        mask = None if self.prompt is None else self.prompt.token_map["all"]
        if update is None:
            return {i: metric(self[point, i], mask=mask) for i in range(n)}
        found = {i: find_update(self._sites, update, i) for i in range(n)}
        return {i: metric(*before_and_after(one, self), mask=mask) for i, one in found.items() if one is not None}

    def logit_lens(self, positions: Any = "last", **keywords: Any) -> Readout:
        """The stream before each layer, read through the final norm and the unembedding.

        See :func:`lostattn.lenses.logit_lens`.
        """
        return logit_lens(self, positions, **keywords)

    def to_transformer_lens(self, bridge: Any = None) -> transformer_lens.ActivationCache:
        """As a ``transformer_lens.ActivationCache``, with every derived point and gradient made.

        ``bridge``, from :meth:`lostattn.LVLM.to_transformer_bridge`, is the model that TransformerLens' own
        decompositions of a cache ask for sizes and weights; without it the cache serves look-ups alone.
        """
        from transformer_lens import ActivationCache as TheirCache

        held = {name: self[name] for name in self} | {f"{name}_grad": self.grad(name) for name in self.grad_names}
        return TheirCache(held, model=bridge, has_batch_dim=self.has_batch_dim)

    def _tensors(self) -> Iterator[Tensor]:
        for value in self._kept.values():
            for part in value.values() if isinstance(value, dict) else (value,):
                if isinstance(part, Tensor):
                    yield part

    def _derive(self, name: str, how: Derived) -> Tensor:
        if how.kind in ("attn_scores", "pattern"):
            return self._attention(name, how)
        value = self._kept[how.needs[0]]
        if how.kind == "result":
            return head_results(value, self._map(how.path))
        module = self._layer_at(how.path, described=True)
        return root_mean_square(value, module) if how.kind == "scale" else normalized(value, module)

    def _attention(self, name: str, how: Derived, rows: Tensor | None = None) -> Tensor:
        query, key = (self._kept[need].transpose(1, 2) for need in how.needs)
        geometry = self._kept[f"{name.rpartition('.')[0]}.geometry"]
        rows = torch.arange(query.shape[2], device=query.device) if rows is None else rows.to(query.device)
        extras = {"softcap": geometry.get("softcap"), "bias": geometry.get("bias")}
        scores, _ = attention_scores(
            query, key, geometry["mask"], geometry["causal"], geometry["scaling"], rows, geometry["lengths"], extras
        )
        return scores if how.kind == "attn_scores" else softmax_rows(scores, geometry.get("sinks"))


def _moved(value: Any, device: str | torch.device | None, dtype: torch.dtype | None) -> Any:
    """Tensors (in dicts) on a device and in a dtype; from a GPU to the CPU their copies are only begun."""
    if isinstance(value, dict):
        return {name: _moved(part, device, dtype) for name, part in value.items()}
    if not isinstance(value, Tensor):
        return value
    value = value.to(dtype=dtype if value.is_floating_point() else None)
    if device is not None and value.is_cuda and torch.device(device).type == "cpu":
        return torch.empty_like(value, device="cpu", pin_memory=True).copy_(value, non_blocking=True)
    return value.to(device=device)


def _of_gradient(key: Any) -> bool:
    """Whether a key asks for a gradient, in TransformerLens' manner: ``…_grad``."""
    name = key[0] if isinstance(key, tuple) and key else key
    return isinstance(name, str) and name.endswith("_grad")


def _without_suffix(key: Any) -> tuple[Any, ...]:
    name, *place = key if isinstance(key, tuple) else (key,)
    return (name.removesuffix("_grad"), *place)


def _readable(n: int | float) -> str:
    for unit in ("B", "KiB", "MiB"):
        if n < 1024:
            return f"{n:.4g} {unit}"
        n /= 1024
    return f"{n:.4g} GiB"


def _short(text: str, limit: int = 120) -> str:
    return text if len(text) <= limit else f"{text[: limit - 3]}..."


def _summary(names: tuple[str, ...]) -> str:
    shown = ", ".join(names[:4])
    return shown + (f", … {names[-1]}" if len(names) > 4 else "")
