"""Where things are in a Hugging Face vision-language model, worked out from its modules and its config.

Nothing here knows a model by name. The decoder's layers are the longest list of modules that call
transformers' attention interface under ``get_decoder()``; the vision tower's are the longest such list
elsewhere; the order of what happens inside a layer is read from the source of its ``forward``.
All paths are relative to the Hugging Face model (``"model.language_model.layers.3"``).
"""

from __future__ import annotations

from dataclasses import replace
from typing import Any

from torch import nn

from lostattn.architecture.call_order import calls_attention, children_in_order
from lostattn.architecture.cross_attention import ahead_of
from lostattn.architecture.dataflow import ATTENTION_CALL
from lostattn.architecture.layer import block_of, stack_of
from lostattn.architecture.layer_loop import is_norm, layer_loop
from lostattn.architecture.logit_path import read_logit_path
from lostattn.architecture.structure import Architecture, Attention, Block, Cross, Stack, Update, Vision
from lostattn.architecture.vision import of_pictures, vision_if_any
from lostattn.errors import UnsupportedModel
from lostattn.weights.kinds import is_linear_layer

__all__ = ["Architecture", "Attention", "Block", "Stack", "Update", "Vision", "resolve"]


def resolve(model: Any) -> Architecture:
    """Find the parts of a Hugging Face image-text-to-text model.

    Raises:
        UnsupportedModel: with what was looked for and what was found.
    """
    kind = type(model).__name__
    if not hasattr(model, "get_decoder") or not hasattr(model, "get_output_embeddings"):
        raise UnsupportedModel(
            f"{kind} is no generative transformers model: looked for get_decoder() and get_output_embeddings(), "
            f"found children {[name for name, _ in model.named_children()]}. "
            "Load a *ForConditionalGeneration checkpoint (image-text-to-text)."
        )
    paths = {id(module): path for path, module in model.named_modules()}
    decoder = _innermost_decoder(model)
    head = model.get_output_embeddings() or _head_beside(model, paths.get(id(decoder), ""))
    if id(decoder) not in paths or head is None or decoder is model:
        raise UnsupportedModel(
            f"{kind} is no generative model: looked for a decoder below it and an unembedding, found "
            f"{'no decoder' if decoder is model else type(decoder).__name__} and "
            f"{'no unembedding' if head is None else type(head).__name__}. "
            "Load a *ForConditionalGeneration checkpoint (image-text-to-text)."
        )
    stacks = _attention_stacks(model)
    at = paths[id(decoder)]
    inside = {p: b for p, b in stacks.items() if p.startswith(f"{at}.") and not of_pictures(p.removeprefix(at))}
    if not inside:
        raise UnsupportedModel(
            f"{kind}: looked for a list of layers that call `{ATTENTION_CALL}` below {at!r}; "
            f"lists found elsewhere: {sorted(stacks) or 'none'}. "
            "Its attention is not made through transformers' attention interface, so it could not be edited."
        )
    # The decoder's own list before one of a part of it, such as a vision tower that it holds; then the longest.
    layers = max(inside, key=lambda path: (path.count(".") == at.count(".") + 1, len(inside[path])))
    text = model.config.get_text_config(decoder=True)
    vision, reason = vision_if_any(model, {p: b for p, b in stacks.items() if p != layers}, at)
    norm, between = _around_the_layers(model, at, layers)
    return Architecture(
        decoder=at,
        stack=_with_ahead(stack_of("blocks", layers, inside[layers], text), model, layers),
        embed=paths[id(_embedding(model, decoder))],
        final_norm=norm,
        unembed=paths[id(head)],
        vision=vision,
        logit_path=read_logit_path(model, paths[id(head)]),
        between=between,
        no_vision=reason,
    )


def _with_ahead(stack: Stack, model: nn.Module, layers: str) -> Stack:
    """The stack with the cross-attention that stands in a list of layers of its own, each with the layer after it."""
    holder, _, name = layers.rpartition(".")
    found = dict(enumerate(stack.blocks))
    for i, path in ahead_of(model.get_submodule(holder), name).items():
        path = f"{holder}.{path}"
        other = block_of(path, model.get_submodule(path), stack.n_heads, stack.n_heads)
        if other.attn is not None and other.attn_out is not None and found[i].cross is None:
            found[i] = replace(found[i], cross=Cross(other.attn, other.attn_out, update=other.attn_update, ahead=True))
    return replace(stack, blocks=tuple(found.values()))


def _head_beside(model: nn.Module, decoder: str) -> nn.Module | None:
    """The ``lm_head`` of whatever holds the decoder, for a model that does not say which its unembedding is."""
    while decoder:
        decoder = decoder.rpartition(".")[0]
        head = getattr(model.get_submodule(decoder), "lm_head", None)
        if isinstance(head, nn.Module) and is_linear_layer(head):
            return head
    return None


def _innermost_decoder(model: Any) -> nn.Module:
    decoder: Any = model
    while hasattr(decoder, "get_decoder"):
        inner = decoder.get_decoder()
        if inner is None or inner is decoder:
            break
        decoder = inner
    return decoder


def _attention_stacks(model: nn.Module) -> dict[str, list[nn.Module]]:
    """Paths of the outermost ModuleLists of which an element holds an attention call; layers may lack one."""
    found: dict[str, list[nn.Module]] = {}
    for path, module in model.named_modules():
        if not isinstance(module, nn.ModuleList) or len(module) == 0:
            continue
        if any(path.startswith(f"{outer}.") for outer in found):
            continue
        if any(calls_attention(m) for m in module.modules()):
            found[path] = list(module)
    return found


def _embedding(model: Any, decoder: Any) -> nn.Module:
    """What turns token ids into vectors; of the decoder itself where the model as a whole does not say."""
    for holder in (model, decoder):
        try:
            found = holder.get_input_embeddings()
        except (NotImplementedError, AttributeError):
            found = getattr(holder, "embed_tokens", None)
        if isinstance(found, nn.Module):
            return found
    raise UnsupportedModel(f"{type(model).__name__}: looked for get_input_embeddings() or embed_tokens, found neither.")


def _around_the_layers(model: nn.Module, decoder: str, layers: str) -> tuple[str | None, tuple[int, ...]]:
    """The norm after the layers, and the layers after which the stream may be added to.

    The norm is looked for in what holds the layers, among the children called after them, then further out.
    """
    holder, _, name = layers.rpartition(".")
    n = len(model.get_submodule(layers))  # type: ignore[arg-type]
    loop = layer_loop(model.get_submodule(holder), name)
    inside = range(n) if loop is not None and loop.between else range(n - 1, n) if loop and loop.at_end else ()
    after = loop.after if loop is not None else children_in_order(model.get_submodule(holder))
    while not (norms := [child for child in after if is_norm(child)]) and holder != decoder:
        holder, _, name = holder.rpartition(".")
        order = children_in_order(model.get_submodule(holder))
        after = order[order.index(name) + 1 :] if name in order else order
    return f"{holder}.{norms[-1]}" if norms else None, tuple(inside)
