"""Where things are in a Hugging Face vision-language model, worked out from its modules and its config.

Nothing here knows a model by name. The decoder's layers are the longest list of modules that call
transformers' attention interface under ``get_decoder()``; the vision tower's are the longest such list
elsewhere; the order of what happens inside a layer is read from the source of its ``forward``.
All paths are relative to the Hugging Face model (``"model.language_model.layers.3"``).
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from torch import nn

from lostattn.call_order import (
    ATTENTION_CALL,
    attention_in_comprehension,
    calls_attention,
    children_around_attention,
    children_in_order,
    forward_calls,
)
from lostattn.errors import UnsupportedModel

FUSED_QKV = ("qkv", "qkv_proj", "query_key_value", "c_attn", "Wqkv")
PROJECTORS = (
    "multi_modal_projector",
    "merger",
    "connector",
    "projector",
    "aligner",
    "modality_projection",
    "mlp1",
)
EMBEDDINGS = ("embeddings", "patch_embed", "patch_embedding", "patch_conv")


@dataclass(frozen=True)
class Attention:
    """One attention module: its path, its operation, and the modules around it (``None`` where absent)."""

    path: str
    operation: str  # nnsight's name for the call of the attention interface
    windows: bool  # the call is made once per window of the sequence
    q: str | None
    k: str | None
    v: str | None
    qkv: str | None
    order: tuple[str, ...]  # paths of the input projections, in the order in which they run
    o: str


@dataclass(frozen=True)
class Block:
    """One layer of a stack: the norms, the attention, the FFN and its linear maps, as paths."""

    path: str
    ln1: str
    attn: Attention
    ln2: str
    mlp: str
    mlp_order: tuple[tuple[str, str], ...]  # ("pre" | "pre_linear", path) in running order
    mlp_out: str


@dataclass(frozen=True)
class Stack:
    """A tower of blocks and its sizes."""

    prefix: str  # of the hook names: "blocks", "vision_encoder.encoder_layers", …
    blocks: tuple[Block, ...]
    n_heads: int
    n_key_value_heads: int
    d_head: int
    d_model: int
    d_mlp: int


@dataclass(frozen=True)
class Vision:
    """The vision tower with its embedding and the projector into the decoder's space."""

    path: str
    embed: str
    stack: Stack
    projector: str
    projector_inside: bool  # the projector runs inside the tower's forward (Qwen's merger)
    before_embed: bool  # the tower runs before the token embedding does
    n_read: int  # how many of its layers the decoder's input depends on


@dataclass(frozen=True)
class Architecture:
    """Everything that hook points are made from."""

    decoder: str
    stack: Stack
    embed: str
    final_norm: str
    unembed: str
    vision: Vision | None


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
    head = model.get_output_embeddings()
    if id(decoder) not in paths or head is None or decoder is model:
        raise UnsupportedModel(
            f"{kind} is no generative model: looked for a decoder below it and an unembedding, found "
            f"{'no decoder' if decoder is model else type(decoder).__name__} and "
            f"{'no unembedding' if head is None else type(head).__name__}. "
            "Load a *ForConditionalGeneration checkpoint (image-text-to-text)."
        )
    stacks = _attention_stacks(model)
    at = paths[id(decoder)]
    inside = {path: blocks for path, blocks in stacks.items() if path.startswith(f"{at}.")}
    if not inside:
        raise UnsupportedModel(
            f"{kind}: looked for a list of layers that call `{ATTENTION_CALL}` below {at!r}; "
            f"lists found elsewhere: {sorted(stacks) or 'none'}. "
            "Its attention is not made through transformers' attention interface, so it could not be edited."
        )
    layers = max(inside, key=lambda path: len(inside[path]))
    text = model.config.get_text_config()
    return Architecture(
        decoder=at,
        stack=_stack("blocks", layers, inside[layers], text),
        embed=paths[id(model.get_input_embeddings())],
        final_norm=f"{at}.{_final_norm(decoder)}",
        unembed=paths[id(head)],
        vision=_vision(model, {p: b for p, b in stacks.items() if p not in inside}, at),
    )


def _innermost_decoder(model: Any) -> nn.Module:
    decoder: Any = model
    while hasattr(decoder, "get_decoder"):
        inner = decoder.get_decoder()
        if inner is None or inner is decoder:
            break
        decoder = inner
    return decoder


def _attention_stacks(model: nn.Module) -> dict[str, list[nn.Module]]:
    """Paths of the outermost ModuleLists whose every element holds an attention call."""
    found: dict[str, list[nn.Module]] = {}
    for path, module in model.named_modules():
        if not isinstance(module, nn.ModuleList) or len(module) == 0:
            continue
        if any(path.startswith(f"{outer}.") for outer in found):
            continue
        if all(any(calls_attention(m) for m in element.modules()) for element in module):
            found[path] = list(module)
    return found


def _final_norm(decoder: nn.Module) -> str:
    order = [n for n in children_in_order(decoder) if not isinstance(getattr(decoder, n), nn.ModuleList)]
    norms = [name for name in order if "norm" in name.lower() or "ln_f" in name]
    if not norms:
        raise UnsupportedModel(f"{type(decoder).__name__}: no final norm among its calls {order}.")
    return norms[-1]


def _stack(prefix: str, path: str, layers: list[nn.Module], config: Any) -> Stack:
    blocks = tuple(_block(f"{path}.{i}", layer) for i, layer in enumerate(layers))
    heads = _first(config, "num_attention_heads", "num_heads", "attention_heads")
    width = _first(config, "hidden_size", "embed_dim", "d_model")
    return Stack(
        prefix=prefix,
        blocks=blocks,
        n_heads=heads,
        n_key_value_heads=getattr(config, "num_key_value_heads", None) or heads,
        d_head=getattr(config, "head_dim", None) or width // heads,
        d_model=width,
        d_mlp=_first(config, "intermediate_size", "mlp_dim"),
    )


def _first(config: Any, *names: str) -> int:
    for name in names:
        value = getattr(config, name, None)
        if isinstance(value, int):
            return value
    raise UnsupportedModel(f"{type(config).__name__} has none of {', '.join(names)}.")


def _block(path: str, layer: nn.Module) -> Block:
    order = children_in_order(layer)
    attention = [n for n in order if any(calls_attention(m) for m in getattr(layer, n).modules())]
    if len(attention) != 1:
        raise UnsupportedModel(f"{path} calls {order}: looked for one attention module, found {attention}.")
    at = order.index(attention[0])
    before, after = order[:at], order[at + 1 :]
    if len(before) != 1 or len(after) != 2:
        raise UnsupportedModel(
            f"{path} calls {order}: looked for [norm, attention, norm, FFN], the layout in which an update is what a "
            "module adds to the stream. Layers with further norms, gates or parallel branches are not supported yet."
        )
    ffn = getattr(layer, after[1])
    linears = [n for n in children_in_order(ffn) if isinstance(getattr(ffn, n), nn.Linear)]
    if len(linears) not in (2, 3):
        raise UnsupportedModel(f"{path}.{after[1]} calls the linear maps {linears}: looked for two, or three if gated.")
    kinds = ("pre", "pre_linear")[: len(linears) - 1]
    return Block(
        path=path,
        ln1=f"{path}.{before[0]}",
        attn=_attention(f"{path}.{attention[0]}", getattr(layer, attention[0])),
        ln2=f"{path}.{after[0]}",
        mlp=f"{path}.{after[1]}",
        mlp_order=tuple(zip(kinds, (f"{path}.{after[1]}.{n}" for n in linears[:-1]), strict=True)),
        mlp_out=f"{path}.{after[1]}.{linears[-1]}",
    )


def _attention(path: str, module: nn.Module) -> Attention:
    if not calls_attention(module):
        raise UnsupportedModel(f"{path}: the attention call stands in a submodule, which is not supported yet.")
    before, after = children_around_attention(module)
    separate = {name[0]: name for name in before if name in ("q_proj", "k_proj", "v_proj")}
    fused = next((name for name in before if name in FUSED_QKV), None)
    if not after or (len(separate) != 3 and fused is None):
        raise UnsupportedModel(
            f"{path} calls {before} before its attention and {after} after it: "
            "looked for q_proj, k_proj and v_proj (or one fused projection) before, and an output projection after."
        )
    calls = [name for name, _ in forward_calls(module) if name == ATTENTION_CALL]
    full = {letter: f"{path}.{name}" for letter, name in separate.items()}
    return Attention(
        path=path,
        # nnsight numbers the binding `attention_interface = …` as 0 and the calls from 1; the last call is
        # the one that ordinary kernels take (flash attention has a branch of its own before it).
        operation=f"{ATTENTION_CALL}_{len(calls)}",
        windows=attention_in_comprehension(module),
        q=full.get("q"),
        k=full.get("k"),
        v=full.get("v"),
        qkv=f"{path}.{fused}" if fused else None,
        order=tuple(f"{path}.{n}" for n in before if n in separate.values() or n == fused),
        o=f"{path}.{after[0]}",
    )


def _vision(model: Any, stacks: dict[str, list[nn.Module]], decoder: str) -> Vision | None:
    config = getattr(model.config, "vision_config", None)
    if config is None or not stacks:
        return None
    layers = max(stacks, key=lambda path: len(stacks[path]))
    base_path = decoder.rpartition(".")[0]
    base = model.get_submodule(base_path)
    tower_name = layers.removeprefix(f"{base_path}.").split(".")[0]
    tower_path = f"{base_path}.{tower_name}"
    tower = getattr(base, tower_name)
    projector, inside = _projector(base, base_path, tower, tower_path)
    embed = next((n for n in EMBEDDINGS if hasattr(tower, n)), None)
    if embed is None:
        raise UnsupportedModel(f"{tower_path}: no patch embedding among {[n for n, _ in tower.named_children()]}.")
    style = "blocks" if layers.endswith(".blocks") else "encoder_layers"
    calls = [name for name, _ in forward_calls(base)]
    return Vision(
        path=tower_path,
        embed=f"{tower_path}.{embed}",
        stack=_stack(f"vision_encoder.{style}", layers, stacks[layers], config),
        projector=projector,
        projector_inside=inside,
        before_embed=_position(calls, "get_image_features") < _position(calls, "get_input_embeddings"),
        n_read=_layers_read(model.config, len(stacks[layers])),
    )


def _layers_read(config: Any, n_layers: int) -> int:
    """How many vision layers feed the projector: LLaVA takes a hidden state from before the last layer."""
    chosen = getattr(config, "vision_feature_layer", None)
    if chosen is None:
        return n_layers
    states = [chosen] if isinstance(chosen, int) else list(chosen)
    return max(state if state >= 0 else n_layers + 1 + state for state in states)


def _projector(base: nn.Module, base_path: str, tower: nn.Module, tower_path: str) -> tuple[str, bool]:
    for name in PROJECTORS:
        if isinstance(getattr(base, name, None), nn.Module):
            return f"{base_path}.{name}", False
        if isinstance(getattr(tower, name, None), nn.Module):
            return f"{tower_path}.{name}", True
    raise UnsupportedModel(
        f"no projector among {[n for n, _ in base.named_children()]} or {[n for n, _ in tower.named_children()]}: "
        f"looked for {', '.join(PROJECTORS)}."
    )


def _position(calls: list[str], name: str) -> int:
    return next((i for i, call in enumerate(calls) if name in call), len(calls))
