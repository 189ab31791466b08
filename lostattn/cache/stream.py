"""The residual stream of a pass, read: where it is at a layer, which norm reads it, and what the model makes of it."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor, nn

from lostattn.architecture.logit_path import LogitPath
from lostattn.architecture.norms import centred, gain, root_mean_square
from lostattn.arguments import checked_call
from lostattn.arguments.known_by import ItemsTaken, TakenOut
from lostattn.cache.positions import at_items, at_positions
from lostattn.errors import InputError
from lostattn.points.sites import Sites
from lostattn.points.stream_updates import INSIDE, StreamUpdate, layer_updates, module_term
from lostattn.prompt.batch import Prompt
from lostattn.weights.adapters import switched_on
from lostattn.weights.kinds import widths
from lostattn.weights.linear_map import LinearMap, linear_map
from lostattn.weights.offload import with_weights


@checked_call
class StreamReader(Mapping[str, Tensor]):
    """What every decomposition of the stream leans on: a look-up of values by name, and how the stream hangs together.

    :class:`~lostattn.cache.ActivationCache` is one. ``layer`` means "up to the input of this layer"; ``None``, ``-1``
    and ``n_layers`` the whole stream, up to the unembedding.
    """

    prompt: Prompt | None
    has_batch_dim: bool
    _sites: Sites
    _model: nn.Module
    _adapters: str  # as they were switched in the pass

    def __getitem__(self, key: Any) -> Tensor:
        """The value of a hook point; see :class:`~lostattn.cache.ActivationCache`."""
        raise NotImplementedError

    @property
    def W_U(self) -> Float[Tensor, "d_vocab d_model"]:  # noqa: N802 (TransformerLens' name)
        """What the unembedding multiplies by: one row a token. Of a plain layer the weight that the model holds.

        Scales, adapters and whatever else makes the layer are in it; see :mod:`lostattn.weights.linear_map`.

        Raises:
            InputError: the unembedding is no linear map, or the model is described without its weights.
        """
        return self._map(self._sites.architecture.unembed).weight

    @property
    def _d_vocab(self) -> int:
        """How many tokens the unembedding has a row for."""
        size = widths(self._model.get_submodule(self._sites.architecture.unembed))
        return len(self.W_U) if size is None else size[1]

    @property
    def final_stream(self) -> Float[Tensor, "*batch pos d_model"]:
        """The stream at its end: what the final norm is given; what the last layer gives where that is another shape.

        It is another shape in families whose stream has several lanes, which are merged at the end.
        """
        last: Tensor = self["resid_post", -1]
        norm = "ln_final.hook_in"
        return self[norm] if norm in self and self[norm].shape == last.shape else last

    def apply_ln_to_stack(
        self,
        residual_stack: Float[Tensor, "component *rest d_model"],
        layer: int | None = None,
        mlp_input: bool = False,
        pos_slice: TakenOut = None,
        batch_slice: ItemsTaken = None,
        has_batch_dim: bool | None = None,
        recompute_ln: bool = False,
    ) -> Float[Tensor, "component *rest d_model"]:
        """Parts of the stream as the norm that reads their sum scales them: ``(part - mean) / scale * weight``.

        The scale is that of the whole stream, held fixed, which makes the norm linear; a LayerNorm's bias belongs to no
        part and is left out. ``recompute_ln`` instead runs the final norm on each part as if it were a stream. Where no
        norm stands before the unembedding, the parts stay as they are.

        Args:
            residual_stack: the parts, positions and items already chosen.
            layer: which layer's norm; None for the final norm.
            mlp_input: the norm before the FFN rather than the one before attention.
            pos_slice: the positions that were chosen of the parts.
            batch_slice: the items that were chosen of the parts.
            has_batch_dim: whether the parts have a batch axis (default: as the cache).
            recompute_ln: see above.
        """
        end = self._layer(layer, mlp_input)
        self._refuse_lanes()
        self._check_width(residual_stack, "residual_stack")
        norm: Any = self._norm(end, mlp_input)
        if norm is None:
            return residual_stack
        if recompute_ln and end == self._n_layers:
            with torch.set_grad_enabled(residual_stack.requires_grad):
                return norm(residual_stack)
        stream = self._stream(end, mlp_input)
        batched = self.has_batch_dim if has_batch_dim is None else has_batch_dim
        if self.has_batch_dim and not batched:
            stream = stream[0]
        stream = at_positions(stream, pos_slice, self.prompt, batched)
        stream = at_items(stream, batch_slice)
        scale = root_mean_square(stream, norm)
        wide = residual_stack.to(scale.dtype)
        return (centred(wide, norm) / scale * gain(norm).to(scale)).to(residual_stack.dtype)

    def to_logits(self, stream: Float[Tensor, "*rest d_model"]) -> Float[Tensor, "*rest token"]:
        """The logits that the model reads off a stream: final norm, unembedding, then its scale and soft cap.

        The norm takes the stream's own statistics. ``cache.to_logits(cache.decompose_resid().sum(0))`` is the model's
        logits.

        Raises:
            InputError: a model whose logits are not read off the normed final stream.
        """
        self._refuse_lanes()
        self._check_width(stream, "stream")
        stream = stream.to(self._stream_dtype())
        path, norm = self._logit_path(), self._norm(self._n_layers)
        with torch.set_grad_enabled(stream.requires_grad):
            normed = stream if norm is None else norm(stream)
            return path.finish(self._unembedding()(normed * path.before if path.before != 1.0 else normed))

    def _stream_dtype(self) -> torch.dtype:
        """That of the activations: of the last stream, or of whatever was kept."""
        last = f"blocks.{self._n_layers - 1}.hook_resid_post"
        names = [last, *self] if last in self else list(self)
        return next((self[name].dtype for name in names if self[name].is_floating_point()), torch.float32)

    @property
    def _n_layers(self) -> int:
        return len(self._sites.architecture.stack.blocks)

    def _layer(self, layer: int | None, mlp_input: bool = False) -> int:
        n = self._n_layers
        end = n if layer is None or layer == -1 else layer
        if not 0 <= end <= n or (mlp_input and end == n):
            inside = " with mlp_input=True" if mlp_input else ""
            raise InputError(f"layer is {layer}{inside}; expected 0 to {n - mlp_input}, or None for the whole stream.")
        return end

    def _stream(self, layer: int, mlp_input: bool = False) -> Tensor:
        """The stream that the norm of a layer reads."""
        if layer == self._n_layers:
            return self["ln_final.hook_in"] if "ln_final.hook_in" in self else self["resid_post", -1]
        return self[f"resid_{self._mid(layer)}" if mlp_input else "resid_pre", layer]

    def _mid(self, layer: int) -> str:
        """The stream that a layer's FFN is given: after cross-attention, where that stands before it."""
        return "mid_cross" if f"blocks.{layer}.hook_resid_mid_cross" in self._sites.at else "mid"

    def _refuse_lanes(self) -> None:
        if ("resid_pre", 0) in self and self._has_lanes(self["resid_pre", 0]):
            raise InputError(
                "the stream of this model holds several lanes a position, which its layers mix before they read them, "
                "so no norm reads a part of one lane; decompose_resid() without apply_ln gives the parts by lane."
            )

    def _logit_path(self) -> LogitPath:
        path = self._sites.logit_path
        if path.problem:
            raise InputError(f"the logits of this model are not read off its normed final stream: {path.problem}.")
        return path

    def _norm(self, layer: int, mlp_input: bool = False) -> nn.Module | None:
        """The norm that reads the stream before a layer or its FFN, or at its end; ``None`` where the end has none."""
        architecture = self._sites.architecture
        end = layer == self._n_layers
        block = architecture.stack.blocks[min(layer, self._n_layers - 1)]
        before_ffn = block.cross.ln if block.cross is not None and self._mid(layer) == "mid_cross" else block.ln2
        path = architecture.final_norm if end else before_ffn if mlp_input else block.ln1
        if path is None and not end:
            raise InputError(f"no norm reads the stream before layer {layer}.")
        return None if path is None else self._layer_at(path)

    def _updates(self, end: int, mlp_input: bool = False) -> list[StreamUpdate]:
        """The updates before the input of a layer, or before its FFN."""
        before = [update for i in range(end) for update in layer_updates(self._sites, i)]
        if not mlp_input:
            return before
        self._stream(end, mlp_input)  # refuses a layer without a stream between its updates, and says which have one
        inside = layer_updates(self._sites, end)
        return [*before, *inside[: [update.kind for update in inside].index("mlp")]]

    def _value(self, update: StreamUpdate) -> Tensor:
        """An update's value; by the module that adds it, where the stream around it was not kept."""
        term = module_term(self._sites, update.kind, update.layer) if update.kind in INSIDE else None
        if term is not None and term[0] in self and not all(name in self for name in update.needs):
            return self[term[0]] * term[1]
        found: Tensor = update.of(self)
        return found

    def _at(self, value: Tensor, pos_slice: Any, trailing: int = 1) -> Tensor:
        if trailing == 1 and self._has_lanes(value):
            trailing = 2
            n_pos = value.shape[int(self.has_batch_dim)]
            if pos_slice is not None and self.prompt is not None and n_pos != self.prompt.n_pos:
                raise InputError(
                    f"the stream of this model holds its lanes first, {list(value.shape)}, so positions cannot be "
                    "chosen here; leave pos_slice out and choose them of the result."
                )
        return at_positions(value, pos_slice, self.prompt, self.has_batch_dim, trailing)

    def _check_width(self, stream: Tensor, name: str) -> None:
        """Refuse what is of another width than the stream."""
        size = widths(self._model.get_submodule(self._sites.architecture.unembed))
        if size is not None and stream.shape[-1] != size[0]:
            raise InputError(
                f"{name} has shape {tuple(stream.shape)}; expected parts of the stream, of {size[0]} numbers each."
            )

    def _has_lanes(self, value: Tensor) -> bool:
        """Whether a stream holds several lanes a position, ``[*batch, pos, lane, d_model]``."""
        return value.dim() == 3 + self.has_batch_dim

    def _unembedding(self) -> Any:
        return self._layer_at(self._sites.architecture.unembed)

    def _map(self, path: str) -> LinearMap:
        """What the layer at a path multiplies by and adds.

        Raises:
            InputError: it is no linear map; the model has no weights here, or its adapters were switched meanwhile.
        """
        self._check_adapters()
        reason = self._sites.no_maps.get(path)
        if reason:
            raise InputError(
                f"{path!r} is not a linear map: {reason}. Results of heads, attributions and decompositions by head or "
                "neuron are not to be had of it; passes, edits and the parts by layer are."
            )
        return linear_map(self._model, path)

    def _layer_at(self, path: str, described: bool = False) -> Any:
        """A module of the model, to be run on what this pass held; see :func:`lostattn.weights.with_weights`."""
        self._check_adapters()
        return with_weights(self._model, path, described)

    def _check_adapters(self) -> None:
        if switched_on(self._model) != self._adapters:
            raise InputError(
                "the adapters of this model were switched, merged or scaled after this pass, so its weights are not "
                "those that the pass ran with: set them as they were, or run the pass again."
            )

    def _directions(self, tokens: Any, rows: Tensor | None = None) -> Tensor:
        """The unembedding's rows of some tokens; of ``rows``, where it is at hand already."""
        weight = self.W_U if rows is None else rows
        if isinstance(tokens, str):
            raise InputError(
                f"tokens is {tokens!r}; a cache has no tokenizer. Give ids: la.answers.answer_tokens(model, prompt, "
                f"{tokens!r}) makes them."
            )
        ids = torch.as_tensor(tokens, device=weight.device)
        if ids.is_floating_point() or ids.dtype == torch.bool or ((ids < 0) | (ids >= len(weight))).any():
            raise InputError(f"tokens is {tokens!r}; expected ids from 0 to {len(weight) - 1}.")
        return weight[ids]
