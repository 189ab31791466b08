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

from lostattn.call_order import attention_in_comprehension, calls_attention, children_in_order, forward_calls
from lostattn.dataflow import ATTENTION_CALL, INPUT, Call, Flow, Value, flow
from lostattn.errors import UnsupportedModel

FUSED_QKV = ("qkv", "qkv_proj", "c_attn", "Wqkv")  # rows of all queries, then all keys, then all values
SEPARATE = {
    **dict.fromkeys(("q_proj", "query", "q", "wq", "q_lin", "linear_q"), "q"),
    **dict.fromkeys(("k_proj", "key", "k", "wk", "k_lin", "linear_k"), "k"),
    **dict.fromkeys(("v_proj", "value", "v", "wv", "v_lin", "linear_v"), "v"),
}
PROJECTORS = (
    "multi_modal_projector",
    "merger",
    "connector",
    "projector",
    "aligner",
    "modality_projection",
    "mlp1",
    "embed_vision",
    "mm_projector",
    "vision_projector",
)
NOT_A_TOWER = ("video", "audio", "qformer", "projector", "resampler", "perceiver", "connector")  # if there is another
EMBEDDINGS = ("embeddings", "patch_embed", "patch_embedding", "patch_conv", "patch_embedder")


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
    o: str | None
    n_heads: int
    n_key_value_heads: int
    z_is_kernels: bool = True  # what the output projection gets is the kernel's output, without a gate or a norm
    v_is_values: bool = True  # what the value projection gives is what the kernel gets, without a norm


@dataclass(frozen=True)
class Update:
    """What a layer adds to the stream: the output of the module at ``path``, times ``factor`` (``None``: a gate)."""

    path: str
    factor: float | None


@dataclass(frozen=True)
class Block:
    """One layer of a stack: the norms, the attention, the FFN and its linear maps, as paths (``None`` where absent)."""

    path: str
    ln1: str | None
    attn: Attention | None
    attn_out: str | None  # the child that mixes positions: attention, or what a layer without it has in its place
    mid: str | None  # the module whose input is the stream between the two updates
    ln2: str | None
    mlp: str | None
    mlp_order: tuple[tuple[str, str], ...]  # ("pre" | "pre_linear", path) in running order
    mlp_post: str | None  # the last linear map of a plain FFN
    mlp_out: str | None
    attn_update: Update | None
    mlp_update: Update | None

    @property
    def kind(self) -> str:
        """The layout in a word or two, for tables and messages."""
        if self.attn is None:
            return "no attention"
        if self.attn_update is None or self.mlp_update is None:
            return "differences only" if self.mid else "one update" if self.attn_update else "other"
        if self.mid is None:
            return "parallel"
        if self.attn_update.factor != 1.0 or self.mlp_update.factor != 1.0:
            return "scaled"
        plain = self.attn_update.path == self.attn_out and self.mlp_update.path in (self.mlp, self.mlp_out)
        return "plain" if plain else "post-norm"


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
    embed: str | None
    stack: Stack
    projector: str | None
    projector_inside: bool  # the projector runs inside the tower's forward (Qwen's merger)
    before_embed: bool  # the tower runs before the token embedding does
    n_read: int  # how many of its layers the decoder's input depends on


@dataclass(frozen=True)
class Architecture:
    """Everything that hook points are made from."""

    decoder: str
    stack: Stack
    embed: str
    final_norm: str | None
    unembed: str
    vision: Vision | None
    no_vision: str = ""  # why there is no vision tower to look into, where the model has one


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
    inside = {p: b for p, b in stacks.items() if p.startswith(f"{at}.") and not _of_pictures(p.removeprefix(at))}
    if not inside:
        raise UnsupportedModel(
            f"{kind}: looked for a list of layers that call `{ATTENTION_CALL}` below {at!r}; "
            f"lists found elsewhere: {sorted(stacks) or 'none'}. "
            "Its attention is not made through transformers' attention interface, so it could not be edited."
        )
    # The decoder's own list before one of a part of it, such as a vision tower that it holds; then the longest.
    layers = max(inside, key=lambda path: (path.count(".") == at.count(".") + 1, len(inside[path])))
    text = model.config.get_text_config(decoder=True)
    vision, reason = _vision_if_any(model, {p: b for p, b in stacks.items() if p != layers}, at)
    norm = _final_norm(decoder)
    return Architecture(
        decoder=at,
        stack=_stack("blocks", layers, inside[layers], text),
        embed=paths[id(_embedding(model, decoder))],
        final_norm=f"{at}.{norm}" if norm else None,
        unembed=paths[id(head)],
        vision=vision,
        no_vision=reason,
    )


def _head_beside(model: nn.Module, decoder: str) -> nn.Module | None:
    """The ``lm_head`` of whatever holds the decoder, for a model that does not say which its unembedding is."""
    while decoder:
        decoder = decoder.rpartition(".")[0]
        head = getattr(model.get_submodule(decoder), "lm_head", None)
        if isinstance(head, nn.Linear):
            return head
    return None


def _of_pictures(path: str) -> bool:
    """Whether a list of layers inside the decoder is a vision tower that it holds."""
    return any(word in path for word in ("vision", "visual", "image"))


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


def _final_norm(decoder: nn.Module) -> str | None:
    order = [n for n in children_in_order(decoder) if not isinstance(getattr(decoder, n), nn.ModuleList)]
    norms = [name for name in order if "norm" in name.lower() or "ln_f" in name]
    return norms[-1] if norms else None


def _stack(prefix: str, path: str, layers: list[nn.Module], config: Any) -> Stack:
    heads = _first(config, "num_attention_heads", "num_heads", "attention_heads", "encoder_attention_heads", "n_heads")
    width = _first(config, "hidden_size", "embed_dim", "d_model", "width")
    kv_heads = getattr(config, "num_key_value_heads", None) or heads
    return Stack(
        prefix=prefix,
        blocks=tuple(_block(f"{path}.{i}", layer, heads, kv_heads) for i, layer in enumerate(layers)),
        n_heads=heads,
        n_key_value_heads=kv_heads,
        d_head=getattr(config, "head_dim", None) or width // heads,
        d_model=width,
        d_mlp=_first(config, "intermediate_size", "mlp_dim", "ffn_dim", "d_ff", "decoder_ffn_dim", default=0),
    )


def _first(config: Any, *names: str, default: int | None = None) -> int:
    for name in names:
        value = getattr(config, name, None)
        if isinstance(value, int):
            return value
    if default is not None:
        return default
    raise UnsupportedModel(f"{type(config).__name__} has none of {', '.join(names)}.")


def _block(path: str, layer: nn.Module, n_heads: int, n_kv: int) -> Block:
    """Read a layer: what mixes positions, where the stream stands between the updates, and what adds them."""
    read = flow(layer)
    at = next((i for i, c in enumerate(read.calls) if _attention_in(layer.get_submodule(c.child)) is not None), None)
    middle = _middle(read, at)
    mixer = at if at is not None else _mixer(layer, read, middle)
    attention = None if at is None else _attention_in(layer.get_submodule(read.calls[at].child))
    below = "" if attention is None or not attention else f".{attention}"
    first = read.calls[mixer] if mixer is not None else None
    attn_update, mlp_update = _updates(path, layer, read, mixer, middle)
    ln1 = None if first is None else _norm_before(layer, read, first)
    ffn = _ffn(path, layer, read, mixer, middle)
    child = None if first is None else f"{path}.{first.child}"
    return Block(
        path=path,
        ln1=f"{path}.{ln1}" if ln1 else None,
        attn=None if at is None or first is None else _attention(f"{child}{below}", layer, n_heads, n_kv, path),
        attn_out=child,
        mid=f"{path}.{read.calls[middle].child}" if middle is not None else None,
        attn_update=attn_update,
        mlp_update=mlp_update,
        **ffn,
    )


def _attention_in(module: nn.Module) -> str | None:
    """The path, below a module, of the first one that calls the attention interface (``""``: the module itself)."""
    return next((path for path, inner in module.named_modules() if calls_attention(inner)), None)


def _is_norm(module: nn.Module) -> bool:
    return "norm" in type(module).__name__.lower()


def _middle(read: Flow, at: int | None) -> int | None:
    """The first call after the attention that is given the layer's input with something added to it."""
    for i, call in enumerate(read.calls):
        if i > (at if at is not None else -1) and call.given and _is_stream(call.given[0]):
            return i
    return None


def _is_stream(value: Value) -> bool:
    return value.kind == "sum" and value.factor == 1.0 and INPUT in value.parts


def _mixer(layer: nn.Module, read: Flow, middle: int | None) -> int | None:
    """In a layer without attention: what stands in its place, the last module before the middle that is no norm."""
    before = [
        i
        for i, call in enumerate(read.calls[:middle] if middle is not None else ())
        if not _is_norm(layer.get_submodule(call.child))
    ]
    return before[-1] if before else None


def _norm_before(layer: nn.Module, read: Flow, first: Call) -> str | None:
    """The norm of the stream whose output the attention is given."""
    sources = {value.child for value in first.given if value.kind == "child"}
    for call in read.calls:
        if call.child in sources and call.given[:1] == (INPUT,) and _is_norm(layer.get_submodule(call.child)):
            return call.child
    return None


def _updates(
    path: str, layer: nn.Module, read: Flow, mixer: int | None, middle: int | None
) -> tuple[Update | None, Update | None]:
    """The children whose outputs are added to the stream, by attention (or what is in its place) and by the FFN."""
    if mixer is None:
        return None, None
    if middle is not None:
        added = [part for part in read.calls[middle].given[0].parts if part != INPUT]
        rest = [p for p in read.result.parts if p != INPUT and p not in added]
        if len(added) != 1 or not _is_stream(read.result) or len(read.result.parts) != len(rest) + 2:
            rest = []
    elif _is_stream(read.result):
        parts = [part for part in read.result.parts if part != INPUT]
        added = [p for p in parts if p.child == read.calls[mixer].child]
        rest = [p for p in parts if p not in added]
    else:
        return None, None
    return _update(path, added), _update(path, rest)


def _update(path: str, parts: list[Value]) -> Update | None:
    if len(parts) != 1 or parts[0].kind != "child":
        return None
    return Update(f"{path}.{parts[0].child}", parts[0].factor)


def _ffn(path: str, layer: nn.Module, read: Flow, mixer: int | None, middle: int | None) -> dict[str, Any]:
    """The norm before the FFN, the FFN, and its linear maps where it is made of two or three of them."""
    out: dict[str, Any] = {"ln2": None, "mlp": None, "mlp_order": (), "mlp_post": None, "mlp_out": None}
    start = middle if middle is not None else mixer
    after = read.calls[start + (middle is None) :] if start is not None else ()
    if middle is not None and _is_norm(layer.get_submodule(read.calls[middle].child)):
        out["ln2"] = f"{path}.{read.calls[middle].child}"
        after = after[1:]
    modules = [(call.child, layer.get_submodule(call.child)) for call in after if call.child != ATTENTION_CALL]
    # Cross-attention may stand between the stream's middle and the FFN.
    names = [name for name, module in modules if not _is_norm(module) and _attention_in(module) is None]
    if not names:
        return out
    first = layer.get_submodule(names[0])
    if isinstance(first, nn.Linear):  # the maps of the FFN are the layer's own
        linears, inner, last = [n for n in names if isinstance(layer.get_submodule(n), nn.Linear)], path, None
    else:
        ffn = flow(first)
        inner = f"{path}.{names[0]}"
        linears = [call.child for call in ffn.calls if isinstance(first.get_submodule(call.child), nn.Linear)]
        last = ffn.result.child if ffn.result.kind == "child" and ffn.result.factor == 1.0 else ""
        out["mlp"] = out["mlp_out"] = inner
        if any(not isinstance(m, nn.Linear) and list(m.children()) for m in first.children()):
            return out  # experts
    if len(linears) not in (2, 3) or (last is not None and last != linears[-1]) or len(set(linears)) != len(linears):
        return out
    holder = first if out["mlp"] else layer
    width = holder.get_submodule(linears[-1]).in_features
    out["mlp_post"] = out["mlp_out"] = f"{inner}.{linears[-1]}"
    if all(holder.get_submodule(n).out_features == width for n in linears[:-1]):
        kinds = ("pre", "pre_linear")[: len(linears) - 1]
        out["mlp_order"] = tuple(zip(kinds, (f"{inner}.{n}" for n in linears[:-1]), strict=True))
    return out


def _attention(path: str, layer: nn.Module, n_heads: int, n_kv: int, at: str) -> Attention:
    """The attention module's own parts; a projection that is not found, or not of the expected width, is ``None``."""
    module: Any = layer.get_submodule(path.removeprefix(f"{at}."))
    read = flow(module)
    names = [call.child for call in read.calls]
    where = max((i for i, name in enumerate(names) if name == ATTENTION_CALL), default=len(names))
    n_heads = next((v for n in ("num_heads", "num_attention_heads", "n_heads") if (v := _own(module, n))), n_heads)
    groups = _own(module, "num_key_value_groups")
    n_kv = _own(module, "num_key_value_heads") or (n_heads // groups if groups else min(n_kv, n_heads))
    head = _own(module, "head_dim") or _own(module, "attention_head_size")
    before = [n for n in dict.fromkeys(names[:where]) if n != ATTENTION_CALL]
    found: dict[str, str] = {}
    for name in before:
        letter = SEPARATE.get(name.rpartition(".")[2])
        width = getattr(module.get_submodule(name), "out_features", None)
        heads = n_heads if letter == "q" else n_kv
        if letter and width and width % heads == 0 and (head is None or width == heads * head):
            found[letter] = f"{path}.{name}"
    fused = next((n for n in before if n in FUSED_QKV and _thirds(module.get_submodule(n), n_heads)), None)
    after = [c for c in read.calls[where + 1 :] if isinstance(module.get_submodule(c.child), nn.Linear)]
    output = next((c for c in after if c.given and c.given[0].known and c.given[0].kind != "input"), None)
    calls = [name for name, _ in forward_calls(module) if name == ATTENTION_CALL]
    projected = Value("child", found["v"].removeprefix(f"{path}.")) if "v" in found else None
    return Attention(
        path=path,
        # nnsight numbers the binding `attention_interface = …` as 0 and the calls from 1; the last call is
        # the one that ordinary kernels take (flash attention has a branch of its own before it).
        operation=f"{ATTENTION_CALL}_{len(calls)}",
        windows=attention_in_comprehension(module),
        q=found.get("q"),
        k=found.get("k"),
        v=found.get("v"),
        qkv=f"{path}.{fused}" if fused else None,
        order=tuple(f"{path}.{n}" for n in before if f"{path}.{n}" in found.values() or n == fused),
        o=f"{path}.{output.child}" if output else None,
        n_heads=n_heads,
        n_key_value_heads=n_kv,
        z_is_kernels=output is not None and output.given[0] == Value("child", ATTENTION_CALL),
        v_is_values=projected is not None and where < len(names) and projected in read.calls[where].given,
    )


def _own(module: Any, name: str) -> int | None:
    value = getattr(module, name, None)
    return value if isinstance(value, int) and not isinstance(value, bool) and value > 0 else None


def _thirds(module: Any, n_heads: int) -> bool:
    """Whether a projection gives equally many queries, keys and values."""
    width = getattr(module, "out_features", 0)
    return width == 3 * module.in_features and width % (3 * n_heads) == 0


def _vision_if_any(model: Any, stacks: dict[str, list[nn.Module]], decoder: str) -> tuple[Vision | None, str]:
    """The vision tower; or none, and why, where the model has one in which nothing is found."""
    try:
        return _vision(model, stacks, decoder), ""
    except (UnsupportedModel, AttributeError) as error:
        return None, str(error)


def _vision(model: Any, stacks: dict[str, list[nn.Module]], decoder: str) -> Vision | None:
    config = getattr(model.config, "vision_config", None)
    if config is None or not stacks:
        return None
    layers = max(stacks, key=lambda path: (not any(w in path for w in NOT_A_TOWER), len(stacks[path])))
    base_path = ".".join(_shared(decoder.split("."), layers.split(".")))
    base = model.get_submodule(base_path)
    prefix = f"{base_path}." if base_path else ""
    tower_name = layers.removeprefix(prefix).split(".")[0]
    tower_path = f"{prefix}{tower_name}"
    tower = getattr(base, tower_name)
    projector, inside = _projector(base, prefix, tower, tower_path)
    embed = next((n for n in EMBEDDINGS if hasattr(tower, n)), None)
    style = "blocks" if layers.endswith(".blocks") else "encoder_layers"
    calls = [name for name, _ in forward_calls(base)]
    return Vision(
        path=tower_path,
        embed=f"{tower_path}.{embed}" if embed else None,
        stack=_stack(f"vision_encoder.{style}", layers, stacks[layers], config),
        projector=projector,
        projector_inside=inside,
        before_embed=_position(calls, "get_image_features") < _position(calls, "get_input_embeddings"),
        n_read=_layers_read(model.config, len(stacks[layers])),
    )


def _shared(one: list[str], other: list[str]) -> list[str]:
    """What two paths begin with together."""
    n = next((i for i, (a, b) in enumerate(zip(one, other, strict=False)) if a != b), min(len(one), len(other)))
    return one[:n]


def _layers_read(config: Any, n_layers: int) -> int:
    """How many vision layers feed the projector: LLaVA takes a hidden state from before the last layer."""
    chosen = getattr(config, "vision_feature_layer", None)
    if chosen is None:
        return n_layers
    states = [chosen] if isinstance(chosen, int) else list(chosen)
    return max(state if state >= 0 else n_layers + 1 + state for state in states)


def _projector(base: nn.Module, prefix: str, tower: nn.Module, tower_path: str) -> tuple[str | None, bool]:
    for name in PROJECTORS:
        if isinstance(getattr(base, name, None), nn.Module):
            return f"{prefix}{name}", False
        if isinstance(getattr(tower, name, None), nn.Module):
            return f"{tower_path}.{name}", True
    return None, False


def _position(calls: list[str], name: str) -> int:
    return next((i for i, call in enumerate(calls) if name in call), len(calls))
