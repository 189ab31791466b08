"""The residual stream taken apart: TransformerLens' decompositions, for a sequence that holds a picture.

A decoder's last stream is a sum: what it began with, then what each attention and each FFN added, and what was added
between layers (:mod:`lostattn.points.stream_updates`). Everything here reads that sum off a cache under
TransformerLens' names, signatures and labels, with two differences that a vision-language model asks for:

- the part called ``"embed"`` is the stream before the first block (``blocks.0.hook_resid_pre``), in which the
  projected patches already stand in the places of the image tokens. ``hook_embed`` alone would leave them out, and
  the parts would not add up to the whole.
- weights are never folded, so applying a norm to a part includes the norm's own weight. What a part writes towards
  a token is then ``part @ W_U`` times what the norm does to the whole stream, and the parts of a logit add up to it.
"""

from __future__ import annotations

from typing import Any

import torch
from jaxtyping import Float, Int
from torch import Tensor

from lostattn.arguments import checked_call
from lostattn.arguments.known_by import ItemsTaken, TakenOut
from lostattn.cache.full_decomposition import full_decomposition
from lostattn.cache.output_maps import head_parts, why_no_heads
from lostattn.cache.same_shapes import stacked
from lostattn.cache.stream import StreamReader
from lostattn.errors import InputError
from lostattn.points.stream_updates import KINDS

Tokens = int | str | Int[Tensor, ""] | Int[Tensor, "_"] | Int[Tensor, "_ _"]


@checked_call
class Decomposition(StreamReader):
    """The part of :class:`~lostattn.cache.ActivationCache` that takes the residual stream apart.

    In every method ``layer`` means "up to the input of this layer"; ``None``, ``-1`` and ``n_layers`` mean the whole
    stream, up to the unembedding. ``pos_slice`` is anything that names positions (see
    :class:`~lostattn.prompt.token_map.TokenMap`): a name, a slice, a list, a mask; an int takes the axis away. Each
    item must have equally many of them.
    """

    def accumulated_resid(
        self,
        layer: int | None = None,
        incl_mid: bool = False,
        apply_ln: bool = False,
        pos_slice: TakenOut = None,
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
        pos_slice: TakenOut = None,
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
        if not layers:
            raise InputError(f"layer is {layer}, and no layer stands before it; expected at least 1, or None for all.")
        if activation_name in ("between", "deepstack"):
            here = [f"blocks.{i}.hook_between" in self._sites.at for i in layers]
            return torch.stack([self["between", i] if here[i] else torch.zeros_like(self["resid_post", i])
                                for i in layers])  # fmt: skip
        return stacked([self[activation_name, i, sublayer_type] for i in layers], layers, activation_name)

    def stack_head_results(
        self,
        layer: int | None = -1,
        return_labels: bool = False,
        incl_remainder: bool = False,
        pos_slice: TakenOut = None,
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
        pos_slice: TakenOut = None,
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
        end = self._layer(layer, mlp_input)
        stack, labels = full_decomposition(
            self, end, mlp_input, expand_neurons, apply_ln, pos_slice, project_output_onto
        )
        return (stack, labels) if return_labels else stack

    def logit_attrs(
        self,
        residual_stack: Float[Tensor, "component *rest d_model"],
        tokens: Tokens,
        incorrect_tokens: Tokens | None = None,
        pos_slice: TakenOut = None,
        batch_slice: ItemsTaken = None,
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
