"""ActivationCache: what a pass kept, under TransformerLens' names."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from typing import TYPE_CHECKING, Any

import torch
from jaxtyping import Float
from torch import Tensor, nn

from lostattn.errors import InputError, UnknownName, nearest
from lostattn.kernels.attention import attention_scores, softmax_rows
from lostattn.names import get_act_name
from lostattn.sites import Derived, Sites

if TYPE_CHECKING:
    import transformer_lens

    from lostattn.prompt import Prompt

Key = str | tuple[str, int] | tuple[str, int, str]


class ActivationCache(Mapping[str, Tensor]):
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
    """

    def __init__(
        self,
        kept: dict[str, Any],
        names: tuple[str, ...],
        sites: Sites,
        model: nn.Module,
        prompt: Prompt | None = None,
    ) -> None:
        self._kept = kept
        self._names = names
        self._sites = sites
        self._model = model
        self.prompt = prompt

    def __getitem__(self, key: Key) -> Tensor:
        name = self._sites.find(key if isinstance(key, str) else get_act_name(*key))
        if name not in self._names:
            raise UnknownName(
                f"{name!r} was not kept by this pass.{nearest(name, self._names)} "
                "Ask for it with names_filter= (None keeps everything)."
            )
        if name in self._kept:
            return self._kept[name]
        return self._derive(name, self._sites.derived[name])

    def __contains__(self, key: object) -> bool:
        try:
            name = self._sites.find(key if isinstance(key, str) else get_act_name(*key))  # type: ignore[misc]
        except UnknownName:
            return False
        return name in self._names

    def __iter__(self) -> Iterator[str]:
        return iter(self._names)

    def __len__(self) -> int:
        return len(self._names)

    def __repr__(self) -> str:
        return f"ActivationCache of {len(self)} points, {_readable(self.nbytes)}: {_summary(self._names)}"

    @property
    def nbytes(self) -> int:
        """Bytes of the tensors that are held; a tensor that stands under two names counts once."""
        storages = {t.untyped_storage().data_ptr(): t.untyped_storage().nbytes() for t in self._tensors()}
        return sum(storages.values())

    def delta(self, update: str, layer: int) -> Float[Tensor, "batch pos d_model"]:
        """What an update added to the residual stream, as a difference of the stream itself.

        ``"attn"``: ``resid_mid - resid_pre``; ``"mlp"``: ``resid_post - resid_mid``.
        """
        ends = {"attn": ("resid_pre", "resid_mid"), "mlp": ("resid_mid", "resid_post")}
        if update not in ends:
            raise InputError(f"update is {update!r}; it must be 'attn' or 'mlp'.")
        before, after = ends[update]
        return self[after, layer] - self[before, layer]

    def to(self, device: str | torch.device | None = None, dtype: torch.dtype | None = None) -> ActivationCache:
        """The same cache on another device or in another floating-point dtype."""

        def move(value: Any) -> Any:
            if isinstance(value, dict):
                return {k: move(v) for k, v in value.items()}
            if isinstance(value, Tensor):
                return value.to(device=device, dtype=dtype if value.is_floating_point() else None)
            return value

        return ActivationCache(move(self._kept), self._names, self._sites, self._model, self.prompt)

    def map(self, metric: Callable[..., Any], update: str | None = None, point: str = "resid_post") -> dict[int, Any]:
        """Run a metric over every layer: ``metric(before, after)`` of an update, or ``metric(state)`` of a point.

        >>> cache.map(la.metrics.rid, update="mlp")     # {layer: Float[Tensor, "batch"]}  # doctest: +SKIP
        >>> cache.map(la.metrics.effective_rank)        # of resid_post                    # doctest: +SKIP
        """
        n = len(self._sites.architecture.stack.blocks)
        mask = None if self.prompt is None else self.prompt.token_map["all"]
        if update is None:
            return {i: metric(self[point, i], mask=mask) for i in range(n)}
        ends = {"attn": ("resid_pre", "resid_mid"), "mlp": ("resid_mid", "resid_post")}
        if update not in ends:
            raise InputError(f"update is {update!r}; it must be 'attn' or 'mlp'.")
        return {i: metric(self[ends[update][0], i], self[ends[update][1], i], mask=mask) for i in range(n)}

    def to_transformer_lens(self) -> transformer_lens.ActivationCache:
        """As a ``transformer_lens.ActivationCache`` with every derived point made; direct look-ups only."""
        from transformer_lens import ActivationCache as TheirCache

        return TheirCache({name: self[name] for name in self}, model=None)

    def _tensors(self) -> Iterator[Tensor]:
        for value in self._kept.values():
            for part in value.values() if isinstance(value, dict) else (value,):
                if isinstance(part, Tensor):
                    yield part

    def _derive(self, name: str, how: Derived) -> Tensor:
        if how.kind in ("attn_scores", "pattern"):
            return self._attention(name, how)
        value = self._kept[how.needs[0]]
        module: Any = self._model.get_submodule(how.path)
        if how.kind == "result":
            weight = module.weight.detach().unflatten(1, (value.shape[-2], -1))  # [d_model, head, d_head]
            return torch.einsum("...hd,mhd->...hm", value, weight.to(value.dtype))
        return _norm_statistic(value, module, how.kind)

    def _attention(self, name: str, how: Derived) -> Tensor:
        query, key = (self._kept[need].transpose(1, 2) for need in how.needs)
        geometry = self._kept[f"{name.rpartition('.')[0]}.geometry"]
        rows = torch.arange(query.shape[2], device=query.device)
        scores, _ = attention_scores(
            query, key, geometry["mask"], geometry["causal"], geometry["scaling"], rows, geometry["lengths"]
        )
        return scores if how.kind == "attn_scores" else softmax_rows(scores)


def _norm_statistic(x: Tensor, norm: nn.Module, kind: str) -> Tensor:
    """TransformerLens' ``hook_scale`` (the root mean square, after centring for a LayerNorm) or ``hook_normalized``."""
    eps = getattr(norm, "variance_epsilon", None) or getattr(norm, "eps", None) or 1e-6
    wide = x.to(torch.promote_types(x.dtype, torch.float32))
    if isinstance(norm, nn.LayerNorm):
        wide = wide - wide.mean(-1, keepdim=True)
    scale = (wide.pow(2).mean(-1, keepdim=True) + eps).sqrt()
    return scale if kind == "scale" else wide / scale


def _readable(n: int | float) -> str:
    for unit in ("B", "KiB", "MiB"):
        if n < 1024:
            return f"{n:.4g} {unit}"
        n /= 1024
    return f"{n:.4g} GiB"


def _summary(names: tuple[str, ...]) -> str:
    shown = ", ".join(names[:4])
    return shown + (f", … {names[-1]}" if len(names) > 4 else "")
