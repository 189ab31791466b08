"""The residual stream taken apart: TransformerLens' decompositions, for a sequence that holds a picture.

A decoder's last stream is a sum: what it began with, then what each attention and each FFN added, and what was added
between layers (:mod:`lostattn.updates`). Everything here reads that sum off a cache under TransformerLens' names,
signatures and labels, with two differences that a vision-language model asks for:

- the part called ``"embed"`` is the stream before the first block (``blocks.0.hook_resid_pre``), in which the
  projected patches already stand in the places of the image tokens. ``hook_embed`` alone would leave them out, and
  the parts would not add up to the whole.
- weights are never folded, so applying a norm to a part includes the norm's own weight. What a part writes towards
  a token is then ``part @ W_U`` times what the norm does to the whole stream, and the parts of a logit add up to it.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn

from lostattn.cache_positions import at_items, at_positions
from lostattn.described import with_weights
from lostattn.errors import InputError
from lostattn.norms import centred, gain, root_mean_square
from lostattn.passages import head_parts, why_no_heads
from lostattn.updates import INSIDE, KINDS, StreamUpdate, layer_updates, module_term

if TYPE_CHECKING:
    from lostattn.lenses import Readout
    from lostattn.logit_path import LogitPath
    from lostattn.prompt import Prompt
    from lostattn.sites import Sites

Tokens = int | str | Int[Tensor, ""] | Int[Tensor, "_"] | Int[Tensor, "_ _"]


class Decomposition:
    """The part of :class:`~lostattn.cache.ActivationCache` that takes the residual stream apart.

    In every method ``layer`` means "up to the input of this layer"; ``None``, ``-1`` and ``n_layers`` mean the whole
    stream, up to the unembedding. ``pos_slice`` is anything that names positions (see
    :class:`~lostattn.token_map.TokenMap`): a name, a slice, a list, a mask; an int takes the axis away. Each item
    must have equally many of them.
    """

    prompt: Prompt | None
    has_batch_dim: bool
    _sites: Sites
    _model: nn.Module

    if TYPE_CHECKING:

        def __getitem__(self, key: Any) -> Tensor: ...

        def __contains__(self, key: object) -> bool: ...

    @property
    def W_U(self) -> Float[Tensor, "d_vocab d_model"]:  # noqa: N802 (TransformerLens' name)
        """The unembedding's weight, as the model holds it: one row a token."""
        return self._unembedding().weight.detach()

    @property
    def final_stream(self) -> Float[Tensor, "*batch pos d_model"]:
        """The stream at its end: what the final norm is given; what the last layer gives where that is another shape.

        It is another shape in families whose stream has several lanes, which are merged at the end.
        """
        last: Tensor = self["resid_post", -1]
        norm = "ln_final.hook_in"
        return self[norm] if norm in self and self[norm].shape == last.shape else last

    def accumulated_resid(
        self,
        layer: int | None = None,
        incl_mid: bool = False,
        apply_ln: bool = False,
        pos_slice: Any = None,
        mlp_input: bool = False,
        return_labels: bool = False,
    ) -> Any:
        """The stream before each layer: ``[component, *batch, *pos, d_model]``, labels ``"0_pre"`` … ``"final_post"``.

        Args:
            layer: up to the input of which layer.
            incl_mid: also the stream between the two updates of each earlier layer (``"0_mid"``) where there is one,
                after cross-attention that stands between them (``"0_mid_cross"``), and before what is added between
                layers (``"0_post"``).
            apply_ln: apply the norm that reads the result. At the end of the stream, that is the final norm with
                statistics of each stream's own (the logit lens); before it, with the statistics of the layer's input.
            pos_slice: which positions.
            mlp_input: end with the stream between the updates of ``layer``.
            return_labels: return ``(components, labels)``.
        """
        end = self._layer(layer, mlp_input)
        parts, labels = [], []
        for i in range(end + 1):
            if i == self._n_layers:
                parts.append(self.final_stream)
                labels.append("final_post")
                continue
            parts.append(self["resid_pre", i])
            labels.append(f"{i}_pre")
            mids = (
                [m for m in ("mid", "mid_cross") if f"blocks.{i}.hook_resid_{m}" in self._sites.at] if incl_mid else []
            )
            for mid in mids if i < end else [self._mid(i)] if mlp_input else []:
                parts.append(self[f"resid_{mid}", i])
                labels.append(f"{i}_{mid}")
            if incl_mid and i < end and f"blocks.{i}.hook_between" in self._sites.at:
                parts.append(self["resid_post", i])
                labels.append(f"{i}_post")
        stack = torch.stack([self._at(part, pos_slice) for part in parts])
        if apply_ln:
            stack = self.apply_ln_to_stack(stack, end, mlp_input, pos_slice, recompute_ln=end == self._n_layers)
        return (stack, labels) if return_labels else stack

    def decompose_resid(
        self,
        layer: int | None = None,
        mlp_input: bool = False,
        mode: str = "all",
        apply_ln: bool = False,
        pos_slice: Any = None,
        incl_embeds: bool = True,
        return_labels: bool = False,
    ) -> Any:
        """What the stream began with and what each update added: labels ``"embed"``, ``"0_attn_out"``, ``"0_mlp_out"``.

        Where something is added between two layers, that is a part too (``"0_between"``), and a layer whose attention
        and FFN cannot be told apart is one part (``"0_layer_out"``). With ``mode="all"`` the parts add up to the stream
        exactly (an update is a difference of the stream), under interventions too. Where the cache does not hold the
        stream, ``hook_attn_out`` and ``hook_mlp_out`` are used, if they are what is added.

        Args:
            layer: up to the input of which layer.
            mlp_input: also the attention of ``layer``.
            mode: all updates, or those of one kind: ``"attn"``, ``"cross_attn"``, ``"mlp"``, ``"between"`` or
                ``"layer"``.
            apply_ln: scale the parts by the norm that reads their sum.
            pos_slice: which positions.
            incl_embeds: begin with the stream before the first block.
            return_labels: return ``(components, labels)``.
        """
        if mode != "all" and mode not in KINDS:
            raise InputError(f"mode is {mode!r}; expected 'all', 'mlp', 'attn', 'cross_attn', 'between' or 'layer'.")
        end = self._layer(layer, mlp_input)
        parts, labels = [], []
        if incl_embeds:
            parts.append(self["resid_pre", 0])
            labels.append("embed")
        for update in self._updates(end, mlp_input):
            if mode in ("all", update.kind):
                parts.append(self._value(update))
                labels.append(update.label)
        if not parts:
            raise InputError(f"layer={layer} with mode={mode!r} and incl_embeds=False leaves no part at all.")
        stack = torch.stack([self._at(part, pos_slice) for part in parts])
        if apply_ln:
            stack = self.apply_ln_to_stack(stack, end, mlp_input, pos_slice)
        return (stack, labels) if return_labels else stack

    def stack_activation(
        self, activation_name: str, layer: int | None = -1, sublayer_type: str | None = None
    ) -> Float[Tensor, "layer *rest"]:
        """One point of every layer before ``layer``, stacked: ``stack_activation("pattern")``.

        ``"between"`` (alias ``"deepstack"``) is zero after the layers after which nothing is added.
        """
        layers = range(self._layer(layer))
        if activation_name in ("between", "deepstack"):
            here = [f"blocks.{i}.hook_between" in self._sites.at for i in layers]
            return torch.stack([self["between", i] if here[i] else torch.zeros_like(self["resid_post", i])
                                for i in layers])  # fmt: skip
        return torch.stack([self[activation_name, i, sublayer_type] for i in layers])

    def stack_head_results(
        self,
        layer: int | None = -1,
        return_labels: bool = False,
        incl_remainder: bool = False,
        pos_slice: Any = None,
        apply_ln: bool = False,
    ) -> Any:
        """What each head wrote into the stream: ``[component, *batch, *pos, d_model]``, labels ``"L0H0"``, ….

        Under grouped keys each *query* head is a part of its own. Where attention's output is multiplied by a number
        on its way into the stream, or goes through a norm (Gemma 3, GLM-4V), so does each head's part, with the norm's
        scale held at what it was in the pass: the parts and the output map's bias add up to attention's update.
        Layers whose heads cannot be told apart are refused, or left to the remainder where there is one.

        Args:
            layer: heads of all layers before this one.
            return_labels: return ``(components, labels)``.
            incl_remainder: end with the rest of the stream (``"remainder"``), so that the parts add up to it.
            pos_slice: which positions.
            apply_ln: scale the parts by the norm that reads the stream.
        """
        end = self._layer(layer)
        parts, labels = [], []
        for i in range(end):
            if incl_remainder and why_no_heads(self, i):
                continue
            heads = head_parts(self, i, pos_slice)
            parts += list(heads)
            labels += [f"L{i}H{h}" for h in range(len(heads))]
        if incl_remainder:
            whole = self._at(self._stream(end), pos_slice)
            parts.append(whole - torch.stack(parts).sum(0) if parts else whole)
            labels.append("remainder")
        if not parts:
            raise InputError("layer=0 has no heads before it; expected a layer from 1 to n_layers, or None for all.")
        stack = torch.stack(parts)
        if apply_ln:
            stack = self.apply_ln_to_stack(stack, end, pos_slice=pos_slice)
        return (stack, labels) if return_labels else stack

    def get_full_resid_decomposition(
        self,
        layer: int | None = None,
        mlp_input: bool = False,
        expand_neurons: bool = True,
        apply_ln: bool = False,
        pos_slice: Any = None,
        return_labels: bool = False,
        project_output_onto: Float[Tensor, "d_model *out"] | None = None,
    ) -> Any:
        """The stream as heads, neurons (or whole FFNs), what it began with, and biases.

        Labels: ``"L0H0"``, …, ``"L0N0"`` (or ``"0_mlp_out"``), …, ``"embed"``, ``"bias"``. Where heads cannot be told
        apart, a layer's attention is one part (``"0_attn_out"``, ``"0_layer_out"``), and so is what is added between
        layers (``"0_between"``). The parts add up to the stream; norms after a module are treated as in
        :meth:`stack_head_results`. What an edit of a module's output changed beside its heads is in none of them.

        Args:
            layer: up to the input of which layer.
            mlp_input: also the heads of ``layer``.
            expand_neurons: each neuron by itself rather than each FFN (``"0_mlp_out"``).
            apply_ln: scale the parts by the norm that reads their sum.
            pos_slice: which positions.
            return_labels: return ``(components, labels)``.
            project_output_onto: directions ``[d_model]`` or ``[d_model, out]`` onto which every part is projected
                before neurons are told apart, so that no ``[neuron, pos, d_model]`` tensor is ever made.
        """
        from lostattn.full_decomposition import full_decomposition

        end = self._layer(layer, mlp_input)
        stack, labels = full_decomposition(
            self, end, mlp_input, expand_neurons, apply_ln, pos_slice, project_output_onto
        )
        return (stack, labels) if return_labels else stack

    def apply_ln_to_stack(
        self,
        residual_stack: Float[Tensor, "component *rest d_model"],
        layer: int | None = None,
        mlp_input: bool = False,
        pos_slice: Any = None,
        batch_slice: Any = None,
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

    def logit_attrs(
        self,
        residual_stack: Float[Tensor, "component *rest d_model"],
        tokens: Tokens,
        incorrect_tokens: Tokens | None = None,
        pos_slice: Any = None,
        batch_slice: Any = None,
        has_batch_dim: bool | None = None,
    ) -> Float[Tensor, "component *rest"]:
        """What each part of the final stream writes towards a token's logit (or a difference of two).

        A number that the family multiplies its logits by (Cohere, Granite) is in it. A soft cap (Gemma) and biases (of
        the final norm, of the unembedding) belong to no part and are not: attributions add up to the logit before the
        cap, and ``cache.to_logits(stack.sum(0))`` gives the model's logits, with all of them.

        Args:
            residual_stack: the parts.
            tokens: token ids: one, ``[batch]``, or ``[batch, pos]``. See :func:`lostattn.answers.answer_tokens`.
            incorrect_tokens: subtract the attribution towards these.
            pos_slice: the positions that were chosen of the parts.
            batch_slice: the items that were chosen of the parts.
            has_batch_dim: whether the parts have a batch axis (default: as the cache).

        Raises:
            InputError: tokens that are no ids of this vocabulary, or of another shape than the parts; a model whose
                logits are not read off the normed final stream.
        """
        path = self._logit_path()
        direction = self._directions(tokens)
        if incorrect_tokens is not None:
            direction = direction - self._directions(incorrect_tokens)
        scaled = self.apply_ln_to_stack(residual_stack, -1, False, pos_slice, batch_slice, has_batch_dim)
        if scaled.dim() == 4 and direction.dim() == 2:
            direction = direction.unsqueeze(-2)
        try:
            return (scaled * direction.to(scaled)).sum(-1) * (path.before * path.scale)
        except RuntimeError as error:
            raise InputError(
                f"tokens of shape {tuple(direction.shape[:-1])} do not fit parts of shape "
                f"{tuple(residual_stack.shape)} [component, batch, pos, d_model]; give one id, [batch] or [batch, pos]."
            ) from error

    def to_logits(self, stream: Float[Tensor, "*rest d_model"]) -> Float[Tensor, "*rest token"]:
        """The logits that the model reads off a stream: final norm, unembedding, then its scale and soft cap.

        The norm takes the stream's own statistics. ``cache.to_logits(cache.decompose_resid().sum(0))`` is the model's
        logits.

        Raises:
            InputError: a model whose logits are not read off the normed final stream.
        """
        self._refuse_lanes()
        path, norm = self._logit_path(), self._norm(self._n_layers)
        with torch.set_grad_enabled(stream.requires_grad):
            normed = stream if norm is None else norm(stream)
            return path.finish(self._unembedding()(normed * path.before if path.before != 1.0 else normed))

    def logit_lens(self, positions: Any = "last", **keywords: Any) -> Readout:
        """The stream before each layer, read through the final norm and the unembedding.

        See :func:`lostattn.lenses.logit_lens`.
        """
        from lostattn.lenses import logit_lens

        return logit_lens(self, positions, **keywords)  # type: ignore[arg-type]

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
        return None if path is None else with_weights(self._model, path)

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
        found: Tensor = update.of(self)  # type: ignore[arg-type]
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

    def _has_lanes(self, value: Tensor) -> bool:
        """Whether a stream holds several lanes a position, ``[*batch, pos, lane, d_model]``."""
        return value.dim() == 3 + self.has_batch_dim

    def _unembedding(self) -> Any:
        return with_weights(self._model, self._sites.architecture.unembed)

    def _directions(self, tokens: Any) -> Tensor:
        weight = self.W_U
        if isinstance(tokens, str):
            raise InputError(
                f"tokens is {tokens!r}; a cache has no tokenizer. Give ids: la.answers.answer_tokens(model, prompt, "
                f"{tokens!r}) makes them."
            )
        ids = torch.as_tensor(tokens, device=weight.device)
        if ids.is_floating_point() or ids.dtype == torch.bool or ((ids < 0) | (ids >= len(weight))).any():
            raise InputError(f"tokens is {tokens!r}; expected ids from 0 to {len(weight) - 1}.")
        return weight[ids]
